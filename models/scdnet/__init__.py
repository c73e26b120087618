"""SCD-Net (AAAI 2024)."""
