"""Comparing runs: what differs between them, and what came out."""
