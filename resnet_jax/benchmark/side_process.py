"""A process that measures at the other end of a pipe: one JSON line for its task, one for each measurement."""

import json
import subprocess
import sys
from typing import Any

from resnet_jax.errors import UserError


class SideProcess:
    """`python -m module`, given `spec` on its first line of standard input; `about` is what it answers, warmed up."""

    def __init__(self, module: str, spec: dict[str, Any]):
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._module = module
        self.about = self._ask(json.dumps(spec))

    def measure(self) -> dict[str, Any]:
        """One measurement: its "seconds" and whatever else the module tells. Raises UserError if the process ended."""
        return self._ask("go")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, line: str) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(line + "\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise UserError(f"{self._module} ended with exit code {self._process.wait()}; its message is above")
        return json.loads(answer)
