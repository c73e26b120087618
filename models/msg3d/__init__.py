"""MS-G3D (CVPR 2020)."""
