"""The commands' options: which there are, their defaults and their help."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from resnet_jax.cli import commands as run
from resnet_jax.cli.benchmark import run_benchmark
from resnet_jax.cli.doctor import run_doctor
from resnet_jax.cli.evaluate import run_evaluate
from resnet_jax.cli.export import run_export
from resnet_jax.cli.predict import run_predict
from resnet_jax.cli.usage import ANY_FIELD, Parser
from resnet_jax.errors import UserError

# Words behind an option that takes several, and that are images all the same.
GIVEN_BACK = "given_back"
# (name, function, summary, example) -> the command's parser.
Add = Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command line (sys.argv's if None): the command's function as `run`, its `overrides`, the
    --config.field=value words, and what its options say. Raises UserError (a ValueError) for wrong usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    before = words[: words.index("--")] if "--" in words else words
    command = before[0] if before else ""
    parser.refuse_missing_command(before)
    if command in parser.commands:  # first what is mistyped, and only then what is missing for that reason
        parser.commands[command].refuse_unknown(command, before[1:])
        parser.commands[command].refuse_stray(command, before[1:], before)
    arguments, rest = parser.parse_known_args(words)
    names = ", ".join(parser.commands)
    if arguments.command is None:
        parser.refuse_unknown("python -m resnet_jax", rest)
        parser.error(f"the following arguments are required: COMMAND, one of {names}")
    if "images" in arguments:  # argparse takes those before an option or those behind it, not both
        given_back = getattr(arguments, GIVEN_BACK, [])
        arguments.images, rest = [*arguments.images, *given_back, *rest], []
    if parser.commands[arguments.command].takes_fields:
        parser.commands[arguments.command].refuse_stray_field(arguments.command, rest, before)
    elif rest:
        parser.commands[arguments.command].refuse_stray(arguments.command, rest, before)
        raise UserError(f"{rest[0]!r} is no option of {arguments.command}")
    arguments.overrides = rest
    return arguments


def make_parser() -> Parser:
    """The parser of `python -m resnet_jax`; what it returns has the command's function as `run`."""
    parser = Parser(
        prog="python -m resnet_jax",
        description="Residual networks in JAX: train them, judge them, bring weights in and out",
        epilog="example: python -m resnet_jax train --config digits",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def add(
        name: str, function: Callable[[argparse.Namespace], int], summary: str, example: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary, epilog=f"example: {example}")
        command.set_defaults(run=function)
        parser.commands[name] = command
        return command

    for add_command in (
        _add_train, _add_evaluate, _add_predict, _add_export, _add_convert, _add_list, _add_summary, _add_preview,
        _add_degradation, _add_benchmark, _add_doctor,
    ):  # fmt: skip
        add_command(add)
    return parser


def _add_train(add: Add) -> None:
    train = add(
        "train", run.run_train, "train a network, or continue a run", "python -m resnet_jax train --config digits"
    )
    train.add_argument("--config", required=True, metavar="NAME|PATH", help="a config file, or its name in configs/")
    train.add_argument("--workdir", metavar="DIR", help="the run's folder (default: runs/NAME)")
    train.add_argument(ANY_FIELD, dest="ignored", metavar="VALUE", help="set a field, e.g. --config.learning_rate=0.05")
    train.add_argument(
        "--dry_run", action="store_true", help="time ten steps, tell what a run takes; writes at most compiled programs"
    )
    train.add_argument("--json", action="store_true", help="with --dry_run: print one JSON object")
    _add_process_options(train)


def _add_doctor(add: Add) -> None:
    doctor = add("doctor", run_doctor, "check what a run needs here: packages, devices, images, disk, memory",
                 "python -m resnet_jax doctor --config digits")  # fmt: skip
    doctor.add_argument("--config", metavar="NAME|PATH", help="the run's config (default: no run, this machine alone)")
    doctor.add_argument("--workdir", metavar="DIR", help="the run's folder (default: runs/NAME)")
    doctor.add_argument(ANY_FIELD, dest="ignored", metavar="VALUE", help="set a field, as for train")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")


def _add_degradation(add: Add) -> None:
    degradation = add("degradation", run.run_degradation, "plain against residual networks of growing depth",
                      "python -m resnet_jax degradation --depths 20,56")  # fmt: skip
    degradation.add_argument(
        "--depths", type=_whole_numbers, default=(20, 32, 44, 56), metavar="N,N", help="layers (default: 20,32,44,56)"
    )
    degradation.add_argument(
        "--config", default="degradation", metavar="NAME|PATH", help="how each is trained (default: degradation)"
    )
    degradation.add_argument("--workdir", default="runs/degradation", metavar="DIR", help="default: runs/degradation")
    degradation.add_argument(ANY_FIELD, dest="ignored", metavar="VALUE", help="set a field, as for train")


def _add_preview(add: Add) -> None:
    preview = add("preview", run.run_preview, "a picture of a batch as the network sees it",
                  "python -m resnet_jax preview --config digits --to batch.png")  # fmt: skip
    preview.add_argument("--config", required=True, metavar="NAME|PATH", help="a config file, or its name in configs/")
    preview.add_argument("--to", default="batch.png", metavar="PATH", help="the picture (default: batch.png)")
    preview.add_argument("--split", default="train", metavar="NAME", help="train (default), validation or test")
    preview.add_argument("--step", type=int, default=0, metavar="N", help="which batch, from 0 (default: 0)")
    preview.add_argument("--num_images", type=int, default=32, metavar="N", help="of the batch (default: 32)")
    preview.add_argument(ANY_FIELD, dest="ignored", metavar="VALUE", help="set a field, as for train")


def _add_list(add: Add) -> None:
    add("list", run.run_list, "list the models", "python -m resnet_jax list")


def _add_summary(add: Add) -> None:
    summary = add("summary", run.run_summary, "shapes, parameters and MACs of a model",
                  "python -m resnet_jax summary --model resnet50")  # fmt: skip
    summary.add_argument("--model", required=True, metavar="NAME", help="a name of the list command")
    summary.add_argument("--image_size", type=int, metavar="PIXELS", help="side of the images (default: the model's)")
    summary.add_argument("--json", action="store_true", help="print one JSON object")


def _add_evaluate(add: Add) -> None:
    evaluate = add("evaluate", run_evaluate, "how well a trained run, or imported weights, judge labelled images",
                   "python -m resnet_jax evaluate --workdir runs/digits --report report")  # fmt: skip
    evaluate.usage = "%(prog)s --workdir DIR [options]\n   or: %(prog)s --weights PATH --data DIR [options]"
    _add_trained_options(evaluate)
    evaluate.add_argument("--data", metavar="DIR|tfds:NAME[:SPLIT]", help="images (default: the run's own test set)")
    evaluate.add_argument("--data_dir", metavar="DIR", help="of TFDS (default: the run's, or ~/tensorflow_datasets)")
    evaluate.add_argument("--batch_size", type=int, metavar="N", help="with --weights (default: 128)")
    evaluate.add_argument("--ten_crop", action="store_true", help="average the corners, the centre and their mirrors")
    evaluate.add_argument("--report", metavar="DIR", help="write pictures and tables of what is confused there")
    _add_process_options(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")


def _add_predict(add: Add) -> None:
    predict = add("predict", run_predict, "the classes that a trained run, or imported weights, see in images",
                  "python -m resnet_jax predict photos --workdir runs/pets")  # fmt: skip
    predict.usage = "%(prog)s IMAGE... --workdir DIR [options]\n   or: %(prog)s IMAGE... --weights PATH [options]"
    predict.add_argument("images", nargs="*", metavar="IMAGE", help="a file, a folder, or - for standard input")
    _add_trained_options(predict)
    predict.add_argument("--top", type=int, default=5, metavar="K", help="how many classes (default: 5)")
    predict.add_argument("--batch_size", type=int, default=32, metavar="N", help="default: 32")
    predict.add_argument("--flip", action="store_true", help="average each image and its mirror")
    predict.add_argument("--to", metavar="PICTURE", help="write a sheet of the images with their classes there")
    predict.add_argument("--gradcam", action="store_true", help="on that sheet, where the network looks")
    written = predict.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="print one JSON object")
    written.add_argument("--csv", action="store_true", help="print file,rank,label,class,probability")


def _add_export(add: Add) -> None:
    export = add("export", run_export, "a network for inference in one file, StableHLO or ONNX",
                 "python -m resnet_jax export --workdir runs/digits --to digits.onnx")  # fmt: skip
    export.usage = "%(prog)s --workdir DIR --to PATH [options]\n   or: %(prog)s --weights PATH --to PATH [options]"
    _add_trained_options(export)
    export.add_argument("--to", required=True, metavar="PATH", help="model.stablehlo or model.onnx")
    export.add_argument("--image_size", type=int, metavar="PIXELS", help="side of the images (default: the model's)")
    export.add_argument("--preprocessing", action="store_true", help="take uint8 images: normalise in the network")
    export.add_argument("--json", action="store_true", help="print one JSON object")


def _add_convert(add: Add) -> None:
    convert = add("convert", run.run_convert, "weights of torch, timm, transformers to ours and back",
                  "python -m resnet_jax convert --model resnet18 --from resnet18.pth --to weights/r18")  # fmt: skip
    convert.add_argument(
        "--from", dest="source", metavar="PATH", help=".pth .th .pt .safetensors, or a checkpoint directory"
    )
    convert.add_argument(
        "--pretrained", metavar="TAG", help="instead: torchvision's, IMAGENET1K_V1 or _V2, downloaded once"
    )
    _add_checkpoint_options(convert)
    convert.add_argument("--to", required=True, metavar="PATH", help=".safetensors, .pth (needs torch), or a folder")
    convert.add_argument(
        "--head", choices=("strict", "reset"), default="strict", help="reset: a new one (default: strict)"
    )
    convert.add_argument(
        "--layout",
        default="torchvision",
        metavar="NAME",
        help="of a file: torchvision (default), timm, transformers, akamaster, tutorial",
    )
    convert.add_argument("--preprocess", metavar="NAME", help="attach IMAGENET1K_V1, IMAGENET1K_V2 or CIFAR")
    _add_model_options(convert)
    convert.add_argument("--json", action="store_true", help="print one JSON object")


def _add_benchmark(add: Add) -> None:
    benchmark = add("benchmark", run_benchmark, "speed and memory of a network, also against torch",
                    "python -m resnet_jax benchmark --model resnet20 --against torch")  # fmt: skip
    benchmark.usage = "%(prog)s [options]"
    benchmark.add_argument("--model", default="resnet20", metavar="NAME", help="a model, or resnext_block")
    benchmark.add_argument("--batch_size", type=int, default=128, metavar="N", help="default: 128")
    benchmark.add_argument("--image_size", type=int, metavar="PIXELS", help="side of the images (default: the model's)")
    benchmark.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (default), bfloat16, float64")
    what = benchmark.add_mutually_exclusive_group()
    what.add_argument("--inference", action="store_true", help="inference, batch norm folded, instead of training")
    what.add_argument("--data", metavar="DIR", help="instead: how fast the JPEGs in a folder are read and cropped")
    what.add_argument("--loop", action="store_true", help="the training loop against its bare step")
    what.add_argument("--saving", action="store_true", help="a checkpoint: its seconds, and those the loop waits for")
    what.add_argument("--collectives", action="store_true", help="what a step sends between devices and computes")
    what.add_argument("--scaling", action="store_true", help="ImageNet recipes on 8 to 1,024 GPUs, on paper")
    benchmark.add_argument("--num_devices", type=int, metavar="N", help="simulated ones, of --collectives (default: 8)")
    benchmark.add_argument("--against", metavar="torch", help="measure torch in turn")
    benchmark.add_argument("--pairs", type=int, default=7, metavar="N", help="measurements of each (default: 7)")
    benchmark.add_argument("--steps", type=int, metavar="N", help="steps in each (default: 3, with --loop 12)")
    benchmark.add_argument("--profile", metavar="DIR", help="write a trace there and list the costliest operations")
    benchmark.add_argument("--json", action="store_true", help="print one JSON object")


def _add_trained_options(command: argparse.ArgumentParser) -> None:
    """A run or weights, and what belongs to either."""
    command.add_argument("--workdir", metavar="DIR", help="the run's folder")
    _add_checkpoint_options(command)
    command.add_argument("--weights", metavar="PATH", help="instead: a file, a checkpoint directory, or IMAGENET1K_V2")
    _add_model_options(command)
    command.add_argument("--preprocess", metavar="NAME", help="images as for IMAGENET1K_V1, IMAGENET1K_V2 or CIFAR")


def _add_checkpoint_options(command: argparse.ArgumentParser) -> None:
    """Adds the options that say which checkpoint of a run is taken."""
    command.add_argument("--checkpoint", choices=("newest", "best"), help="which of the run's (default: newest)")
    command.add_argument("--no_average", action="store_true", help="the weights, not their moving average (EMA)")


def _add_model_options(command: argparse.ArgumentParser) -> None:
    """What weights do not always tell."""
    command.add_argument("--model", metavar="NAME", help="a name of the list command, unless the weights tell it")
    command.add_argument("--num_classes", type=int, metavar="N", help="default: the model's")
    command.add_argument(
        "--model_args", nargs="+", action=_ModelArgs, metavar="ARG=VALUE", help="more of its arguments: stride_in=1x1"
    )
    command.add_argument("--mean", nargs="+", action=_Channels, metavar="X", help="of red, green, blue, in [0, 1]")
    command.add_argument("--std", nargs="+", action=_Channels, metavar="X", help="likewise")


def _add_process_options(command: argparse.ArgumentParser) -> None:
    """Which of many processes this one is, where no cluster tells."""
    command.add_argument("--coordinator", metavar="HOST:PORT", help="many processes: where process 0 listens")
    command.add_argument("--num_processes", type=int, metavar="N", help="how many (default: as the cluster tells)")
    command.add_argument("--process_id", type=int, metavar="I", help="which this is, from 0")


class _ModelArgs(argparse.Action):
    """NAME=VALUE words; behind the first one, those without = are images where the command takes some."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        own = values
        if _takes_images(parser):
            own = [word for i, word in enumerate(values) if i == 0 or "=" in word]
            _give_back(namespace, [word for word in values[1:] if "=" not in word])
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), *own])


class _Channels(argparse.Action):
    """Three numbers: 0.5,0.5,0.5 or 0.5 0.5 0.5, with or without brackets; what follows, where the command takes
    images, are some.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if _takes_images(parser):
            count = 1 if values[0].strip("()[]").count(",") >= 2 else 3
            _give_back(namespace, values[count:])
            values = values[:count]
        words = ",".join(values).strip("()[]").replace(" ", ",").split(",")
        try:
            numbers = tuple(float(word) for word in words if word)
        except ValueError:
            numbers = ()
        if len(numbers) != 3:
            raise UserError(f"{option} {' '.join(values)} must be three numbers, for example {option} 0.5 0.5 0.5")
        setattr(namespace, self.dest, numbers)


def _takes_images(parser: argparse.ArgumentParser) -> bool:
    return isinstance(parser, Parser) and parser.takes_images


def _give_back(namespace: argparse.Namespace, words: Sequence[str]) -> None:
    setattr(namespace, GIVEN_BACK, [*getattr(namespace, GIVEN_BACK, []), *words])


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers like 20,56") from None
