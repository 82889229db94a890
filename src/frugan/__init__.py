"""frugan: image GANs that cost little data, little training and little compute."""

__version__ = "0.1.0"
