"""Compiles the training step for an H100 on a machine without one, and counts the bytes that its kernels move.

    pip install "jax-cuda12-plugin==0.10.2" "jax-cuda12-pjrt==0.10.2"      of jax's own version; no CUDA needed
    python benchmarks/compiled_for_gpu.py --model resnet50 --batch_size 256 --to step.txt

Which operations XLA fuses into one kernel is settled by the card's description alone. Convolutions are cuDNN's, of
which nothing is chosen or timed here. A kernel is taken to read each operand and to write its result once; of an
operand that it slices, what it takes. Prints the number of kernels and their bytes by kind; floor.py says how few would
do.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

# XLA's GpuTargetConfigProto of an H100 SXM: what CUDA says of it.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448 registers_per_core_limit: 65536
  registers_per_block_limit: 65536 cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
ITEMSIZES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "u32": 4, "s32": 4, "f32": 4, "u64": 8, "s64": 8}
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")
KINDS = {"kLoop": "elementwise", "kInput": "reductions", "copy": "copies"}
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*?\) -> .*? \{\n(.*?)^\}", re.M | re.S)
INSTRUCTION = re.compile(r"^  (?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(?:, |$)", re.M)


class Kernel(NamedTuple):
    """One kernel: its instruction, what kind it is, where in the model it belongs, and the bytes that it moves."""

    name: str
    kind: str
    place: str
    num_bytes: int


def kernels(program: str) -> list[Kernel]:
    """The kernels of a compiled program, in the text that XLA writes of it."""
    found = list(COMPUTATION.finditer(program))
    bodies = {computation[1]: computation[2] for computation in found}
    entry = next(computation[2] for computation in found if computation[0].startswith("ENTRY"))
    types: dict[str, str] = {}
    result = []
    for line in entry.splitlines():
        match = INSTRUCTION.match(line)
        if match is None:
            continue
        name, written, operation, operands = match.groups()
        types[name] = written
        if operation in FREE:
            continue
        read = [num_bytes(types[operand]) for operand in re.findall(r"%([\w.\-]+)", operands) if operand in types]
        fused = bodies.get(_after("calls=%", line), "")
        if " slice(" in fused and not re.search(r" (reduce|reduce-window|pad|scatter)\(", fused):
            read = [min(size, num_bytes(written)) for size in read]
        kind = "convolutions" if "__cudnn$conv" in line else KINDS.get(_after("kind=", line) or operation, "other")
        place = re.search(r'op_name="([^"]*)"', line)
        result.append(Kernel(name, kind, place[1] if place else "", sum(read) + num_bytes(written)))
    return result


def num_bytes(written: str) -> int:
    """Bytes of the arrays in a type, as `(f32[2,3]{1,0}, bf16[4]{0})`."""
    total = 0
    for element, shape in re.findall(r"(\w+)\[([\d,]*)\]", written):
        size = ITEMSIZES[element]
        for length in filter(None, shape.split(",")):
            size *= int(length)
        total += size
    return total


def _after(word: str, line: str) -> str:
    found = re.search(re.escape(word) + r"([\w.\-]+)", line)
    return found[1] if found else ""


def compiled_step(model: str, batch_size: int, image_size: int | None, dtype: str) -> str:
    """The training step of the benchmarks compiled for an H100, as text."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.devices()  # finds the plugins
    from jax.experimental import topologies
    from step_cost import lower_step, make_experiment, step_config

    from resnet_jax.data.sources import Splits
    from resnet_jax.models import default_image_size
    from resnet_jax.training.experiment import build_experiment, options_of

    device = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", target_config=H100, topology="1x1x1"
    ).devices[0]
    image_size = image_size or default_image_size(model)
    config = step_config(model, batch_size, image_size, dtype, {})
    source = make_experiment(config, 1).batches.source
    experiment = build_experiment(options_of(config), [device], Splits(source, None, None))
    return lower_step(experiment).compile(compiler_options={"xla_gpu_autotune_level": 0}).as_text()


def main() -> int:
    """Prints kernels and gigabytes by kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--image_size", type=int, help="default: the model's own")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--to", type=Path, help="a file for the program's text")
    parser.add_argument("--largest", type=int, default=0, help="how many of the largest kernels to list")
    arguments = parser.parse_args()
    program = compiled_step(arguments.model, arguments.batch_size, arguments.image_size, arguments.dtype)
    if arguments.to:
        arguments.to.write_text(program)
    found = kernels(program)
    print(f"{'kind':<14}{'kernels':>8}{'GB':>10}")
    for kind in [*sorted({kernel.kind for kernel in found}), "all"]:
        chosen = [kernel for kernel in found if kind in ("all", kernel.kind)]
        print(f"{kind:<14}{len(chosen):8}{1e-9 * sum(kernel.num_bytes for kernel in chosen):10.2f}")
    for kernel in sorted(found, key=lambda kernel: -kernel.num_bytes)[: arguments.largest]:
        print(f"{1e-6 * kernel.num_bytes:8.0f} MB  {kernel.kind:<14}{kernel.name:<36}{kernel.place[-80:]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
