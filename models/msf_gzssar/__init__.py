"""MSF-GZSSAR (ICIG 2023): multi-semantic fusion for zero-shot recognition of skeleton actions."""
