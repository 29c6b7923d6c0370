"""The convert command: weights from one format into another, and the report on them."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import (
    AddCommand,
    add_checkpoint_options,
    add_model_options,
    given_adjustment,
    given_model_args,
)
from resnet_jax.cli.printing import print_result, print_table
from resnet_jax.errors import UserError, abridge, truncate
from resnet_jax.filesystem import expand

if TYPE_CHECKING:
    from resnet_jax.weights.state_dict import RunCheckpoint

NO_PREPROCESS = "none (--preprocess, or --mean and --std, attach it to a folder or .safetensors file)"


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    convert = add("convert", run_convert, "weights of torch, timm, transformers to ours and back",
                  "python -m resnet_jax convert --model resnet18 --from resnet18.pth --to weights/r18")  # fmt: skip
    convert.usage = "%(prog)s --from PATH --to PATH [options]\n   or: %(prog)s --pretrained TAG --to PATH [options]"
    convert.add_argument(
        "--from", dest="source", metavar="PATH", help="weights of any framework, a folder, or timm/NAME of the hub"
    )
    convert.add_argument(
        "--pretrained", metavar="TAG", help="instead: torchvision's, IMAGENET1K_V1 or _V2, downloaded once"
    )
    add_checkpoint_options(convert)
    convert.add_argument(
        "--to",
        required=True,
        metavar="PATH",
        help=".safetensors, .pth (needs torch), or a folder, of --layout timm or transformers for them",
    )
    convert.add_argument("--prefix", metavar="NAME", help="of the network meant, where there are several")
    convert.add_argument("--use", choices=("weights", "ema"), help="where there are both (default: weights)")
    convert.add_argument("--bgr", action="store_true", help="the network takes blue first, as detectron2's do")
    convert.add_argument(
        "--head", choices=("strict", "reset"), default="strict", help="reset: a new one (default: strict)"
    )
    convert.add_argument(
        "--layout",
        default="torchvision",
        metavar="NAME",
        help="to write: torchvision (default), timm, transformers, akamaster, tutorial; to read unknown names: "
        "structure",
    )
    convert.add_argument("--preprocess", metavar="NAME", help="attach IMAGENET1K_V1, IMAGENET1K_V2 or CIFAR")
    add_model_options(convert)
    convert.add_argument("--json", action="store_true", help="print one JSON object")


def run_convert(arguments: argparse.Namespace) -> int:
    """Brings weights from one format into another."""
    from resnet_jax.weights.convert import convert
    from resnet_jax.weights.state_dict import STRUCTURE, Choice

    if (arguments.source is None) == (arguments.pretrained is None):
        raise UserError("give either --from, a file or checkpoint directory, or --pretrained, a published tag")
    if arguments.pretrained is not None and (arguments.checkpoint is not None or arguments.no_average):
        raise UserError("--checkpoint and --no_average belong to a run's folder: leave them out with --pretrained")
    if (arguments.mean is None) != (arguments.std is None):
        raise UserError("--mean and --std belong together: give both")
    source, by_structure = _source(arguments), arguments.layout == STRUCTURE
    result = convert(
        source,
        expand(arguments.to),
        model_name=arguments.model,
        model_args=given_model_args(arguments),
        head=arguments.head,
        layout="torchvision" if by_structure else arguments.layout,
        preprocess=arguments.preprocess,
        adjustment=given_adjustment(arguments),
        which=arguments.checkpoint,
        average=not arguments.no_average,
        choice=Choice(arguments.prefix, arguments.use, arguments.bgr, STRUCTURE if by_structure else None),
    )
    if arguments.json:
        return print_result(result, as_json=True)
    _print_report(result)
    return EXIT_DONE


def _source(arguments: argparse.Namespace) -> Path:
    from resnet_jax.weights.pretrained import fetch_pretrained, find_weights

    if arguments.pretrained is None:
        return find_weights(arguments.source, arguments.model)
    if arguments.model is None:
        raise UserError("--pretrained needs --model, the name of a published network")
    return fetch_pretrained(arguments.model, arguments.pretrained)


def _print_report(report: dict[str, Any]) -> None:
    """Prints the report on an import as a table: counts, and the names of tensors that are not loaded unchanged."""
    preprocess = report["preprocess"]
    rows = [
        ("from", f"{report['path']} ({report['format']}, names of {report['layout']})"),
        *([("checkpoint", str(_run_checkpoint(report)))] if "checkpoint" in report else []),
        ("to", report["to"]),
        ("model", " ".join([report["model"], *(f"{key}={value}" for key, value in report["model_args"].items())])),
        ("loaded", f"{len(report['loaded'])} tensors, {sum(map(math.prod, report['loaded'].values())):,} numbers"),
    ]
    for key in ("reshaped", "zeroed", "reset", "missing", "unexpected"):
        shapes = [f"{truncate(name)} {_shape(shape)}" for name, shape in report[key].items()]
        rows.append((key, f"{len(shapes)}{': ' if shapes else ''}{', '.join(shapes)}"))
    rows.append(("left", abridge([*map(truncate, report["left"])]) or "0"))
    dropped = [truncate(name) for name in report["dropped"]] + [f"{report['counters']} counters"] * bool(
        report["counters"]
    )
    rows.append(("dropped", ", ".join(dropped) or "0"))
    rows.append(
        ("preprocessing", ", ".join(f"{k} {v}" for k, v in preprocess.items()) if preprocess else NO_PREPROCESS)
    )
    print_table(rows)


def _run_checkpoint(report: dict[str, Any]) -> "RunCheckpoint":
    from resnet_jax.weights.state_dict import RunCheckpoint

    return RunCheckpoint(report["checkpoint"], report["step"], report["average"])


def _shape(shape: Any) -> str:
    """Returns (2, 3) as 2x3; a pair of shapes as 2x3x1x1 -> 2x3."""
    if shape and isinstance(shape[0], tuple):
        return " -> ".join(map(_shape, shape))
    return "x".join(map(str, shape)) or "1"
