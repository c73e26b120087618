"""Skeleton-Contrastive (ACM MM 2021)."""
