"""Prints the package's log: a line each on standard error, as it comes."""

import logging
import sys

from resnet_jax.runtime import in_notebook


class StderrHandler(logging.Handler):
    """Prints each record on what is standard error at that time: `warning: …`, and what is no warning as it is.

    A notebook paints standard error red; what is no warning is on standard output there.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        stream = sys.stdout if not level and in_notebook() else sys.stderr
        print(f"{level}{record.getMessage()}", file=stream, flush=True)


def install_log_handler(*, unless_program_has_one: bool = False) -> None:
    """Has the logger `resnet_jax` print, unless it has a handler already.

    Args:
      unless_program_has_one: nor if the program has given the root logger one, or this one a level.
    """
    logger = logging.getLogger("resnet_jax")
    if unless_program_has_one and (logging.getLogger().handlers or logger.level):
        return
    if not logger.handlers:
        logger.addHandler(StderrHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False  # libraries give the root a handler too, which would print each line once more
