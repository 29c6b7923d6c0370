"""The preview command: a picture of a batch as the network sees it."""

import argparse

from resnet_jax.cli.options import AddCommand
from resnet_jax.cli.printing import print_result
from resnet_jax.cli.usage import ANY_FIELD
from resnet_jax.filesystem import expand


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    preview = add("preview", run_preview, "a picture of a batch as the network sees it",
                  "python -m resnet_jax preview --config digits --to batch.png")  # fmt: skip
    preview.add_argument("--config", required=True, metavar="NAME|PATH", help="a config file, or its name in configs/")
    preview.add_argument("--to", default="batch.png", metavar="PATH", help="the picture (default: batch.png)")
    preview.add_argument("--split", default="train", metavar="NAME", help="train (default), validation or test")
    preview.add_argument("--step", type=int, default=0, metavar="N", help="which batch, from 0 (default: 0)")
    preview.add_argument("--num_images", type=int, default=32, metavar="N", help="of the batch (default: 32)")
    preview.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    preview.add_argument(ANY_FIELD, dest="ignored", metavar="VALUE", help="set a field, as for train")


def run_preview(arguments: argparse.Namespace) -> int:
    """Writes a picture of a batch as the network sees it."""
    from resnet_jax.config import load_config
    from resnet_jax.inference.preview import preview
    from resnet_jax.training.experiment import options_of

    result = preview(
        options_of(load_config(arguments.config, arguments.overrides)),
        expand(arguments.to),
        split=arguments.split,
        step=arguments.step,
        num_images=arguments.num_images,
    )
    return print_result(result, as_json=arguments.json)
