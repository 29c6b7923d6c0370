"""Compares our convolutions with XLA's on the processors that others have: one network a family, a process each.

    python benchmarks/processors.py --instruction_sets AVX2 AVX

Caps oneDNN to an instruction set (`ONEDNN_MAX_CPU_ISA`; XLA keeps the machine's own), infers a batch by each network
with conv_impl="auto" and "xla", and takes the gradient of two, their batch norms frozen: by statistics of a small batch
rounding alone moves ResNeXt-50's gradients by 2 %. Prints for each the largest difference by the largest value, and the
medians of the seconds, measured in turn. Exits with 1 if one is not equal to rounding.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial

FAMILIES = (
    "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "resnet50d", "seresnet50", "resnetv2_50", "plain18",
    "resnet20", "cifar_resnet18", "preact_resnet20", "wrn16_8",
)  # fmt: skip
TRAINED = ("resnet20", "resnext50_32x4d")
INSTRUCTION_SETS = ("SSE41", "AVX", "AVX2", "AVX512_CORE", "AVX512_CORE_BF16")
TOLERANCE = 1e-4  # float32, through up to fifty layers


def measure(name: str, num_repeats: int, batch_size: int) -> dict:
    """Infers by both implementations, and for some networks differentiates; see the file's first lines."""
    import jax
    import jax.numpy as jnp

    from resnet_jax import create_model
    from resnet_jax.models.variants import default_image_size

    size = default_image_size(name)
    images = jax.random.normal(jax.random.key(0), (batch_size, size, size, 3))
    variables = jax.jit(partial(create_model(name).init, train=False))(jax.random.key(1), images)

    def infer(model, variables):
        return model.apply(variables, images, train=False)

    def differentiate(model, variables):
        def loss(params):
            logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return jnp.mean(jnp.square(logits))

        return jax.grad(loss)(variables["params"])

    result = {}
    for work, function in (("infer", infer), ("train", differentiate)):
        if work == "train" and name not in TRAINED:
            continue
        options = {"batch_norm": "frozen"} if work == "train" else {}
        compiled = {
            impl: jax.jit(partial(function, create_model(name, conv_impl=impl, **options))).lower(variables).compile()
            for impl in ("auto", "xla")
        }
        seconds = {impl: [] for impl in compiled}
        for _ in range(num_repeats + 1):
            outputs = {}
            for impl, run in compiled.items():
                start = time.perf_counter()
                outputs[impl] = jax.block_until_ready(run(variables))
                seconds[impl].append(time.perf_counter() - start)
        leaves = [jax.tree.leaves(outputs[impl]) for impl in ("auto", "xla")]
        scale = max(float(jnp.abs(leaf).max()) for leaf in leaves[1])
        difference = max(float(jnp.abs(a - b).max()) for a, b in zip(*leaves, strict=True)) / scale
        medians = {impl: sorted(values[1:])[num_repeats // 2] for impl, values in seconds.items()}
        result[work] = {"difference": difference, **medians}
    return result


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--instruction_sets", nargs="+", default=list(INSTRUCTION_SETS))
    parser.add_argument("--models", nargs="+", default=list(FAMILIES))
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.repeats, arguments.batch_size)))
        return 0
    num_bad = 0
    print("| instruction set | network | work | difference | ours, ms | XLA's, ms | XLA's by ours |")
    print("|---|---|---|---|---|---|---|")
    for instruction_set in arguments.instruction_sets:
        for name in arguments.models:
            command = [sys.executable, __file__, "--measure", name, "--repeats", str(arguments.repeats)]
            command += ["--batch_size", str(arguments.batch_size)]
            environment = {**os.environ, "JAX_PLATFORMS": "cpu", "ONEDNN_MAX_CPU_ISA": instruction_set}
            process = subprocess.run(command, env=environment, capture_output=True, text=True)
            if process.returncode:
                num_bad += 1
                print(f"| {instruction_set} | {name} | exit {process.returncode} | {process.stderr[-200:]!r} | | | |")
                continue
            for work, numbers in json.loads(process.stdout).items():
                ours, xla, difference = numbers["auto"], numbers["xla"], numbers["difference"]
                num_bad += not difference <= TOLERANCE
                print(
                    f"| {instruction_set} | {name} | {work} | {difference:.1e} | {1e3 * ours:.1f} | {1e3 * xla:.1f} | "
                    f"{xla / ours:.2f} |",
                    flush=True,
                )
    return int(num_bad > 0)


if __name__ == "__main__":
    sys.exit(main())
