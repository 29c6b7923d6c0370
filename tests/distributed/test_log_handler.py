"""Checks that commands print the package's log once, and that a program which imports it controls the log."""

import subprocess
import sys

CODE = """
import logging, sys
from resnet_jax.distributed.processes import log, warn

{before}
log("a line")
warn("beware")
"""


def printed(before):
    words = [sys.executable, "-c", CODE.format(before=before)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stderr.splitlines()


def test_commands_print_each_line_once_whatever_handlers_a_library_adds():
    handler = "from resnet_jax.distributed.log_handler import install_log_handler; install_log_handler()"
    before = f"{handler}; logging.basicConfig()"
    assert printed(before) == ["a line", "warning: beware"]


def test_a_program_may_silence_or_stamp_every_line():
    assert printed("") == ["beware"]  # Python's own, of warnings
    assert printed("logging.getLogger('resnet_jax').setLevel(logging.CRITICAL)") == []
    stamped = printed("logging.basicConfig(format='%(levelname)s %(message)s', level=logging.INFO)")
    assert stamped == ["INFO a line", "WARNING beware"]
