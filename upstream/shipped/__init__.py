"""Weights, digest, card and log of the pretrained model in this package."""
