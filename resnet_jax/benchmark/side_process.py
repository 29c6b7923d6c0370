"""A process that measures at the other end of a pipe: one JSON line for its task, one for each measurement."""

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from resnet_jax.errors import UserError


class SideProcess:
    """Python with some words, `-m module` or a script, given `spec` on its first line of standard input.

    It prepares while this process goes on: `about` waits for its answer, which comes when it is warm.
    """

    def __init__(self, words: Sequence[str], spec: dict[str, Any]):
        self._process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._name = words[-1]
        self._send(json.dumps(spec))

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """Its first answer.

        Raises:
          UserError: if the process ended.
        """
        return self._receive()

    def wait_until_warm(self) -> None:
        """Waits until it has prepared: until then it takes time from whatever else is measured."""
        assert self.about is not None

    def measure(self) -> dict[str, Any]:
        """Returns one measurement: its "seconds" and whatever else the module reports.

        Raises:
          UserError: if the process ended.
        """
        self.wait_until_warm()
        self._send("go")
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and what was last said to it waits yet
            self._process.stdin.close()
        self._process.wait()

    def _send(self, line: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: what is read next says so
            stdin.write(line + "\n")
            stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise UserError(f"{self._name} ended with exit code {self._process.wait()}; its message is above")
        return json.loads(answer)
