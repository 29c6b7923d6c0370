"""Checkpoints: arrays, manifest, folders of steps, and writing in the background."""
