"""The process in which torch does the same work."""

import importlib.util
from collections.abc import Sequence
from typing import Any

from resnet_jax.benchmark.side_process import SideProcess
from resnet_jax.benchmark.work import Work
from resnet_jax.errors import UserError


class TorchProcess:
    """torch_side.py at the other end of a pipe; `seconds` are its measurements so far.

    Attributes:
      spec: see `Work.torch_spec`, with "num_steps" a measurement.
      variants: of which the fastest is measured, each as `make_step` of torch_side.py takes it.
      device: "cpu" or "cuda".

    Raises:
      UserError: if torch is missing.
    """

    def __init__(
        self, spec: dict[str, Any], variants: Sequence[str] = ("contiguous", "channels-last"), device: str = "cpu"
    ):
        if not is_installed("torch"):
            raise UserError("--against torch needs torch in this environment: pip install torch")
        spec = {**spec, "variants": list(variants), "device": device}
        self._process = SideProcess(["-m", "resnet_jax.benchmark.torch_side"], spec)
        self.seconds: list[float] = []
        self.peak_memory = 0

    @property
    def version(self) -> str:
        """Torch's."""
        return self._process.about["version"]

    @property
    def variant(self) -> str:
        """The fastest variant, which is measured."""
        return self._process.about["variant"]

    def wait_until_warm(self) -> None:
        """Waits until it has prepared, and chosen its fastest variant."""
        self._process.wait_until_warm()

    def seconds_per_step(self) -> float:
        """Returns one measurement."""
        answer = self._process.measure()
        self.seconds.append(answer["seconds"])
        self.peak_memory = answer["peak_memory"]
        return answer["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self._process.close()


def measure_in_turn(
    work: Work, torch: TorchProcess | None, num_steps: int, num_pairs: int
) -> tuple[list[float], list[float]]:
    """Measures our step, and after each measurement torch's, where there is torch.

    Returns:
      Our seconds per step, and torch's by ours, pair by pair: above 1 we are faster; none without torch.
    """
    seconds, ratios = [], []
    for _ in range(num_pairs):
        seconds.append(work.seconds_per_step(num_steps))
        if torch is not None:
            ratios.append(torch.seconds_per_step() / seconds[-1])
    return seconds, ratios


def is_installed(module: str) -> bool:
    """Returns whether `module` can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # blocked in sys.modules
        return False
