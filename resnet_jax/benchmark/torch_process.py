"""The process in which torch does the same work."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

from resnet_jax.errors import UserError


class TorchProcess:
    """torch_side.py at the other end of a pipe, warmed up; `seconds` are its measurements so far.

    spec: see `Work.torch_spec`, with "num_steps" a measurement. Raises UserError (a ValueError) if torch is missing.
    """

    def __init__(self, spec: dict[str, Any]):
        if not _is_installed("torch"):
            raise UserError("--against torch needs torch in this environment: pip install torch")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "resnet_jax.benchmark.torch_side"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.seconds: list[float] = []
        self.peak_memory = 0
        about = self._ask(json.dumps(spec))
        self.version, self.memory_format = about["version"], about["memory_format"]

    def seconds_per_step(self) -> float:
        """One measurement."""
        answer = self._ask("go")
        self.seconds.append(answer["seconds"])
        self.peak_memory = answer["peak_memory"]
        return answer["seconds"]

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
            raise UserError(f"torch's process ended with exit code {self._process.wait()}; its message is above")
        return json.loads(answer)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # blocked in sys.modules
        return False
