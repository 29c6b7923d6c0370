"""Weights of Keras: .keras archives, .weights.h5 and older .h5 files of the ResNets of keras.applications."""

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.weights.formats.hdf5_file import MAX_OBJECTS, Source, follow, tensor, texts, walk
from resnet_jax.weights.formats.keras_names import (
    V1,
    V2,
    VARIABLES,
    is_keras_resnet,
    is_v2,
    names_by_order,
    names_by_path,
    torch_name,
)
from resnet_jax.weights.formats.keras_published import published_weights
from resnet_jax.weights.formats.named_tensors import NamedTensors, translate
from resnet_jax.weights.formats.zip_entries import open_zip
from resnet_jax.weights.lazy_tensor import reading

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MAX_CONFIG_BYTES = 64 * 2**20
NOTE = (
    "Keras' published weights of version 1 take blue first: bgr=True (convert --bgr) makes the network one for red "
    "first"
)
NO_RESNET = (
    "{} is an HDF5 file or Keras archive whose layers are not named as those of a ResNet of keras.applications "
    "(conv2_block1_1_conv): their padding and strides are not known"
)
Entries = dict[str, dict[str, Any]]  # variables by their names, by layer
_LAYER = re.compile(r"(conv2d|batch_normalization|dense)(?:_(\d{1,5}))?")


def is_keras_archive(names: list[str]) -> bool:
    """Returns whether a zip archive of entries of these names is a .keras file."""
    return CONFIG in names and WEIGHTS in names


def open_keras_archive(path: Path) -> NamedTensors:
    """Returns the tensors of a .keras file by torchvision's names, none read yet.

    Raises:
      UserError: if it is damaged, or of no ResNet of keras.applications.
    """
    with reading(path), open_zip(path) as archive:
        for name in (CONFIG, WEIGHTS):
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise UserError(f"{path} has compressed entries: Keras writes none; load it and save it again")
        if archive.getinfo(CONFIG).file_size > MAX_CONFIG_BYTES:
            raise ValueError(f"its {CONFIG} has more than {MAX_CONFIG_BYTES} bytes")
        names = names_by_path(json.loads(archive.read(CONFIG)))
        with archive.open(WEIGHTS) as stream:
            source = Source(path, stream.read())
    return _named(source, names)


def open_hdf5(path: Path) -> NamedTensors:
    """Returns the tensors of an HDF5 file of Keras', of version 3 or before, by torchvision's names, none read yet.

    Raises:
      UserError: if it is damaged, or of no ResNet of keras.applications.
    """
    return _named(Source(path), {})


def _named(source: Source, known: Mapping[str, str]) -> NamedTensors:
    with source.opened() as file:
        root = file.get("model_weights", file)
        entries = _legacy_entries(source, root) if "layer_names" in root.attrs else _entries(source, root, known)
    if not is_keras_resnet(entries):
        raise UserError(NO_RESNET.format(source.path))
    flat = {f"{layer}/{name}": value for layer, variables in entries.items() for name, value in variables.items()}
    v2 = is_v2(entries)

    def rename(name: str) -> str | None:
        layer, _, variable = name.rpartition("/")
        found = torch_name(layer, variable, v2=v2)
        # A user's own head is found by its shape.
        return found or f"{layer}.{'weight' if variable == 'kernel' else variable}"

    with reading(source.path):
        named = translate(flat, rename, "keras", V2 if v2 else V1)
    takes_blue_first = not v2 and published_weights(source.path.name) is not None
    return replace(named, note=NOTE) if takes_blue_first else named


def _legacy_entries(source: Source, root: Any) -> Entries:
    """Returns the variables of a file of before Keras 3, in which layers are groups with lists of their variables."""
    entries: Entries = {}
    num_names = 0
    for layer in texts(root, "layer_names"):
        group = follow(root, layer)
        names = texts(group, "weight_names")
        num_names += 1 + len(names)
        if num_names > MAX_OBJECTS:
            raise ValueError(f"it names more than {MAX_OBJECTS} layers and variables")
        for name in names:
            *modules, variable = name.split("/")
            inner = modules[-1] if modules else layer
            entries.setdefault(inner, {})[variable.partition(":")[0]] = tensor(source, follow(group, name))
    return entries


def _entries(source: Source, root: Any, known: Mapping[str, str]) -> Entries:
    """Returns the variables of a file of Keras 3, whose layers are numbered by class; later ones say their names.

    known: names of layers by their paths, where the file does not say them.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for path, item in walk(source, root):
        above, _, last = path.rpartition("/")
        layer = above.rpartition("/")[0]
        match = _LAYER.fullmatch(layer.rpartition("/")[2])
        if match is None or above.rpartition("/")[2] != "vars" or not last.isdecimal() or path.startswith("optimizer"):
            continue
        named = texts(root[above], "name")
        _, variables = found.setdefault(layer, (named[0] if named else known.get(layer, ""), {}))
        names = VARIABLES[match[1]]
        variables[names[int(last)] if int(last) < len(names) else last] = tensor(source, item)
    if found and not all(name for name, _ in found.values()):
        return _by_order({layer: variables for layer, (_, variables) in found.items()})
    return dict(found.values())


def _by_order(layers: Mapping[str, dict[str, Any]]) -> Entries:
    """Returns the variables by the names that their layers have in a ResNet, from their order by class."""
    kinds: dict[str, list[tuple[int, dict[str, Any]]]] = {kind: [] for kind in VARIABLES}
    for layer, variables in layers.items():
        match = _LAYER.fullmatch(layer.rpartition("/")[2])
        assert match is not None
        kinds[match[1]].append((int(match[2] or 0), variables))
    convolutions, norms, heads = (
        [variables for _, variables in sorted(kinds[kind], key=lambda one: one[0])]
        for kind in ("conv2d", "batch_normalization", "dense")
    )
    kernels = [variables["kernel"].shape for variables in convolutions]
    names, norm_names = names_by_order(kernels, len(norms))
    entries = dict(zip([*names, *norm_names], [*convolutions, *norms], strict=True))
    return entries | ({"predictions": heads[0]} if len(heads) == 1 else {})
