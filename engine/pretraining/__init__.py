"""Learning without labels: what an objective is, what several of them share, and how a run goes."""

COLLAPSED = 0.05
"""Spread of features below which an encoder is said to have collapsed: untrained ones have 0.1 to 0.9."""
