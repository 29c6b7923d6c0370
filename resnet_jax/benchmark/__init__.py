"""The benchmark command: how fast a network trains or infers, against the machine's peak and against torch.

work.py is one network's step in JAX; torch_side.py is the same in torch and onnx_side.py in other runtimes, each in a
separate process (peers.py). profile.py measures where a step's time goes.
"""

import statistics
from pathlib import Path
from typing import Any

from resnet_jax.benchmark.peers import Peer, check_peers, measure_in_turn, open_peers
from resnet_jax.benchmark.profile import profile
from resnet_jax.benchmark.work import Work, matmul_flops_per_second
from resnet_jax.errors import UserError, check_choice
from resnet_jax.filesystem import check_folder
from resnet_jax.models.arguments import DTYPES
from resnet_jax.runtime import peak_memory, processor_name

__all__ = ["benchmark"]

FLOPS_PER_MAC = {"training": 6, "inference": 2}  # the two gradients cost what the forward pass costs, each


def benchmark(
    model: str,
    batch_size: int,
    image_size: int | tuple[int, int] | None = None,
    dtype: str = "float32",
    *,
    inference: bool = False,
    against: str | None = None,
    num_steps: int = 3,
    num_pairs: int = 7,
    profile_folder: Path | None = None,
) -> dict[str, Any]:
    """Returns the speed of a network's training step, or of its inference with batch norm folded, on images on the
    device.

    Args:
      model: a name of `list_models`, or "resnext_block" (ResNeXt's grouped bottleneck on 256 channels).
      image_size: pixels a side, or (height, width); None: the model's own.
      against: names of PEERS, separated by commas, to measure in turn, each in a separate process: "torch",
        "torch-autocast" and "torch-compile" with the better of two memory formats; "onnxruntime" and "openvino"; "xla",
        XLA's own convolutions. Each measurement takes `num_steps` steps; num_pairs of them.
      profile_folder: where a trace of three steps is written.

    Returns:
      "images_per_second" and "milliseconds" (medians over the measurements), "compile_seconds", "program_memory" and
        "peak_memory" in bytes, "macs" (of one image, forward), "share_of_matmul_peak" (of the multiply-adds per second
        that a 2048 x 2048 matrix product reaches here) and, if asked for, "peers": by name their own figures, "ratios"
        (its seconds by ours, turn by turn: above 1 we are faster) and "ratio", their median; of a single peer these
        two also beside the rest, and its figures under its name; "operations", the costliest.

    Raises:
      UserError: if something cannot be measured.
    """
    counts = {"batch_size": batch_size, "image_size": image_size, "num_pairs": num_pairs, "num_steps": num_steps}
    for name, value in counts.items():
        if value is not None and min(value if isinstance(value, tuple) else (value,)) < 1:
            raise UserError(f"{name}={value} must be at least 1")
    check_choice("dtype", dtype, DTYPES)
    if profile_folder is not None:
        check_folder(profile_folder)  # its errors, before anything is measured
    names = [name.strip() for name in against.split(",")] if against else []
    check_peers(names, model, dtype, inference=inference)
    mode = "inference" if inference else "training"
    work = Work.of(model, batch_size, image_size, dtype, inference=inference)
    with open_peers(names, model, batch_size, image_size, dtype, inference, num_steps) as peers:
        work.seconds_per_step(2)
        seconds, ratios = measure_in_turn(work, peers, num_steps, num_pairs)
        figures = {name: _figures(peer, batch_size, ratios[name]) for name, peer in peers.items()}
    median = statistics.median(seconds)
    peak = matmul_flops_per_second(dtype)
    result: dict[str, Any] = {
        "model": model,
        "mode": mode,
        "batch_size": batch_size,
        "image_size": work.image_size,
        "dtype": dtype,
        "processor": processor_name(),
        "convolutions": work.convolutions,
        "images_per_second": batch_size / median,
        "milliseconds": 1e3 * median,
        "compile_seconds": work.compile_seconds,
        "program_memory": work.program_memory,
        "peak_memory": peak_memory(),
        "macs": work.macs,
        "matmul_gflops": peak / 1e9,
        "share_of_matmul_peak": FLOPS_PER_MAC[mode] * work.macs * batch_size / median / peak,
    }
    if figures:
        result["peers"] = figures
    if len(figures) == 1:
        ((name, of_peer),) = figures.items()
        result |= {name: of_peer, "ratios": of_peer["ratios"], "ratio": of_peer["ratio"]}
    if profile_folder is not None:
        if inference:  # a network in one call has no separate operations
            work = Work.of(model, batch_size, image_size, dtype, inference=True, ready=False)
        result["operations"] = profile(work, profile_folder)
    return result


def _figures(peer: Peer, batch_size: int, ratios: list[float]) -> dict[str, Any]:
    median = statistics.median(peer.seconds)
    return {
        "version": peer.version,
        "variant": peer.variant,
        "images_per_second": batch_size / median,
        "milliseconds": 1e3 * median,
        "peak_memory": peer.peak_memory,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
    }
