"""The summary command."""

import argparse

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import AddCommand, image_size
from resnet_jax.cli.printing import print_result, print_table


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    summary = add("summary", run_summary, "shapes, parameters and MACs of a model",
                  "python -m resnet_jax summary --model resnet50")  # fmt: skip
    summary.add_argument("--model", required=True, metavar="NAME", help="a name of the list command")
    summary.add_argument(
        "--image_size", type=image_size, metavar="PIXELS", help="side, or 64x96 (default: the model's)"
    )
    summary.add_argument("--json", action="store_true", help="print one JSON object")


def run_summary(arguments: argparse.Namespace) -> int:
    """Prints the shapes, parameters and MACs of a model."""
    from resnet_jax.models.summary import summarize

    result = summarize(arguments.model, arguments.image_size)
    if arguments.json:
        return print_result(result, as_json=True)
    print_table([
        ("model", result["model"]),
        *((name, " x ".join(map(str, shape))) for name, shape in result["shapes"].items()),
        ("parameters", f"{result['parameters']:,}"),
        ("statistics", f"{result['statistics']:,}"),
        ("MACs", f"{result['macs']:,} ({result['macs'] / 1e9:.3f} G)"),
    ])  # fmt: skip
    return EXIT_DONE
