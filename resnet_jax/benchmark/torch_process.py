"""The process in which torch does the same work."""

import importlib.util
from typing import Any

from resnet_jax.benchmark.side_process import SideProcess
from resnet_jax.errors import UserError


class TorchProcess:
    """torch_side.py at the other end of a pipe, warmed up; `seconds` are its measurements so far.

    spec: see `Work.torch_spec`, with "num_steps" a measurement. Raises UserError (a ValueError) if torch is missing.
    """

    def __init__(self, spec: dict[str, Any]):
        if not is_installed("torch"):
            raise UserError("--against torch needs torch in this environment: pip install torch")
        self._process = SideProcess("resnet_jax.benchmark.torch_side", spec)
        self.seconds: list[float] = []
        self.peak_memory = 0
        self.version, self.memory_format = self._process.about["version"], self._process.about["memory_format"]

    def seconds_per_step(self) -> float:
        """One measurement."""
        answer = self._process.measure()
        self.seconds.append(answer["seconds"])
        self.peak_memory = answer["peak_memory"]
        return answer["seconds"]

    def close(self) -> None:
        """End the process."""
        self._process.close()


def is_installed(module: str) -> bool:
    """Whether `module` can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # blocked in sys.modules
        return False
