"""MAMP (ICCV 2023) and STARS."""
