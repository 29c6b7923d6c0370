"""When a field of the config has an effect: one table, by which fields that have none are refused or warned of."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.data.layout import SplitFolders
from resnet_jax.data.table_options import TableOptions
from resnet_jax.errors import UserError


@dataclass(frozen=True)
class KnownImages:
    """The facts about a data set that decide whether a field has an effect; None where they are not known yet.

    Attributes:
      encoded: images are decoded as they are read, not held in memory.
      has_own_validation: the set brings validation images.
      has_validation, has_test: there are such images, held out ones included.
    """

    encoded: bool | None = None
    has_own_validation: bool | None = None
    has_validation: bool | None = None
    has_test: bool | None = None

    @classmethod
    def of_config(cls, config: ConfigDict) -> "KnownImages":
        """Returns the facts on the config's data set that are known before its images are read."""
        if config.dataset == "digits":
            return cls(False, False, config.validation_fraction > 0, True)
        return cls(encoded=True) if config.dataset == "folder" else cls()


@dataclass(frozen=True)
class Condition:
    """The condition under which some fields have an effect.

    Attributes:
      holds: of a config and its images.
      needs: the same in words, after "it needs".
    """

    fields: tuple[str, ...]
    holds: Callable[[ConfigDict, KnownImages], bool]
    needs: str


def _augments_on_host(config: ConfigDict) -> bool:
    options = config.augment
    return options.random_resized_crop or options.policy != "none" or any(options.color_jitter)


def _warms_up(config: ConfigDict) -> bool:
    return config.warmup_epochs > 0 or config.warmup_steps > 0


def _decays(config: ConfigDict) -> bool:
    return config.weight_decay > 0 or config.l1 > 0


def _last_layer(config: ConfigDict) -> str:
    return "top" if config.finetune.head == "add" or "base_classes" in config.model_args else "fc"


_ENCODED = "images that are decoded as they are read, a folder's or those of a large set"
_FOLDER_SECTIONS = {"split_folders": SplitFolders, "table": TableOptions}
_RANDAUGMENTS = ("randaugment", "randaugment_increasing")

# A field that is not named here has an effect in every run. A field may stand in several rows: all of them must hold.
CONDITIONS = (
    Condition(
        ("batch_norm", "finetune.layer_decay"),
        lambda config, _: config.finetune.trainable != "head",
        "another config.finetune.trainable than 'head'",
    ),
    Condition(("stem_init",), lambda config, _: not config.finetune.weights, "a network that begins from scratch"),
    Condition(
        ("augment.flip_alternates",),
        lambda config, _: config.augment.flip and config.sampling == "shuffle" and config.repeated_augmentation == 1,
        "config.augment.flip=True, and epochs that take each image once (sampling='shuffle', repeated_augmentation=1)",
    ),
    Condition(
        ("data_dir",),
        lambda config, _: config.dataset != "digits",
        "another config.dataset than the package's own digits",
    ),
    Condition(
        tuple(f"{name}.{field.name}" for name, section in _FOLDER_SECTIONS.items() for field in fields(section)),
        lambda config, _: config.dataset == "folder",
        "config.dataset='folder'",
    ),
    Condition(
        ("fit", "resize", "exif_rotation", "high_bit_depth", "max_pixels", "max_bad_images"),
        lambda _, images: images.encoded is not False,
        _ENCODED,
    ),
    Condition(("resize",), lambda config, _: config.fit == "crop", "config.fit='crop'"),
    Condition(
        ("interpolation",),
        lambda config, images: images.encoded is not False or config.augment.random_resized_crop,
        f"{_ENCODED}, or config.augment.random_resized_crop=True",
    ),
    Condition(
        ("decode_threads",),
        lambda config, images: images.encoded is not False or _augments_on_host(config),
        f"{_ENCODED}, or a crop, jitter or policy in config.augment, which the host computes",
    ),
    Condition(
        ("validation_fraction",),
        lambda _, images: not images.has_own_validation,
        "a data set without validation images of its own",
    ),
    Condition(
        ("validation_split",),
        lambda config, images: config.validation_fraction > 0 and not images.has_own_validation,
        "config.validation_fraction > 0, and a data set without validation images of its own",
    ),
    Condition(("mean",), lambda config, _: config.normalize == "channel", "config.normalize='channel'"),
    Condition(
        ("augment.crop_padding_mode",),
        lambda config, _: config.augment.crop_padding > 0,
        "config.augment.crop_padding > 0",
    ),
    Condition(
        ("augment.crop_size", "augment.crop_scale", "augment.crop_ratio", "augment.resampler", "augment.antialias"),
        lambda config, _: config.augment.random_resized_crop,
        "config.augment.random_resized_crop=True",
    ),
    Condition(
        ("augment.policy_num_ops", "augment.policy_magnitude"),
        lambda config, _: config.augment.policy in _RANDAUGMENTS,
        "config.augment.policy='randaugment' or 'randaugment_increasing'",
    ),
    Condition(("finetune.head",), lambda config, _: bool(config.finetune.weights), "config.finetune.weights"),
    Condition(
        ("finetune.head_learning_rate",),
        lambda config, _: _last_layer(config) not in config.learning_rate_factors,
        "no factor of the last layer in config.learning_rate_factors, which goes first",
    ),
    Condition(("num_epochs",), lambda config, _: not config.num_steps, "config.num_steps=0"),
    Condition(("nesterov",), lambda config, _: config.optimizer in ("sgd", "lars"), "config.optimizer='sgd' or 'lars'"),
    Condition(
        ("second_momentum",),
        lambda config, _: config.optimizer not in ("sgd", "lars"),
        "another config.optimizer than 'sgd' and 'lars'",
    ),
    Condition(
        ("trust_coefficient",),
        lambda config, _: config.optimizer == "lars" and config.weight_decay > 0,
        "config.optimizer='lars' and config.weight_decay > 0",
    ),
    Condition(("decay_norm_and_bias",), lambda config, _: _decays(config), "config.weight_decay > 0 or config.l1 > 0"),
    Condition(
        ("decay_bias",),
        lambda config, _: _decays(config) and not config.decay_norm_and_bias,
        "config.decay_norm_and_bias=False, and config.weight_decay > 0 or config.l1 > 0",
    ),
    Condition(
        ("clip_gradient_norm",),
        lambda config, _: config.optimizer != "lamb" or config.clip_gradient_norm < 1.0,
        "another config.optimizer than 'lamb', which clips to 1 by itself, or a value below 1",
    ),
    Condition(
        ("target_threshold",),
        lambda config, _: config.loss == "sigmoid" and (config.augment.mixup > 0 or config.augment.cutmix > 0),
        "config.loss='sigmoid', and config.augment.mixup > 0 or config.augment.cutmix > 0",
    ),
    Condition(("ema_every_steps", "ema_warmup_epochs"), lambda config, _: config.ema_decay > 0, "config.ema_decay > 0"),
    Condition(
        ("schedule_by",),
        lambda config, _: config.schedule != "constant" or _warms_up(config),
        "a rate that changes: another config.schedule than 'constant', or a warm-up",
    ),
    Condition(
        ("decay_epochs", "decay_steps", "decay_factor"),
        lambda config, _: config.schedule == "step",
        "config.schedule='step'",
    ),
    Condition(("warmup_epochs",), lambda config, _: not config.warmup_steps, "config.warmup_steps=0"),
    Condition(
        ("warmup_start_factor", "warmup_shape"),
        lambda config, _: _warms_up(config),
        "config.warmup_epochs > 0 or config.warmup_steps > 0",
    ),
    Condition(
        ("eval_every_epochs", "early_stopping_patience"),
        lambda _, images: images.has_validation is not False,
        "validation images: config.validation_fraction > 0, or a data set that has some",
    ),
    Condition(("test_every_epochs",), lambda _, images: images.has_test is not False, "a data set with test images"),
    Condition(("max_skipped_updates",), lambda config, _: config.on_nonfinite == "skip", "config.on_nonfinite='skip'"),
)
# A config file may set these for data sets of either kind.
FALLBACKS = ("validation_fraction", "validation_split", "eval_every_epochs", "test_every_epochs")


def fields_without_effect(config: ConfigDict, images: KnownImages) -> dict[str, str]:
    """Returns the fields that change nothing in a run of this config, by their dotted paths, and what each would
    need.
    """
    return {
        field: condition.needs
        for condition in reversed(CONDITIONS)  # of several, the first is named
        for field in condition.fields
        if not condition.holds(config, images)
    }


def check_given_fields(
    config: ConfigDict, given: Collection[str], default: ConfigDict, images: KnownImages | None = None
) -> None:
    """Raises UserError (a ValueError) for the first field of `given` that has no effect, unless it turns something off.

    Args:
      given: dotted paths that the user has set for this run.
      default: the config of all defaults.
      images: None: the facts that follow from the config.
    """
    without = fields_without_effect(config, images or KnownImages.of_config(config))
    for field in given:
        value = _value(config, field)
        if field in without and not _is_off(value, _value(default, field)):
            raise UserError(
                f"config.{field}={value!r} has no effect in this run: it needs {without[field]}; set that as well, or "
                f"leave out --config.{field}"
            )


def ineffective_line(
    config: ConfigDict, given: Collection[str], default: ConfigDict, images: KnownImages, in_file: Collection[str]
) -> str:
    """Returns one line that names the fields that a config file sets in vain; empty if there are none.

    Args:
      in_file: those that have no effect in the config as its file has it.
    """
    parts = []
    for field, needs in sorted(fields_without_effect(config, images).items()):
        value, usual = _value(config, field), _value(default, field)
        if field in in_file and field not in (*given, *FALLBACKS) and value != usual and not _is_off(value, usual):
            parts.append(f"config.{field}={value!r} needs {needs}")
    return f"without effect in this run: {'; '.join(parts)}" if parts else ""


def _is_off(value: Any, default: Any) -> bool:
    """Returns whether the value only says that something is off: 0, () or "", or False where that is the default."""
    return not value and not (isinstance(value, bool) and default)


def _value(config: ConfigDict, field: str) -> Any:
    value: Any = config
    for name in field.split("."):
        value = value[name]
    return value
