"""The images: there, prepared, readable. Nothing is downloaded or prepared."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.image_set import describe_lines
from resnet_jax.data.options import ImageOptions
from resnet_jax.data.source import Source
from resnet_jax.data.sources import Splits, load_digits, missing_classes
from resnet_jax.data.tfds.builder import data_root
from resnet_jax.data.tfds.requirements import Needs, prepared_sets
from resnet_jax.preflight.dummy_data import missing_needs
from resnet_jax.preflight.finding import Finding, error, ok, warning
from resnet_jax.training.experiment import Options, load_images

MOST_CLASSES_SHOWN = 5


@dataclass
class Images:
    """The result of `check_images`: a run's images themselves, or what they would need."""

    splits: Splits | None = None
    needs: Needs | None = None


def check_images(options: Options, images: Images) -> Iterator[Finding]:
    """Yields the options' images; fills `images`.

    Raises:
      UserError: as train, if something cannot be used.
    """
    named = options.images
    images.needs = missing_needs(named)
    if (needs := images.needs) is not None:
        tell = warning if needs.by_itself else error
        yield tell("data", f"{named.dataset} is not prepared in {needs.where}", needs.remedy)
        return
    if named.dataset == "folder" and not named.data_dir:
        yield error(
            "data", "config.dataset='folder' and no config.data_dir", "--config.data_dir=DIR, of DIR/<class>/<image>"
        )
        return
    images.splits = splits = load_images(options)
    sources = {"training": splits.train, "validation": splits.validation, "test": splits.test}
    counts = ", ".join(f"{len(source):,} {name}" for name, source in sources.items() if source is not None)
    yield ok("data", f"{_place(named)}: {counts} images of {_classes(splits.train)}")
    for line in describe_lines(splits.layout)[1:] if splits.layout else ():
        yield ok("layout", line)
    for source in sources.values():
        if isinstance(source, EncodedSource):
            pixels = source.read(np.array([0])).image[0]
            yield ok("sample", f"{source.name(0)} decoded, cropped to {pixels.shape[1]}x{pixels.shape[0]}")
    if splits.validation is None:
        yield warning(
            "validation", "there are no validation images: no best model is kept", "--config.validation_fraction=0.1"
        )
    for line in missing_classes(splits.train, splits.validation, held_out=not splits.has_own_validation):
        found, _, remedy = line.partition(": ")
        yield warning("classes", found, remedy)


def check_known_sets() -> Iterator[Finding]:
    """Yields the data to train on without a config: the digits, and the sets that TFDS has prepared."""
    yield ok("digits", f"{len(load_digits('train')):,} training and {len(load_digits('test'))} test images come along")
    names = prepared_sets()
    yield ok("tfds", f"prepared in {data_root('')}: {', '.join(names) or 'none'}")


def _place(images: ImageOptions) -> str:
    if images.dataset == "folder":
        return images.data_dir
    return images.dataset if images.dataset == "digits" else f"{images.dataset} in {images.data_dir or data_root('')}"


def _classes(source: Source) -> str:
    names = source.class_names[:MOST_CLASSES_SHOWN]
    kind = "labels, several an image" if source.multi_label else "classes"
    return f"{source.num_classes} {kind} ({', '.join(names)}{', …' if source.num_classes > len(names) else ''})"
