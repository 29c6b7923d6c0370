"""Labelled files of the rows that tables, shards and Parquet files come to: numbered alike in all splits."""

from collections.abc import Mapping
from dataclasses import replace

from resnet_jax.data.class_counts import check_counts
from resnet_jax.data.class_labels import number_splits
from resnet_jax.data.labelled import LabelledFiles
from resnet_jax.data.labels import relabelled
from resnet_jax.data.listing import Listing
from resnet_jax.data.separators import check_one_label, check_several_labels
from resnet_jax.data.split_names import UNDIVIDED, is_unlabelled
from resnet_jax.data.table_options import TableOptions
from resnet_jax.data.table_reader import LabelledRows, TableReader
from resnet_jax.errors import UserError, abridge
from resnet_jax.formatting import format_count


def open_found_tables(readers: Mapping[str, TableReader]) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Returns (the labelled files by split, notes) of the result of `find_tables`: one table, or one a split.

    Raises:
      UserError: for rows whose image is not there, labels that contradict each other or are hardly classes, and an
        image in two splits.
    """
    groups: dict[str, LabelledRows] = {}
    for split, reader in readers.items():
        rows, splits = reader.rows, reader.splits()
        if split == UNDIVIDED:
            kept = {of: [i for i, one in enumerate(splits) if one == of] for of in dict.fromkeys(splits)}
            groups = {of: rows.of(chosen) for of, chosen in kept.items()} or {UNDIVIDED: rows}
        elif {*splits} - {split, UNDIVIDED}:
            raise UserError(
                f"{reader.table.path} divides its images itself, and other tables are there for that: choose by "
                f"config.table.file={reader.path}"
            )
        else:
            groups[split] = rows
    _check_disjoint(groups)
    first = next(iter(readers.values()))
    notes = [note for reader in readers.values() for note in reader.notes]
    rest = len(first.listing.files) - len({file.path for rows in groups.values() for file in rows.files})
    groups, left = without_unlabelled(groups)
    parts, more = number_groups(first.listing, first.options, groups)
    if rest:
        name = "no table names" if len(readers) > 1 else f"{first.table.path.name} does not name"
        left.append(f"left aside: {format_count(rest, 'image')} that {name}")
    return parts, [*notes, *more, *left]


def number_groups(
    listing: Listing, options: TableOptions, groups: Mapping[str, LabelledRows], names: tuple[str, ...] | None = None
) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Returns (the labelled files by split, notes) of rows by split, numbered alike in all.

    Args:
      names: of all classes, as they are known elsewhere; None: as the rows have them.
    """
    paths = [*dict.fromkeys(rows.path for rows in groups.values())]
    where = str(listing.root / paths[0]) if len(paths) == 1 else f"{listing.root}: {abridge(paths)}"
    if not any(rows.files for rows in groups.values()):
        raise UserError(f"{where} names no image with a label")
    said = {rows.path: rows.class_names for rows in groups.values()}
    if names is None and len({*said.values()}) > 1:
        shown = [f"{path} says {'none' if own is None else abridge(own, 4)}" for path, own in said.items()]
        raise UserError(f"{where} must say the same classes: {'; '.join(shown)}")
    names = names or next(iter(said.values()))
    labels = {split: rows.labels for split, rows in groups.items()}
    flat = [label for of_split in labels.values() for label in of_split]
    check_several_labels(where, flat)
    checked = [] if names else check_one_label(where, flat, is_chosen=bool(options.label_column))
    names, numbers, notes = number_splits(where, labels, names)
    parts = {
        split: LabelledFiles(rows.path, names, rows.files, numbers[split], listing.tars)
        for split, rows in groups.items()
    }
    return parts, [*checked, *notes, *check_counts(where, parts)]


def _check_disjoint(groups: Mapping[str, LabelledRows]) -> None:
    """Raises UserError if an image is in two splits."""
    of: dict[str, tuple[str, str]] = {}
    for split, rows in groups.items():
        for file in rows.files:
            other = of.setdefault(file.path, (split, rows.path))
            if other[0] != split:
                raise UserError(
                    f"{other[1]} and {rows.path} name the same image, {file.path}, for {other[0]} and {split}: an "
                    "image is of one split"
                )


def without_unlabelled(groups: dict[str, LabelledRows]) -> tuple[dict[str, LabelledRows], list[str]]:
    """Returns the splits without those, other than training, whose labels are hidden, and a note on each of these.

    They are all -1, or all "?" or "unlabeled", and no other split has such a label.
    """
    labels = {split: {*rows.labels} for split, rows in groups.items()}
    hidden = [
        split
        for split, own in labels.items()
        if split not in ("train", UNDIVIDED) and len(own) < 2 and all(map(_is_hidden, own))
    ]
    known = set().union(*(own for split, own in labels.items() if split not in hidden))
    hidden = [split for split in hidden if labels[split].isdisjoint(known)]
    kept = {split: rows for split, rows in groups.items() if split not in hidden}
    return kept, [
        f"left aside: {format_count(len(rows.files), 'image')} of {split}, whose labels are all {rows.labels[0]} in "
        f"{rows.path}"
        for split, rows in groups.items()
        if split in hidden and rows.files
    ]


def _is_hidden(label: object) -> bool:
    return isinstance(label, str) and (label == "-1" or not any(map(str.isalnum, label)) or is_unlabelled(label))


def with_classes(part: LabelledFiles, where: str, names: tuple[str, ...]) -> tuple[LabelledFiles, list[str]]:
    """Returns (the same files, labelled by positions in `names`, of their classes or which their numbers count; notes).

    Raises:
      UserError: for a class that is not among them.
    """
    names, numbers, notes = number_splits(where, {UNDIVIDED: part.class_names}, names)
    return replace(part, class_names=names, labels=relabelled(part.labels, numbers[UNDIVIDED], len(names))), notes
