"""Warnings: one line on standard error, however many processes run."""

import functools
import sys

import jax


def warn(text: str) -> None:
    """Print a warning, in process 0 alone."""
    if jax.process_index() == 0:
        print(f"warning: {text}", file=sys.stderr, flush=True)


@functools.cache
def warn_once(text: str) -> None:
    """Print a warning that this process has not printed yet, in process 0 alone."""
    warn(text)
