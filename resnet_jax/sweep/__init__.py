"""Sweeps: every combination of some fields' values, a run each, one after another or several at a time."""
