"""A TFDS set by its name: the builder that knows its splits and features, found without TensorFlow."""

import contextlib
import logging
import re
import shlex
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from resnet_jax.errors import UserError, suggestion
from resnet_jax.storage.address import is_address

FILE_FORMAT = "array_record"  # in which sets are prepared here
TFRECORD = "tfrecord"  # TFDS's default
# "set", "set/config", "set:1.2.3", "set/config:1.*.*"; neither another collection's ("kaggle:set") nor arguments.
_NAME = re.compile(r"(?P<set>[A-Za-z]\w*)(/(?P<config>[\w+.-]+))?(:(\d+|\*)(\.(\d+|\*)){2})?", re.ASCII)
_MOST_FEATURES_SHOWN = 12


class UnknownSetError(UserError):
    """TFDS has no set of that name."""


def data_root(data_dir: str, name: str = "") -> Path:
    """Returns the folder of the prepared sets; "" is TFDS's own default.

    Args:
      name: the set that is needed, of an address's sets.
    """
    if is_address(data_dir):
        from resnet_jax.storage.image_folder import local_folder

        return local_folder(data_dir, name)
    return Path(data_dir or "~/tensorflow_datasets").expanduser()


# By module; TFDS imports importlib_resources without declaring it.
PACKAGES = {
    "tensorflow_datasets": "tensorflow-datasets",
    "importlib_resources": "importlib-resources",
    "array_record": "array-record",
    "google_crc32c": "google-crc32c",
}


def find_builder(name: str, data_dir: str) -> Any:
    """Returns TFDS's builder of the image classification set `name`, which may not be prepared yet.

    Args:
      name: as TFDS has it, "set", "set/config" or "set:version".

    Raises:
      UserError: for a name that TFDS does not know, a set of another kind, one that lies prepared in a format that
        cannot be read, and where TFDS is not installed.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    tfds = import_for_tfds("tensorflow_datasets", name)

    where = data_root(data_dir, re.split("[/:]", name)[0])
    if where.exists() and not where.is_dir():
        raise UserError(f"config.data_dir={str(where)!r} must be a folder")
    if (matched := _NAME.fullmatch(name)) is None:
        raise UserError(f"TFDS set {name!r} must be named as NAME, NAME/CONFIG or NAME:VERSION{_nearest(name)}")
    try:
        builder = tfds.builder(name, data_dir=where)
        if builder.is_prepared():  # the builder in TFDS's code overlooks formats that a conversion has added
            builder = tfds.builder_from_directory(builder.data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise UnknownSetError(f"TFDS has no set {name!r}{_nearest(name)}") from error
    except OSError as error:
        raise UserError(f"config.data_dir={str(where)!r} cannot be used: {error.strerror or error}") from error
    except Exception as error:  # builders refuse a config or version with whatever they like
        set_name, config = matched["set"], matched["config"]
        if config and config not in (known := _configs(set_name)):
            raise UserError(f"TFDS set {set_name!r} has no config {config!r}{suggestion(config, known)}") from error
        reason = re.sub(r"^Failed to construct dataset .*?\}\": ", "", one_line(error))
        raise UserError(f"TFDS set {name!r} cannot be used: {reason}") from error
    _check_features(name, builder)
    if builder.is_prepared():
        _check_file_format(name, builder)
    return builder


def prepared_variants(builder: Any, data_dir: str) -> list[str]:
    """Returns the names of the other configs and versions of the builder's set that lie prepared."""
    folder = data_root(data_dir, builder.name) / builder.name
    variants = [path.parent.relative_to(folder).parts for path in folder.glob("**/[0-9]*/dataset_info.json")]
    return sorted(f"{'/'.join((builder.name, *config))}:{version}" for *config, version in variants)


def one_line(error: object) -> str:
    """Returns an error's text as a part of a message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:399]}…"


def _configs(set_name: str) -> list[str]:
    import tensorflow_datasets as tfds

    with contextlib.suppress(tfds.core.DatasetNotFoundError):  # a prepared set without code
        return list(tfds.builder_cls(set_name).builder_configs)
    return []


def set_names() -> list[str]:
    """Returns the names of TFDS's sets, of any kind."""
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def _nearest(name: str) -> str:
    return suggestion(re.split("[/:]", name)[0].lower(), set_names())


def _check_features(name: str, builder: Any) -> None:
    import tensorflow_datasets as tfds

    features = builder.info.features
    found = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = found.get("image"), found.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        listed = [f"{key!r} ({type(feature).__name__})" for key, feature in sorted(found.items())]
        if len(listed) > _MOST_FEATURES_SHOWN:
            listed[_MOST_FEATURES_SHOWN:] = ["…"]
        raise UserError(
            f"TFDS set {name!r} has the features {', '.join(listed) or type(features).__name__}: image classification "
            "needs an Image named 'image' and a ClassLabel named 'label'"
        )
    if len(image.shape) != 3 or image.shape[-1] not in (1, 3) or image.np_dtype != np.uint8:
        raise UserError(
            f"TFDS set {name!r} has images of shape {image.shape} and type {np.dtype(image.np_dtype)}: only images of "
            "8 bits with 1 or 3 channels can be read"
        )


def _check_file_format(name: str, builder: Any) -> None:
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if formats & {FILE_FORMAT, TFRECORD}:
        return
    described = " and ".join(sorted(formats))
    needed = {"tensorflow": "'resnet-family-jax[prepare]'", "apache_beam": "apache-beam"}  # by the script
    to_install = " ".join(package for module, package in needed.items() if find_spec(module) is None)
    command = [
        sys.executable, "-m", "tensorflow_datasets.scripts.convert_format", f"--dataset_version_dir={builder.data_dir}",
        f"--out_file_format={FILE_FORMAT}",
    ]  # fmt: skip
    raise UserError(
        f"{name} in {builder.data_dir} is prepared as {described}: convert it, within that folder, with "
        f"{'pip install ' + to_install + ' && ' if to_install else ''}{shlex.join(command)} — or give another "
        "config.data_dir"
    )


def import_for_tfds(module: str, name: str) -> ModuleType:
    """Returns the module, which the TFDS set `name` needs.

    Raises:
      UserError: saying what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if near := suggestion(name.lower(), ("digits", "folder")):
            raise UserError(
                f"dataset={name!r} must be one of digits, folder and the sets of TFDS, which is not complete here{near}"
            ) from error
        # All at once, and the module's own package too where something that it imports is missing: pip then adds that.
        missing = [package for other, package in PACKAGES.items() if other == module or not _is_importable(other)]
        raise UserError(
            f"dataset={name!r} is none of digits and folder, and sets of TFDS need more packages ({error}): "
            f"pip install {' '.join(missing)}"
        ) from error


def _is_importable(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True
