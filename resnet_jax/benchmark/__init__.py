"""The benchmark command: how fast a network trains or infers, against the machine's peak and against torch.

work.py is one network's step in JAX, torch_side.py the same in torch, in a process of its own (torch_process.py),
profile.py where a step's time goes.
"""

import statistics
from pathlib import Path
from typing import Any

from resnet_jax.benchmark.profile import profile
from resnet_jax.benchmark.torch_process import TorchProcess, measure_in_turn
from resnet_jax.benchmark.work import Work, check_torch_has, matmul_flops_per_second, torch_spec
from resnet_jax.errors import UserError, check_choice
from resnet_jax.models.arguments import DTYPES
from resnet_jax.runtime import peak_memory

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
      against: None or "torch", which is then measured in turn, in a process of its own, with the better of its two
        memory formats. Each measurement takes `num_steps` steps; num_pairs of them.
      profile_folder: where a trace of three steps is written.

    Returns:
      "images_per_second" and "milliseconds" (medians over the measurements), "compile_seconds", "program_memory" and
        "peak_memory" in bytes, "macs" (of one image, forward), "share_of_matmul_peak" (of the multiply-adds per second
        that a 2048 x 2048 matrix product reaches here) and, if asked for, "torch" with its own figures, "ratios"
        (torch's seconds by ours, pair by pair: above 1 we are faster) and "ratio", their median; "operations", the
        costliest.

    Raises:
      UserError: for what cannot be measured.
    """
    counts = {"batch_size": batch_size, "image_size": image_size, "num_pairs": num_pairs, "num_steps": num_steps}
    for name, value in counts.items():
        if value is not None and min(value if isinstance(value, tuple) else (value,)) < 1:
            raise UserError(f"{name}={value} must be at least 1")
    check_choice("dtype", dtype, DTYPES)
    if against is not None:
        check_choice("against", against, ("torch",))
        check_torch_has(model)
    mode = "inference" if inference else "training"
    work = Work.of(model, batch_size, image_size, dtype, inference=inference)
    spec = torch_spec(model, batch_size, image_size, dtype, inference=inference)
    torch = TorchProcess({**spec, "num_steps": num_steps}) if against else None
    if torch is not None:
        torch.wait_until_warm()
    work.seconds_per_step(2)
    seconds, ratios = measure_in_turn(work, torch, num_steps, num_pairs)
    median = statistics.median(seconds)
    peak = matmul_flops_per_second(dtype)
    result: dict[str, Any] = {
        "model": model,
        "mode": mode,
        "batch_size": batch_size,
        "image_size": work.image_size,
        "dtype": dtype,
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
    if torch is not None:
        torch_median = statistics.median(torch.seconds)
        result["torch"] = {
            "version": torch.version,
            "variant": torch.variant,
            "images_per_second": batch_size / torch_median,
            "milliseconds": 1e3 * torch_median,
            "peak_memory": torch.peak_memory,
        }
        result["ratios"] = ratios
        result["ratio"] = statistics.median(ratios)
        torch.close()
    if profile_folder is not None:
        result["operations"] = profile(work, profile_folder)
    return result
