"""The others that do the same work: torch in three ways, ONNX Runtime, OpenVINO, and XLA's own convolutions."""

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from resnet_jax.benchmark.side_process import SideProcess
from resnet_jax.benchmark.work import Side, Work, check_torch_has, to_onnx_file, torch_spec
from resnet_jax.errors import UserError, check_choice

# By name: the variants of which the fastest is measured, see `make_step` of torch_side.py.
TORCH_VARIANTS = {
    "torch": ("contiguous", "channels-last"),
    "torch-autocast": ("contiguous autocast", "channels-last autocast"),
    "torch-compile": ("contiguous compile", "channels-last compile"),
}
RUNTIMES = ("onnxruntime", "openvino")
PEERS = (*TORCH_VARIANTS, *RUNTIMES, "xla")


class Peer(Protocol):
    """One that does the same work: `seconds` are its measurements so far."""

    seconds: list[float]
    peak_memory: int

    @property
    def version(self) -> str:
        """Its own."""

    @property
    def variant(self) -> str:
        """How it does the work."""

    def wait_until_warm(self) -> None:
        """Waits until it has prepared."""

    def seconds_per_step(self) -> float:
        """Returns one measurement."""

    def close(self) -> None:
        """Ends it."""


class ProcessPeer:
    """A module that measures at the other end of a pipe.

    Attributes:
      module: torch_side or onnx_side, whose specification `spec` is.
    """

    def __init__(self, module: str, spec: dict[str, Any]) -> None:
        self._process = SideProcess(["-m", f"resnet_jax.benchmark.{module}"], spec)
        self.seconds: list[float] = []
        self.peak_memory = 0

    @property
    def version(self) -> str:
        """Returns the version of the library that measures."""
        return self._process.about["version"]

    @property
    def variant(self) -> str:
        """Returns how the work is done: of several ways the fastest."""
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


class XlaPeer:
    """The same program with XLA's own convolutions, in this process."""

    def __init__(self, work: Work, num_steps: int) -> None:
        self._work, self._num_steps = work, num_steps
        self.seconds: list[float] = []
        self.peak_memory = 0
        self.version, self.variant = _jax_version(), "XLA's convolutions"

    def wait_until_warm(self) -> None:
        """Runs it twice."""
        self._work.seconds_per_step(2)

    def seconds_per_step(self) -> float:
        """Returns one measurement."""
        self.seconds.append(self._work.seconds_per_step(self._num_steps))
        return self.seconds[-1]

    def close(self) -> None:
        """Does nothing."""


def torch_process(
    spec: dict[str, Any], variants: Sequence[str] = TORCH_VARIANTS["torch"], device: str = "cpu"
) -> ProcessPeer:
    """Returns torch_side.py at the other end of a pipe.

    Args:
      spec: see `torch_spec`, with "num_steps" a measurement.
      variants: of which the fastest is measured, each as `make_step` of torch_side.py takes it.
      device: "cpu" or "cuda".

    """
    return ProcessPeer("torch_side", {**spec, "variants": list(variants), "device": device})


def check_peers(names: Sequence[str], model: str, dtype: str, *, inference: bool) -> None:
    """Raises UserError (a ValueError) for a name that is none, a peer that is missing, and work that it cannot do."""
    for name in names:
        check_choice("against", name, PEERS)
        if name in TORCH_VARIANTS:
            check_torch_has(model)
            if name == "torch-autocast" and dtype != "bfloat16":
                raise UserError("--against torch-autocast computes in bfloat16: give --dtype bfloat16")
            _check_installed("torch", name)
        elif name in RUNTIMES:
            _check_runtime(name, dtype, inference=inference)


@contextlib.contextmanager
def open_peers(
    names: Sequence[str],
    model: str,
    batch_size: int,
    image_size: Side | None,
    dtype: str,
    inference: bool,
    num_steps: int,
) -> Iterator[dict[str, Peer]]:
    """Yields the peers of these names, which do the named network's work, warm; they end with the context."""
    peers: dict[str, Peer] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in names:
                if name in TORCH_VARIANTS:
                    spec = torch_spec(model, batch_size, image_size, dtype, inference=inference)
                    peers[name] = torch_process({**spec, "num_steps": num_steps}, TORCH_VARIANTS[name])
                elif name == "xla":
                    work = Work.of(model, batch_size, image_size, dtype, inference=inference, conv_impl="xla")
                    peers[name] = XlaPeer(work, num_steps)
                else:
                    path = Path(folder, "network.onnx")
                    input_shape = to_onnx_file(model, batch_size, image_size, path)
                    peers[name] = ProcessPeer("onnx_side", {
                        "runtime": name, "path": str(path), "input_shape": input_shape, "dtype": dtype,
                        "num_steps": num_steps,
                    })  # fmt: skip
                peers[name].wait_until_warm()  # one after another: each takes all cores
            yield peers
        finally:
            for peer in peers.values():
                peer.close()


def _check_runtime(name: str, dtype: str, *, inference: bool) -> None:
    if not inference:
        raise UserError(f"--against {name} infers only: give --inference")
    if dtype not in (("float32",) if name == "onnxruntime" else ("float32", "bfloat16")):
        raise UserError(f"--against {name} does not compute in {dtype} on the CPU")
    _check_installed(name, name)
    _check_installed("onnx", name)


def _check_installed(module: str, peer: str) -> None:
    if not is_installed(module):
        raise UserError(f"--against {peer} needs {module} in this environment: pip install {module}")


def _jax_version() -> str:
    import jax

    return jax.__version__


def measure_in_turn(
    work: Work, peers: dict[str, Peer], num_steps: int, num_turns: int
) -> tuple[list[float], dict[str, list[float]]]:
    """Measures our step, and after each measurement every peer's.

    Returns:
      Our seconds per step, and by peer its seconds by ours, turn by turn: above 1 we are faster.
    """
    seconds: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(num_turns):
        seconds.append(work.seconds_per_step(num_steps))
        for name, peer in peers.items():
            ratios[name].append(peer.seconds_per_step() / seconds[-1])
    return seconds, ratios


def is_installed(module: str) -> bool:
    """Returns whether `module` can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # blocked in sys.modules
        return False
