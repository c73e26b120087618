"""FS-VAE: a frequency-semantic variational autoencoder for zero-shot recognition of skeleton actions."""
