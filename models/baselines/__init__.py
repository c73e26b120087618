"""Baselines: the least that a skeleton model can be, to know what the others add."""
