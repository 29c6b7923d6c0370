"""Every image of a run decoded once: which are damaged, how large they are, and which are there twice."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from resnet_jax.data.decoding import BadImageError, EncodedImage
from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.options import ImageOptions
from resnet_jax.data.sources import Splits
from resnet_jax.data.transforms.preprocess import height_and_width
from resnet_jax.errors import abridge
from resnet_jax.formatting import format_count
from resnet_jax.preflight.finding import Finding, error, ok, warning

MOST_NAMED = 5
_UNBALANCED = 10  # the largest class by the smallest


@dataclass
class _Decoded:
    """The facts from decoding one split; each image at its position.

    Attributes:
      digests: of the pixels; empty for a damaged image. sizes (N, 2): width, height in pixels.
    """

    source: EncodedSource
    digests: list[bytes] = field(init=False)
    sizes: np.ndarray = field(init=False)
    modes: list[str] = field(init=False)
    labels: list[str] = field(init=False)
    damaged: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.source)
        self.digests, self.modes, self.labels = [b""] * count, [""] * count, [""] * count
        self.sizes = np.zeros((count, 2), np.int64)

    def decode(self, position: int) -> None:
        """Decodes the image at `position`, and keeps the facts of interest."""
        try:
            data, label = self.source.encoded.read(int(self.source.indices[position]))
            image = EncodedImage(data, self.source.name(position), options=self.source.decode)
            pixels = image.pixels()
        except BadImageError as fault:
            self.damaged[position] = fault.reason
            return
        self.digests[position] = hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).data).digest()
        self.sizes[position] = image.size
        self.modes[position] = image.mode
        self.labels[position] = str(np.asarray(label).tolist())


def check_all_images(options: ImageOptions, splits: Splits) -> Iterator[Finding]:
    """Yields the findings from decoding every image: damage, sizes, modes, balance, and duplicates by their pixels.

    Images in memory, which are decoded already, give no finding.
    """
    named = {"training": splits.train, "validation": splits.validation, "test": splits.test}
    decoded: dict[str, _Decoded] = {}
    for split, source in named.items():
        if isinstance(source, EncodedSource):
            decoded[split] = _Decoded(source)
            source.threads.for_each(decoded[split].decode, len(source))
    num_damaged = sum(len(of_split.damaged) for of_split in decoded.values())  # a run counts those of all splits
    for split, of_split in decoded.items():
        yield from _check_split(options, split, of_split, num_damaged)
    yield from _check_leaks(decoded)


def _check_split(options: ImageOptions, split: str, decoded: _Decoded, num_damaged: int) -> Iterator[Finding]:
    source, subject = decoded.source, f"deep {split}"
    good = [i for i in range(len(source)) if i not in decoded.damaged]
    if decoded.damaged:
        names = [f"{source.name(i)} ({reason})" for i, reason in sorted(decoded.damaged.items())]
        yield error(
            subject,
            f"{len(names):,} of {len(source):,} images cannot be read: {abridge(names, MOST_NAMED)}",
            f"replace or remove them, or --config.max_bad_images={num_damaged}",
        )
    if not good:
        return
    widths, heights = decoded.sizes[good].T
    modes = ", ".join(f"{count:,} {mode}" for mode, count in Counter(decoded.modes[i] for i in good).most_common())
    yield ok(
        subject,
        f"{format_count(len(good), 'image')} decoded, {widths.min()} to {widths.max()} pixels wide "
        f"(median {np.median(widths):g}), {heights.min()} to {heights.max()} high (median {np.median(heights):g}); "
        f"{modes}",
    )
    height, width = height_and_width(options.crop)
    small = [i for i in good if decoded.sizes[i][0] < width or decoded.sizes[i][1] < height]
    if small:
        names = [source.name(i) for i in small]
        yield warning(
            subject,
            f"{format_count(len(small), 'image')} smaller than the crop of {width}x{height} pixels, to be enlarged: "
            f"{abridge(names, MOST_NAMED)}",
            f"--config.image_size={int(decoded.sizes[good].min())}, or larger images",
        )
    counts = Counter(decoded.labels[i] for i in good)
    if not source.multi_label and max(counts.values()) > _UNBALANCED * min(counts.values()):
        (largest, most), (smallest, least) = counts.most_common()[0], counts.most_common()[-1]
        classes = source.class_names
        yield warning(
            subject,
            f"classes are unbalanced: {most:,} images of {classes[int(largest)]}, {least:,} of "
            f"{classes[int(smallest)]}",
            "look at the accuracy of each class (evaluate --report)",
        )
    yield from _check_duplicates(subject, decoded)


def _check_duplicates(subject: str, decoded: _Decoded) -> Iterator[Finding]:
    """Yields images of a split that have the same pixels, and separately those whose labels differ."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for i, digest in enumerate(decoded.digests):
        if digest:
            same[digest].append(i)
    groups = [positions for positions in same.values() if len(positions) > 1]
    differing = [group for group in groups if len({decoded.labels[i] for i in group}) > 1]
    if differing:
        names = [decoded.source.name(i) for i in differing[0]]
        yield warning(
            subject,
            f"{format_count(len(differing), 'image')} there with different labels: {abridge(names, MOST_NAMED)}",
            "keep the right one of each",
        )
    if alike := [group for group in groups if group not in differing]:
        names = [decoded.source.name(i) for i in alike[0]]
        yield warning(
            subject,
            f"{format_count(len(alike), 'image')} there more than once: {abridge(names, MOST_NAMED)}",
            "keep one of each",
        )


def _check_leaks(decoded: dict[str, _Decoded]) -> Iterator[Finding]:
    """Yields validation and test images that are training images as well, or one another's."""
    seen: dict[bytes, tuple[str, int]] = {}
    leaks: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for split, of_split in decoded.items():
        for i, digest in enumerate(of_split.digests):
            first = seen.setdefault(digest, (split, i)) if digest else (split, i)
            if first[0] != split:
                leaks[split, first[0]].append((i, first[1]))
    for (split, other), pairs in leaks.items():
        names = [f"{decoded[split].source.name(i)} is {decoded[other].source.name(j)}" for i, j in pairs]
        yield warning(
            "deep leaks",
            f"{format_count(len(pairs), f'{split} image')} among the {other} images, by their pixels: "
            f"{abridge(names, MOST_NAMED)}",
            "remove them from one of the two, or results are too good",
        )
    if len(decoded) > 1 and not leaks:
        yield ok("deep leaks", f"no image is in two of {', '.join(decoded)}")
