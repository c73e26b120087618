"""FreqMixFormer (ACM MM 2024)."""
