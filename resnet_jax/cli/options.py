"""Options that several commands share, and the objects made from them."""

import argparse
import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.cli.usage import Parser
from resnet_jax.errors import UserError
from resnet_jax.filesystem import check_folder, check_parents, expand

if TYPE_CHECKING:
    from resnet_jax.data.transforms.adjustment import Adjustment
    from resnet_jax.inference.predictor import TrainedModel

# Words behind an option that takes several, and that are images all the same.
GIVEN_BACK = "given_back"
MOST_WORDS = 3  # that are numbers of channels, where images may follow
# The options by which hands adjust how images are prepared.
OF_PREPROCESS = ("mean", "std", "resize", "crop", "crop_pct", "interpolation")
# (name, function, summary, example) -> the command's parser.
AddCommand = Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]


def add_trained_options(command: argparse.ArgumentParser) -> None:
    """Adds the options for a run or weights, and those that belong to either."""
    command.add_argument("--workdir", metavar="DIR", help="the run's folder")
    add_checkpoint_options(command)
    command.add_argument("--weights", metavar="PATH", help="instead: a file, folder, hub's timm/NAME or IMAGENET1K_V2")
    add_model_options(command)
    command.add_argument("--preprocess", metavar="NAME", help="images as for IMAGENET1K_V1, IMAGENET1K_V2 or CIFAR")


def add_checkpoint_options(command: argparse.ArgumentParser) -> None:
    """Adds the options that say which checkpoint of a run is taken."""
    command.add_argument("--checkpoint", choices=("newest", "best"), help="which of the run's (default: newest)")
    command.add_argument("--no_average", action="store_true", help="the weights, not their moving average (EMA)")


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Adds options for facts that weights do not always give."""
    command.add_argument("--model", metavar="NAME", help="a name of the list command, unless the weights tell it")
    command.add_argument("--num_classes", type=int, metavar="N", help="default: the model's")
    command.add_argument(
        "--model_args", nargs="+", action=_ModelArgs, metavar="ARG=VALUE", help="more of its arguments: stride_in=1x1"
    )
    command.add_argument("--mean", nargs="+", action=_Channels, metavar="X", help="of red, green, blue, in [0, 1]")
    command.add_argument("--std", nargs="+", action=_Channels, metavar="X", help="likewise")
    command.add_argument("--resize", type=image_size, metavar="N", help="the shorter side before the crop")
    command.add_argument("--crop", type=image_size, metavar="N", help="side of the centre crop, or 64x96")
    command.add_argument("--crop_pct", type=float, metavar="SHARE", help="instead of --resize: crop by resized")
    command.add_argument("--interpolation", metavar="NAME", help="bilinear, bicubic, lanczos ...")


def add_process_options(command: argparse.ArgumentParser) -> None:
    """Adds which of many processes this one is, where no cluster says it."""
    command.add_argument("--coordinator", metavar="HOST:PORT", help="many processes: where process 0 listens")
    command.add_argument("--num_processes", type=int, metavar="N", help="how many (default: as the cluster tells)")
    command.add_argument("--process_id", type=int, metavar="I", help="which this is, from 0")


def run_folder(workdir: str | None, config: str) -> str:
    """Returns the folder of a run, a path or an address: `workdir`, or if that is None the one of the config's name."""
    return f"runs/{Path(config).stem}" if workdir is None else workdir


def picture_path(text: str) -> Path:
    """Returns the path that --to gives for a picture.

    Raises:
      UserError: if none can be written there.
    """
    picture = expand(text)
    if picture.suffix.lower() != ".png" or picture.is_dir():
        raise UserError(f"--to {text} must be a .png file")
    check_parents(picture)
    check_folder(picture.absolute().parent)
    return picture


def image_size(text: str) -> int | tuple[int, int]:
    """Returns a size in pixels: a side, or (height, width) of 64x96 or (64, 96)."""
    numbers = tuple(int(number) for number in text.strip("()[] ").replace("x", ",").split(","))
    if len(numbers) > 2:
        raise ValueError(text)
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def given_model_args(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the model's arguments from --model_args and --num_classes."""
    values: dict[str, Any] = {}
    for word in arguments.model_args or ():
        name, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"--model_args {word!r} must be NAME=VALUE, for example stride_in=1x1")
        if name in values:
            raise UserError(f"--model_args gives {name} twice")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    if arguments.num_classes is not None:
        if "num_classes" in values:
            raise UserError("num_classes is given twice, by --num_classes and by --model_args")
        values["num_classes"] = arguments.num_classes
    return values


def given_adjustment(arguments: argparse.Namespace) -> "Adjustment":
    """Returns how images are prepared, as far as the options set it by hand."""
    from resnet_jax.data.transforms.adjustment import Adjustment

    return Adjustment(**{name: getattr(arguments, name) for name in OF_PREPROCESS})


def check_model_options(arguments: argparse.Namespace, *more: str) -> None:
    """Raises UserError (a ValueError) unless the options name either a run or weights, and belong to which they name.

    more: options that belong to weights, besides the model's.
    """
    if (arguments.workdir is None) == (arguments.weights is None):
        raise UserError("give either --workdir, a run's folder, or --weights, a file or checkpoint directory")
    if arguments.workdir is not None:
        for option in ("model", "model_args", "num_classes", "preprocess", *OF_PREPROCESS, *more):
            if getattr(arguments, option) is not None:
                raise UserError(f"--{option} belongs to --weights; a run tells its own")
        return
    if arguments.no_average:
        raise UserError("--no_average belongs to --workdir")
    if arguments.checkpoint is not None:
        raise UserError("--checkpoint belongs to --workdir: give the checkpoint's own directory to --weights")


def open_trained(arguments: argparse.Namespace, *, judges: bool = True) -> "TrainedModel":
    """Returns the run or the weights that the options name. judges: as `open_weights` takes it."""
    from resnet_jax.inference.predictor import open_run, open_weights
    from resnet_jax.storage.run_files import read_run
    from resnet_jax.weights.pretrained import find_weights

    if arguments.workdir is not None:
        workdir, which = read_run(arguments.workdir), arguments.checkpoint or "newest"
        return open_run(workdir, which, average=not arguments.no_average)
    return open_weights(
        find_weights(arguments.weights, arguments.model),
        model_name=arguments.model,
        model_args=given_model_args(arguments),
        preprocess=arguments.preprocess,
        adjustment=given_adjustment(arguments),
        judges=judges,
    )


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
    """A number for each channel: 0.5,0.5,0.5 or 0.5 0.5 0.5, with or without brackets; what follows, where the command
    takes images, are some.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if _takes_images(parser):
            count = 1 if values[0].strip("()[]").count(",") >= 2 else _num_numbers(values[:MOST_WORDS])
            _give_back(namespace, values[count:])
            values = values[:count]
        words = ",".join(values).strip("()[]").replace(" ", ",").split(",")
        try:
            numbers = tuple(float(word) for word in words if word)
        except ValueError:
            numbers = ()
        if not numbers:
            raise UserError(
                f"{option} {' '.join(values)} must be numbers, one for each channel, for example {option} 0.5 0.5 0.5"
            )
        setattr(namespace, self.dest, numbers)


def _num_numbers(words: Sequence[str]) -> int:
    """Returns how many of the words, from the first on, are numbers; at least one, of which the error will be."""
    count = 0
    for word in words:
        try:
            float(word.strip("()[],"))
        except ValueError:
            break
        count += 1
    return max(count, 1)


def _takes_images(parser: argparse.ArgumentParser) -> bool:
    return isinstance(parser, Parser) and bool(parser.takes_words)


def _give_back(namespace: argparse.Namespace, words: Sequence[str]) -> None:
    setattr(namespace, GIVEN_BACK, [*getattr(namespace, GIVEN_BACK, []), *words])
