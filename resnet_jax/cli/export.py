"""The export command: exports, and prints the result."""

import argparse

from resnet_jax.cli.options import AddCommand, add_trained_options, check_model_options, image_size, open_trained
from resnet_jax.cli.printing import print_result
from resnet_jax.filesystem import expand


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    export = add("export", run_export, "a network for inference in one file, StableHLO or ONNX",
                 "python -m resnet_jax export --workdir runs/digits --to digits.onnx")  # fmt: skip
    export.usage = "%(prog)s --workdir DIR --to PATH [options]\n   or: %(prog)s --weights PATH --to PATH [options]"
    add_trained_options(export)
    export.add_argument("--to", required=True, metavar="PATH", help="model.stablehlo or model.onnx")
    export.add_argument("--image_size", type=image_size, metavar="PIXELS", help="side, or 64x96 (default: the model's)")
    export.add_argument("--preprocessing", action="store_true", help="take uint8 images: normalise in the network")
    export.add_argument("--channels_first", action="store_true", help="take (batch, C, H, W), as PyTorch and OpenCV")
    export.add_argument("--json", action="store_true", help="print one JSON object")


def run_export(arguments: argparse.Namespace) -> int:
    """Writes a network for inference into one file."""
    check_model_options(arguments)
    target = expand(arguments.to)
    from resnet_jax.inference.export import check_export, export

    check_export(target)
    trained = open_trained(arguments, judges=arguments.preprocessing)
    result = export(
        trained,
        target,
        preprocessing=arguments.preprocessing,
        image_size=arguments.image_size,
        channels_first=arguments.channels_first,
    )
    return print_result(result, arguments.json)
