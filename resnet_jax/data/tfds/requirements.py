"""Finds what an unprepared TFDS set still needs, without preparing or downloading anything or asking a server."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from resnet_jax.data.tfds.archives import manual_archives
from resnet_jax.data.tfds.builder import FILE_FORMAT, TFRECORD, data_root, find_builder, one_line, prepared_variants
from resnet_jax.data.tfds.prepare import manual_dir


@dataclass(frozen=True)
class Needs:
    """Of a set that is not prepared. remedy: what to do; by_itself: training will do it, if a server answers.

    Attributes:
      image_shape: (H, W, C) of its images, None if they differ in size.
    """

    where: Path
    remedy: str
    by_itself: bool
    num_classes: int
    image_shape: tuple[int, int, int] | None


def needs_of(name: str, data_dir: str = "") -> Needs | None:
    """Returns the set's needs; None if it is prepared.

    Raises:
      UserError: as `find_builder`.
    """
    builder = find_builder(name, data_dir)
    if builder.is_prepared():
        return None
    folder = manual_dir(data_dir)
    steps, by_itself = [], True
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        archives = manual_archives(builder.MANUAL_DOWNLOAD_INSTRUCTIONS)
        missing = [archive for archive in archives if not (folder / archive).is_file()]
        if missing:
            steps.append(f"put {', '.join(missing)} into {folder}")
        elif not archives and not (folder.is_dir() and any(folder.iterdir())):
            steps.append(f"put its files into {folder}: {one_line(builder.MANUAL_DOWNLOAD_INSTRUCTIONS)}")
        by_itself = not steps
    if find_spec("tensorflow") is None:
        steps.append("pip install 'resnet-family-jax[prepare]' (only to prepare it)")
        by_itself = False
    named = [info.filename for info in (builder.url_infos or {}).values() if info.filename]
    missing = [filename for filename in named if not (folder / filename).exists()]
    steps.append(_last_step(missing, folder))
    if others := prepared_variants(builder, data_dir):
        steps.append(f"or name one that is prepared: {', '.join(others)}")
    image, label = builder.info.features["image"], builder.info.features["label"]
    shape = None if None in image.shape else image.shape
    return Needs(data_root(data_dir), "; ".join(steps), by_itself, label.num_classes, shape)


def _last_step(missing: list[str], folder: Path) -> str:
    if not missing:
        return "train prepares it, once"
    shown = ", ".join(missing if len(missing) <= 3 else [*missing[:2], "…", missing[-1]])
    return f"train downloads and prepares it, once; without a network put {shown} into {folder}"


def prepared_sets(data_dir: str = "") -> list[str]:
    """Returns the sets that lie prepared and can be read, as "set:version" or "set/config:version"."""
    root = data_root(data_dir)
    found = []
    for path in root.glob("*/**/[0-9]*/dataset_info.json"):
        try:
            info = json.loads(path.read_text())
            formats = [info.get("fileFormat"), *info.get("alternativeFileFormats", [])]
        except (OSError, ValueError, AttributeError):
            continue
        if {FILE_FORMAT, TFRECORD} & {*formats}:
            *name, version = path.parent.relative_to(root).parts
            found.append(f"{'/'.join(name)}:{version}")
    return sorted(found)
