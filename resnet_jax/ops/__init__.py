"""Convolutions, and their programs' needs of the process; nothing about networks."""
