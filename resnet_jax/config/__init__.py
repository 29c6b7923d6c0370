"""Configs: found by name or path, overridden from the command line, checked field by field."""

import ast
import importlib.util
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from resnet_jax.config.effects import KnownImages, check_given_fields, fields_without_effect, ineffective_line
from resnet_jax.data.batches import BatchOptions
from resnet_jax.data.layout import SplitFolders
from resnet_jax.data.options import ImageOptions
from resnet_jax.data.table_options import TableOptions
from resnet_jax.errors import UserError, suggestion
from resnet_jax.models.variants import ModelOptions
from resnet_jax.ranges import ranges_of
from resnet_jax.training.augment_options import AugmentOptions
from resnet_jax.training.finetuning import FinetuneOptions
from resnet_jax.training.optimizer import OptimizerOptions
from resnet_jax.training.periods import PeriodOptions
from resnet_jax.training.schedule import ScheduleOptions
from resnet_jax.training.train_state import StateOptions

PREFIX = "--config."
# Two ways to say one thing, of which 0 or () leaves it to the other: setting one by an override unsets the other.
ALTERNATIVES = (("num_epochs", "num_steps"), ("warmup_epochs", "warmup_steps"), ("decay_epochs", "decay_steps"))
# Fields that are one whole number or two.
SIZES = ("image_size",)
# Fields of numbers that may be whole in a config and broken on the command line.
EPOCHS = ("decay_epochs",)
# Sub-dictionaries whose fields are open: any name is taken here and checked by whoever reads it.
OPEN_FIELDS = ("model_args", "learning_rate_factors")
# Fields that hold a word or numbers.
WORD_OR_NUMBERS = ("class_weights",)
# Attributes beside the fields, which are all that is written into a run's config.json: the paths that the command line
# has set, and the config before it did.
_GIVEN, _FILE = "_given_fields", "_file_config"
# Names that other programs have for fields.
OTHER_NAMES = {
    "lr": "learning_rate", "base_lr": "learning_rate", "epochs": "num_epochs", "max_epochs": "num_epochs",
    "steps": "num_steps", "max_steps": "num_steps", "iterations": "num_steps", "bs": "batch_size",
    "batch": "batch_size", "train_batch_size": "batch_size", "wd": "weight_decay", "opt": "optimizer",
    "arch": "model", "data": "data_dir", "data_path": "data_dir", "dataset_name": "dataset", "classes": "num_classes",
    "img_size": "image_size", "size": "image_size", "crop": "augment.crop_size", "workers": "decode_threads",
    "num_workers": "decode_threads", "sched": "schedule", "scheduler": "schedule", "lr_scheduler": "schedule",
    "milestones": "decay_epochs", "lr_step": "decay_epochs", "gamma": "decay_factor", "lr_gamma": "decay_factor",
    "warmup": "warmup_epochs", "lr_warmup_epochs": "warmup_epochs", "smoothing": "label_smoothing",
    "clip_grad": "clip_gradient_norm", "grad_clip": "clip_gradient_norm", "accum_iter": "accumulation_steps",
    "grad_accum_steps": "accumulation_steps", "ema": "ema_decay", "model_ema": "ema_decay", "amp": "dtype",
    "precision": "dtype", "fp16": "dtype", "bf16": "dtype", "sync_bn": "batch_norm", "bce_loss": "loss",
    "aa": "augment.policy", "auto_augment": "augment.policy", "reprob": "augment.random_erasing",
    "pretrained": "finetune.weights", "print_freq": "log_every_steps", "log_interval": "log_every_steps",
    "val_split": "validation_fraction", "dropout": "model_args.dropout",
}  # fmt: skip
# What the fields are unpacked into, each with its range, by what stands before their names.
SECTIONS: dict[str, tuple[type, ...]] = {
    "": (ModelOptions, ImageOptions, BatchOptions, OptimizerOptions, StateOptions, ScheduleOptions, PeriodOptions),
    "augment.": (AugmentOptions,),
    "finetune.": (FinetuneOptions,),
    "split_folders.": (SplitFolders,),
    "table.": (TableOptions,),
}


def suggest_field(name: str, known: Sequence[str]) -> str:
    """Returns the suggestion for an unknown field: what others call so, or the nearest name; empty if there is none."""
    other = field_of_other_name(name)
    return f"; did you mean {other!r}?" if other else suggestion(name, known)


def field_of_other_name(name: str) -> str:
    """Returns the field that other programs call `name`, or the option --name; empty if there is none."""
    return OTHER_NAMES.get(name.lstrip("-").lower().replace("-", "_"), "")


def configs_dir() -> Path:
    """Returns the folder of the configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def default_config() -> ConfigDict:
    """Returns every field with its default, locked: the config of `configs/default.py`."""
    return _run_file(configs_dir() / "default.py")


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Returns the config of a file (its path, or its name in `configs_dir()`), overridden and checked.

    Args:
      overrides: command-line words, `--config.field=value` or `--config.field value`.

    Raises:
      UserError: if the file is not found or is no config, if a value is against its field's type or range, and if an
        override has no effect.
    """
    config, default = _run_file(_find(name_or_path)), default_config()
    _make_plain(config)
    _compare_fields(name_or_path, config, default)
    # Anew, where the file derives its config from another one by this function.
    vars(config).update({_FILE: config.copy_and_resolve_references(), _GIVEN: ()})
    apply_overrides(config, overrides)
    check_values(config)
    check_given_fields(config, given_fields(config), default)
    return config


def checked_config(config: ConfigDict | str | Path) -> ConfigDict:
    """Returns a checked config: one that a program has made or changed, or the config of a file, by its name or path.

    Raises:
      UserError: as `load_config`.
    """
    if isinstance(config, str | Path):
        return load_config(str(config))
    if not isinstance(config, ConfigDict):
        raise UserError(f"config must be an ml_collections.ConfigDict or a config's name, not {type(config).__name__}")
    _make_plain(config)
    _compare_fields("given", config, default_config())
    check_values(config)
    return config


def given_fields(config: ConfigDict) -> tuple[str, ...]:
    """Returns the dotted paths of the fields that `apply_overrides` has set."""
    return vars(config).get(_GIVEN, ())


def check_effects(config: ConfigDict, images: KnownImages) -> str:
    """Returns a line that names the fields which the config's file sets without effect; empty if there are none.

    Those that only the command line's fields have made so are not named: turning mixup off is no mistake of the file.

    Raises:
      UserError: for a field that was given on the command line and has none.
    """
    given, default = given_fields(config), default_config()
    check_given_fields(config, given, default, images)
    in_file = fields_without_effect(vars(config).get(_FILE, config), images)
    return ineffective_line(config, given, default, images, in_file)


def config_from_dict(values: dict[str, Any]) -> ConfigDict:
    """Returns the config that a run's config.json holds.

    A field that came later than the run has its default, by which nothing is as it was not before.

    Raises:
      UserError: if it is none.
    """
    config = default_config()
    try:
        stored = ConfigDict(values)
    except (ValueError, TypeError, RecursionError) as error:  # names that no field can have
        raise UserError(f"config.json holds no config: {_one_line(error)}") from None
    _compare_fields("config.json", stored, config, complete=False)
    for path, value in flatten(stored).items():
        try:
            _assign(config, path, tuple(value) if isinstance(value, list) else value)
        except (TypeError, AttributeError) as error:
            raise UserError(f"config.json: config.{path}={value!r} has another type ({error})") from None
    check_values(config)
    return config


def _make_plain(config: ConfigDict) -> None:
    """Makes NumPy's numbers Python's, as a program's loop over an array sets them, and JSON has them."""
    for field, value in flatten(config).items():
        values = value if isinstance(value, tuple) else (value,)
        if any(isinstance(one, np.generic) for one in values):
            plain = tuple(one.item() if isinstance(one, np.generic) else one for one in values)
            with config.ignore_type():
                _assign(config, field, plain if isinstance(value, tuple) else plain[0])


def to_json(config: ConfigDict) -> str:
    """Returns the config as JSON text; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns {"augment.flip": False, ...}: every field by its dotted path."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def apply_overrides(config: ConfigDict, words: Sequence[str]) -> None:
    """Sets fields of `config` from `--config.field=value` words, each read as the field's type.

    Raises:
      UserError: for an unknown field, a missing value or one of another type.
    """
    given: list[str] = []
    for path, text in split_overrides(words):
        try:
            _assign(config, path, read_value(config, path, text))
        except TypeError as error:
            reason = f"is of another type than the config's: {_one_line(error)}"
            raise UserError(f"config.{path}={text!r} {reason}") from None
        given.append(path)
    for pair in ALTERNATIVES:
        # As of a field that is given twice, the last one counts.
        latest = max(pair, key=lambda field: max((i for i, path in enumerate(given) if path == field), default=-1))
        other = pair[1 - pair.index(latest)]
        if latest in given and config[latest]:
            config[other] = type(config[other])()
            given = [path for path in given if path != other]
    vars(config)[_GIVEN] = (*given_fields(config), *given)


def read_value(config: ConfigDict, path: str, text: str) -> Any:
    """Returns `text` as the type of a field of `config`, which stays as it is.

    Raises:
      UserError: for an unknown field, or a value of another type.
    """
    known = flatten(config)
    if _is_open(path) and path.count(".") == 1:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    if path not in known:
        raise UserError(f"config.{path} is no field of the config{suggest_field(path, list(known))}")
    return _parse(path, text, known[path])


def split_overrides(words: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the field's path and the text of its value for each `--config.field=value` or `--config.field value`.

    Raises:
      UserError: for another word, or a missing value.
    """
    words, pairs = list(words), []
    while words:
        word = words.pop(0)
        if not word.startswith(PREFIX):
            raise UserError(f"{word!r} is not understood here; fields are set by --config.field=value")
        path, equals, text = word.removeprefix(PREFIX).partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{word} needs a value: {word}=...")
            text = words.pop(0)
        pairs.append((path, text))
    return pairs


def check_values(config: ConfigDict) -> None:
    """Raises UserError (a ValueError) for the first field whose value is outside its range."""
    values = flatten(config)
    for field, value in values.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not _is_open(field) and any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise UserError(f"config.{field}={value!r} must be finite")
        if isinstance(value, tuple) and not _is_open(field) and not all(type(n) in (int, float) for n in value):
            raise UserError(f"config.{field}={value!r} must hold numbers")
        if value is None:
            raise UserError(f"config.{field}=None must have a value")
    for prefix, sections in SECTIONS.items():
        for section in sections:
            for name, ranges in ranges_of(section).items():
                for one in ranges:
                    one.check(f"config.{prefix}{name}", values[prefix + name])
    if config.num_steps == 0 and config.num_epochs == 0:
        raise UserError("config.num_epochs=0 needs config.num_steps > 0")


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix == "" and len(path.parts) == 1:
        path = configs_dir() / f"{name_or_path}.py"
        if path.is_file():
            return path
    known = sorted(file.stem for file in configs_dir().glob("*.py"))
    near = suggestion(Path(name_or_path).stem, known)
    raise UserError(f"config {name_or_path!r} is neither a file nor one of {', '.join(known)}{near}")


def _run_file(path: Path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(f"resnet_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"config {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # a config file is the user's program: report whatever it raises in one line
        raise UserError(f"config {path}: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"config {path}: get_config() must return an ml_collections.ConfigDict")
    return config


def _one_line(error: Exception) -> str:
    text = str(error)
    unknown = re.search(r'Key "(\w+)" does not exist', text)  # ml_collections goes on to print the whole config
    if unknown:
        field = unknown.group(1)
        return f"{field!r} is no field of the config{suggestion(field, flatten(default_config()))}"
    return f"{type(error).__name__}: {(text.splitlines() or [''])[0]}"


def _is_open(path: str) -> bool:
    return path.split(".")[0] in OPEN_FIELDS


def _compare_fields(name: str, config: ConfigDict, default: ConfigDict, *, complete: bool = True) -> None:
    fields = [path for path in flatten(config) if not _is_open(path)]
    known = [path for path in flatten(default) if not _is_open(path)]
    for path in fields:
        if path not in known:
            raise UserError(f"config {name}: {path!r} is no field of configs/default.py{suggestion(path, known)}")
    for path in known:
        if complete and path not in fields:
            raise UserError(f"config {name}: the field {path!r} is missing; start from default_config()")


def _assign(config: ConfigDict, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        config = config[parent]
    config[name] = value


def _parse(path: str, text: str, current: Any) -> Any:
    """Returns `text` as the type of the field's current value."""
    kind = type(current)
    if path in WORD_OR_NUMBERS:
        kind = str if text.strip()[:1].isalpha() else tuple
    if path in SIZES:
        return _parse_size(path, text)
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind is tuple:
            value = ast.literal_eval(text if text.strip() else "()")
            items = tuple(value) if isinstance(value, list | tuple) else (value,)
            item_kind = type(current[0]) if current and isinstance(current, tuple) else None
            if not all(isinstance(item, int | float) and not isinstance(item, bool) for item in items):
                raise ValueError(text)
            if not all(map(math.isfinite, items)):
                raise ValueError(text)
            if item_kind is None or path in EPOCHS:
                return items
            if item_kind is int and any(int(item) != item for item in items):  # nothing is rounded without a word
                raise ValueError(text)
            return tuple(item_kind(item) for item in items)
        return kind(text)
    except (KeyError, ValueError, SyntaxError, OverflowError):
        names = {bool: "true or false", int: "a whole number", float: "a number", tuple: "numbers like (1, 2)"}
        raise UserError(f"config.{path}={text!r} must be {names[kind]}") from None


def _parse_size(path: str, text: str) -> int | tuple[int, ...]:
    """Returns one number of pixels, or a height and a width: 64, (64, 96)."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        value = None
    size = tuple(value) if isinstance(value, list) else value
    numbers = size if isinstance(size, tuple) else (size,)
    if not numbers or not all(type(number) is int for number in numbers):
        raise UserError(f"config.{path}={text!r} must be a whole number, or two like (64, 96): height and width")
    return size
