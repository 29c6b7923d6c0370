"""WebDataset's shards: tars whose members belong together by their names, 000017.jpg and 000017.cls."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from resnet_jax.data.class_labels import label_text, number_labels, read_class_names
from resnet_jax.data.image_formats import is_image
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.listing import LABEL_EXTENSIONS, Listing, StoredFile, TarMember, sample_key
from resnet_jax.data.split_names import split_in
from resnet_jax.errors import UserError, abridge, truncate
from resnet_jax.formatting import format_count

NAMES_FILES = ("classes.txt", "class_names.txt", "classnames.txt", "labels.txt", "names.txt")
_JSON_NUMBERS = ("label", "cls", "class", "class_id", "class_idx", "target", "category")
_JSON_NAMES = ("label_name", "class_name", "classname", "category_name", "name")
_MOST_CLASSES_BY_TEXT = 0.5  # of the samples: a text for more of them is a caption and no class


def open_shards(listing: Listing, options: Any) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Returns (the labelled images by split, notes) of a listing's shards.

    Raises:
      UserError: for a sample of several images, or without a label or with one that cannot be read, for images beside
        the shards, and shards of which only some are of a split by their names.
    """
    if listing.files:
        raise UserError(
            f"{listing.root} holds {listing.files[0].path} beside shards that hold their labels: move one of them away"
        )
    splits = {number: _split(listing.tars[number]) for number in listing.shards}
    if len({*splits.values()}) > 1 and "" in splits.values():
        without = next(listing.tars[number] for number, split in splits.items() if not split)
        raise UserError(
            f"{listing.root / without} is of no split by its name, and others are: name it like train-000000.tar"
        )
    files: dict[str, list[StoredFile]] = {split: [] for split in splits.values()}
    texts: dict[str, list[str]] = {split: [] for split in splits.values()}
    json_names: dict[str, str] = {}
    num_without = 0
    for number, members in listing.shards.items():
        tar = listing.root / listing.tars[number] if listing.tars[number] else listing.root
        samples, num_imageless = _samples(tar, members)
        num_without += num_imageless
        for key, (image, labels) in samples.items():
            extension = next(extension for extension in LABEL_EXTENSIONS if extension in labels)
            text, name = _label(f"{tar}/{key}.{extension}", extension, labels[extension].text)
            if name and json_names.setdefault(text, name) != name:
                raise UserError(f"{tar}/{key}.{extension} calls label {text} {name!r}, and others {json_names[text]!r}")
            stored = f"{listing.tars[number]}/{image.path}"
            files[splits[number]].append(StoredFile(stored, image.path, number, image.offset, image.size))
            texts[splits[number]].append(text)
    names, notes = _names(listing, options, texts, json_names)
    if num_without:
        notes.append(f"left aside: {format_count(num_without, 'sample')} of the shards without an image")
    where = {split: next(listing.tars[n] for n, of in splits.items() if of == split) for split in files}
    parts = {}
    for split in files:
        class_names, numbers, _ = number_labels(str(listing.root / where[split]), texts[split], names)
        parts[split] = LabelledFiles(where[split], class_names, files[split], numbers, listing.tars)
    return parts, [f"{format_count(len(listing.shards), 'shard')} of a WebDataset", *notes]


def _samples(tar: Path, members: list[TarMember]) -> tuple[dict[str, tuple[TarMember, dict[str, TarMember]]], int]:
    """Returns ({key: (image, labels by extension)} in the tar's order, how many samples have no image)."""
    images: dict[str, TarMember] = {}
    labels: dict[str, dict[str, TarMember]] = {}
    for member in members:
        if member.is_folder:
            continue
        key, extension = sample_key(member.path)
        if is_image(member.path):
            if key in images:
                raise UserError(f"{tar} holds several images of the sample {key}: {images[key].path} and {member.path}")
            images[key] = member
        elif extension in LABEL_EXTENSIONS:
            labels.setdefault(key, {})[extension] = member
    for key, image in images.items():
        if key not in labels:
            kinds = ", ".join(f".{extension}" for extension in LABEL_EXTENSIONS[:3])
            raise UserError(f"{tar} holds {image.path} and no label beside it ({kinds}): add it, or remove the image")
    return {key: (image, labels[key]) for key, image in images.items()}, len(labels.keys() - images.keys())


def _label(where: str, extension: str, text: str | None) -> tuple[str, str]:
    """Returns a label as text and, if it has one beside its number, its name."""
    try:
        if text is None:
            raise ValueError("it is too long")
        text = text.removeprefix("\ufeff").strip()
        text.encode()  # bytes that are no text cannot be encoded again
        if extension != "json":
            if not text or "\n" in text:
                raise ValueError("it must hold one label")
            return text, ""
        values = json.loads(text)
        if not isinstance(values, dict):
            values = {"label": values}
        name = next((label_text(values[key]) for key in _JSON_NAMES if isinstance(values.get(key), str)), "")
        found = next((label_text(values[key]) for key in _JSON_NUMBERS if key in values), name)
        if not found or isinstance(values.get("label"), list | dict):
            raise ValueError(f"it must hold one label, called {', '.join(_JSON_NUMBERS[:3])} …")
        return found, name if name != found else ""
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} cannot be read as a label: {truncate(str(error).splitlines()[0])}") from None


def _names(
    listing: Listing, options: Any, texts: dict[str, list[str]], json_names: dict[str, str]
) -> tuple[tuple[str, ...], list[str]]:
    """Returns the class names of all splits together, and notes on where they are from."""
    flat = [text for of_split in texts.values() for text in of_split]
    distinct = Counter(flat)
    given = options.names(listing.root)
    if given is not None:
        return given, []
    numbers = all(text.isdecimal() for text in distinct)
    if not numbers and len(distinct) > max(_MOST_CLASSES_BY_TEXT * len(flat), 1000):
        raise UserError(
            f"{listing.root}: the texts beside the images are no classes, {len(distinct):,} of {len(flat):,} differ"
        )
    inside = [f.path for f in listing.others if f.tar < 0 and f.path.rpartition("/")[2].lower() in NAMES_FILES]
    if numbers and len(inside) == 1:
        names = read_class_names(listing.root / inside[0])
        if max(map(int, distinct)) < len(names):
            return names, [f"class names by {inside[0]}"]
    if (
        numbers
        and json_names
        and json_names.keys() == distinct.keys()
        and [*range(len(distinct))] == sorted(map(int, distinct))
    ):
        return tuple(json_names[str(i)] for i in range(len(distinct))), ["class names by the shards' JSON"]
    names, _, notes = number_labels(str(listing.root), flat)
    if numbers:
        notes.append(
            f"classes have numbers for names: config.table.class_names names a file of them ({abridge(names, 4)})"
        )
    return names, notes


def _split(path: str) -> str:
    """Returns the split of a shard by its name or that of its folder, as in imagenet-validation-07.tar; "" if none."""
    return next((split for part in reversed(path.removesuffix(".tar").split("/")) if (split := split_in(part))), "")
