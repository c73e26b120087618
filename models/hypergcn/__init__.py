"""Hyper-GCN (ICCV 2025)."""
