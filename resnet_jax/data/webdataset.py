"""WebDataset's shards: tars whose members belong together by their names, 000017.jpg and 000017.cls."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from resnet_jax.data.class_labels import (
    Label,
    check_distinct,
    find_class_names,
    label_text,
    label_texts,
    read_class_names,
    separated,
)
from resnet_jax.data.image_formats import is_image
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.listing import LABEL_EXTENSIONS, Listing, StoredFile, TarMember, sample_key
from resnet_jax.data.split_names import split_in
from resnet_jax.data.table_options import TableOptions
from resnet_jax.data.table_reader import LabelledRows
from resnet_jax.data.tables import number_groups
from resnet_jax.errors import UserError, abridge, truncate
from resnet_jax.formatting import format_count

NAMES_FILES = ("classes.txt", "class_names.txt", "classnames.txt", "labels.txt", "names.txt")
_JSON_NUMBERS = ("label", "cls", "class", "class_id", "class_idx", "target", "category")
_JSON_NAMES = ("label_name", "class_name", "classname", "category_name", "name")
_MOST_DIGITS = 18  # of a number that counts classes


def open_shards(listing: Listing, options: TableOptions) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Returns (the labelled images by split, notes) of a listing's shards.

    Raises:
      UserError: for a sample of several images, or without a label or with one that cannot be read, for images beside
        the shards, and shards of which only some are of a split by their names.
    """
    options.check_read(("label_column", "label_separator", "class_names"), "the shards of a WebDataset")
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
    rows = {split: LabelledRows(_first(listing, splits, split), [], []) for split in splits.values()}
    json_names = JsonNames()
    num_without = 0
    for number, members in listing.shards.items():
        tar = listing.root / listing.tars[number] if listing.tars[number] else listing.root
        samples, num_imageless = _samples(tar, members)
        num_without += num_imageless
        for key, (image, labels) in samples.items():
            kinds = ("json", *LABEL_EXTENSIONS) if options.label_column else LABEL_EXTENSIONS
            extension = next(extension for extension in kinds if extension in labels)
            label = _label(f"{tar}/{key}.{extension}", extension, labels[extension].text, json_names, options)
            stored = f"{listing.tars[number]}/{image.path}"
            rows[splits[number]].files.append(StoredFile(stored, image.path, number, image.offset, image.size))
            rows[splits[number]].labels.append(label)
    names, notes = _name_by_json(listing, options, rows, json_names.found) or _names(listing, options, _flat(rows))
    if num_without:
        notes.append(f"left aside: {format_count(num_without, 'sample')} of the shards without an image")
    parts, more = number_groups(listing, options, rows, names)
    return parts, [f"{format_count(len(listing.shards), 'shard')} of a WebDataset", *notes, *more]


def _first(listing: Listing, splits: dict[int, str], split: str) -> str:
    return next(listing.tars[number] for number, of in splits.items() if of == split)


def _flat(rows: dict[str, LabelledRows]) -> list[str]:
    """Returns all labels; if an image has several, one by one."""
    labels = [label for of_split in rows.values() for label in of_split.labels]
    return [text for label in labels for text in ((label,) if isinstance(label, str) else label)]


@dataclass
class JsonNames:
    """The class names that samples' JSON says beside numbers, by these; a name that differs by sample is none."""

    found: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, number: str, key: str, name: str) -> None:
        """Keeps a name.

        Raises:
          UserError: for a number that another sample calls otherwise.
        """
        if self.found.setdefault(number, name) == name:
            return
        if key != "name":  # which may be the file's
            raise UserError(f"{where} calls label {number} {name!r}, and others {self.found[number]!r}")
        self.found[number] = ""


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


def _label(where: str, extension: str, text: str | None, json_names: JsonNames, options: TableOptions) -> Label:
    """Returns a label; if JSON has a name beside its number, this is kept."""
    given = options.label_column
    try:
        if text is None:
            raise ValueError("it is too long")
        text = text.removeprefix("\ufeff").strip()
        text.encode()  # bytes that are no text cannot be encoded again
        if extension != "json":
            if given:
                raise ValueError(f"config.table.label_column={given!r} names a key of JSON, and it is none")
            if not label_text(text) or "\n" in text:
                raise ValueError("it must hold one label")
            return separated(text, options.label_separator)
        values = json.loads(text)
        if not isinstance(values, dict):
            values = {"label": values}
        keys = (given,) if given else (*_JSON_NUMBERS, *_JSON_NAMES)
        found = next((values[key] for key in keys if key in values), None)
        if isinstance(found, list):
            label: Label = label_texts(found)
        else:
            label = separated(found, options.label_separator) if isinstance(found, str) else label_text(found)
        if label == "":
            called = given or f"{', '.join(_JSON_NUMBERS[:3])} … (config.table.label_column names another key)"
            raise ValueError(f"it must hold a label, called {called}")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} cannot be read as a label: {truncate(str(error).splitlines()[0])}") from None
    if not given and isinstance(label, str) and label.isdecimal():
        for key in _JSON_NAMES:
            if isinstance(name := values.get(key), str):
                json_names.add(where, label, key, name.strip())
                break
    return label


def _name_by_json(
    listing: Listing, options: TableOptions, rows: dict[str, LabelledRows], json_names: dict[str, str]
) -> tuple[tuple[str, ...], list[str]] | None:
    """Puts names for numbers if each sample's JSON says one, and all count from 0; returns (class names, notes).

    None, and nothing is changed, if they do not, or a file says the names.
    """
    distinct = {*_flat(rows)}
    by_number = {int(text): text for text in distinct if text.isdecimal() and len(text) < _MOST_DIGITS}
    if options.class_names or [*range(len(distinct))] != sorted(by_number):
        return None
    if not all(json_names.get(text) for text in distinct):
        return None
    names = tuple(json_names[by_number[i]] for i in range(len(distinct)))
    check_distinct(f"{listing.root}: the shards' JSON", names)
    for of_split in rows.values():
        of_split.labels[:] = [json_names[label] if isinstance(label, str) else label for label in of_split.labels]
    return names, ["class names by the shards' JSON"]


def _names(listing: Listing, options: TableOptions, texts: list[str]) -> tuple[tuple[str, ...] | None, list[str]]:
    """Returns the class names of all splits together, None for the labels themselves, and notes on their source."""
    given = find_class_names(listing.root, options.class_names)
    if given is not None:
        return given, []
    distinct = {*texts}
    numbers = all(text.isdecimal() for text in distinct)
    if not numbers:
        return None, []
    inside = [f.path for f in listing.others if f.tar < 0 and f.path.rpartition("/")[2].lower() in NAMES_FILES]
    if len(inside) == 1:
        names = read_class_names(listing.root / inside[0])
        if all(len(text) < _MOST_DIGITS and int(text) < len(names) for text in distinct):
            return names, [f"class names by {inside[0]}"]
    shown = abridge(sorted(distinct, key=lambda text: (len(text), text)), 4)
    return None, [f"classes have numbers for names: config.table.class_names names a file of them ({shown})"]


def _split(path: str) -> str:
    """Returns the split of a shard by its name or its folder's, as in imagenet-validation-07.tar; "" if none."""
    return next((split for part in reversed(path.removesuffix(".tar").split("/")) if (split := split_in(part))), "")
