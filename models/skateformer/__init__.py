"""SkateFormer (ECCV 2024)."""
