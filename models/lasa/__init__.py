"""LaSA and DeST: temporal segmentation of skeleton sequences."""
