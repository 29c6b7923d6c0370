"""The benchmark command: measures, and prints the result."""

import argparse

import jax

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import AddCommand, image_size
from resnet_jax.cli.printing import print_result
from resnet_jax.filesystem import expand


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    benchmark = add("benchmark", run_benchmark, "speed and memory of a network, also against others",
                    "python -m resnet_jax benchmark --model resnet20 --against torch")  # fmt: skip
    benchmark.usage = "%(prog)s [options]"
    benchmark.add_argument("--model", default="resnet20", metavar="NAME", help="a model, or resnext_block")
    benchmark.add_argument("--batch_size", type=int, default=128, metavar="N", help="default: 128")
    benchmark.add_argument(
        "--image_size", type=image_size, metavar="SIZE", help="side, or 64x96 (default: the model's)"
    )
    benchmark.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (default), bfloat16, float64")
    benchmark.add_argument("--inference", action="store_true", help="inference, batch norm folded, instead of training")
    benchmark.add_argument(
        "--against",
        metavar="NAMES",
        help="measure in turn: torch, torch-autocast, torch-compile, onnxruntime, openvino, xla",
    )
    benchmark.add_argument("--pairs", type=int, default=7, metavar="N", help="measurements of each (default: 7)")
    benchmark.add_argument("--steps", type=int, metavar="N", help="steps in each (default: 3)")
    benchmark.add_argument("--profile", metavar="DIR", help="write a trace there and list the costliest operations")
    benchmark.add_argument("--json", action="store_true", help="print one JSON object")


def run_benchmark(arguments: argparse.Namespace) -> int:
    """Prints the speed and memory of a network."""
    if arguments.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    from resnet_jax.benchmark import benchmark

    result = benchmark(
        arguments.model,
        arguments.batch_size,
        arguments.image_size,
        arguments.dtype,
        inference=arguments.inference,
        against=arguments.against,
        num_steps=arguments.steps or 3,
        num_pairs=arguments.pairs,
        profile_folder=expand(arguments.profile) if arguments.profile else None,
    )
    if arguments.json:
        return print_result(result, as_json=True)
    operations = result.pop("operations", [])
    peers = result.pop("peers", {})
    for name in (*peers, "ratios", "ratio"):
        result.pop(name, None)
    print_result(result, as_json=False)
    if peers:
        print("\nagainst              ms   ratio  from - to      memory  how")
    for name, row in peers.items():
        ratios = row["ratios"]
        memory = f"{row['peak_memory'] / 2**20:.0f} MiB" if row["peak_memory"] else "-"
        print(
            f"{name:<15} {row['milliseconds']:8.2f}  {row['ratio']:6.2f}  {min(ratios):.2f} - {max(ratios):.2f}  "
            f"{memory:>9}  {row['variant']}, {row['version']}"
        )
    if operations:
        print("\n      ms   share  operation                       place")
        for row in operations:
            print(f"{row['milliseconds']:8.2f}  {row['share']:6.1%}  {row['operation']:<30}  {row['place']}")
    return EXIT_DONE
