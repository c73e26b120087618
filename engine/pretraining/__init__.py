"""Learning without labels: what an objective is, what several of them share, and how a run goes."""
