"""The benchmark command: calls what measures, prints what it returns."""

import argparse

import jax

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import AddCommand, image_size
from resnet_jax.cli.printing import print_result
from resnet_jax.filesystem import expand


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    benchmark = add("benchmark", run_benchmark, "speed and memory of a network, also against torch",
                    "python -m resnet_jax benchmark --model resnet20 --against torch")  # fmt: skip
    benchmark.usage = "%(prog)s [options]"
    benchmark.add_argument("--model", default="resnet20", metavar="NAME", help="a model, or resnext_block")
    benchmark.add_argument("--batch_size", type=int, default=128, metavar="N", help="default: 128")
    benchmark.add_argument(
        "--image_size", type=image_size, metavar="SIZE", help="side, or 64x96 (default: the model's)"
    )
    benchmark.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (default), bfloat16, float64")
    benchmark.add_argument("--inference", action="store_true", help="inference, batch norm folded, instead of training")
    benchmark.add_argument("--against", metavar="torch", help="measure torch in turn")
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
    torch = result.pop("torch", {})
    result.update({f"torch {key}": value for key, value in torch.items()})
    if torch:
        ratios, result["ratio"] = result.pop("ratios"), result.pop("ratio")
        result["ratios"] = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print_result(result, as_json=False)
    if operations:
        print("\n      ms   share  operation                       place")
        for row in operations:
            print(f"{row['milliseconds']:8.2f}  {row['share']:6.1%}  {row['operation']:<30}  {row['place']}")
    return EXIT_DONE
