"""Transforms images: on the host as they are decoded, and inside jit (augment.py)."""
