"""Temporal segmentation: a class for every frame of an untrimmed sequence."""
