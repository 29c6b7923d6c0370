"""Compares runs: their differences, and their results."""
