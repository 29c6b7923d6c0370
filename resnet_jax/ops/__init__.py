"""Convolutions, and what their programs need of the process: nothing of networks."""
