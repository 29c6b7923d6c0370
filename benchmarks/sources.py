"""How fast the same training images are read from folders, tars, WebDataset, a table and Parquet; and a start's cost.

python benchmarks/sources.py DIR [--batches 2000]

DIR holds JPEGs, of which the sources are made in a temporary folder. Needs pyarrow.
"""

import argparse
import io
import json
import resource
import statistics
import sys
import tarfile
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resnet_jax.cli.printing import print_result
from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.folder_tree import make_tree
from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.layout import plan_layout
from resnet_jax.data.listing import StoredFile
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.source import Keys
from resnet_jax.training.experiment import options_of
from resnet_jax.training.images import make_transform

NUM_CLASSES = 10


def make_sources(root: Path, photos: list[bytes], count: int) -> dict[str, Path]:
    """Writes `count` of the photos, again and again, in each of the forms; returns where each lies."""
    data = [(i, i % NUM_CLASSES, photos[i % len(photos)]) for i in range(count)]
    made = {name: root / name for name in ("folder", "tar", "webdataset", "table", "parquet")}
    for i, label, photo in data:
        for name, path in (("folder", f"class{label}/{i:06d}.jpg"), ("table", f"images/{i:06d}.jpg")):
            (made[name] / path).parent.mkdir(parents=True, exist_ok=True)
            (made[name] / path).write_bytes(photo)
    rows = "".join(f"{i:06d},class{label}\n" for i, label, _ in data)
    (made["table"] / "labels.csv").write_text(f"image,label\n{rows}")
    for name in ("tar", "webdataset", "parquet"):
        made[name].mkdir()
    with tarfile.open(made["tar"] / "all.tar", "w") as archive:
        for i, label, photo in data:
            _add(archive, f"class{label}/{i:06d}.jpg", photo)
    with tarfile.open(made["webdataset"] / "shard-000000.tar", "w") as archive:
        for i, label, photo in data:
            _add(archive, f"{i:06d}.jpg", photo)
            _add(archive, f"{i:06d}.cls", str(label).encode())
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": photo, "path": None} for *_, photo in data], kind)
    pq.write_table(pa.table({"image": images, "label": [label for _, label, _ in data]}), made["parquet"] / "0.parquet")
    return made


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def measure_reading(folder: Path, num_pairs: int, num_batches: int, batch_size: int) -> dict[str, Any]:
    """Returns each form's images a second by the folder's, measured in turn, and how memory grew over the batches."""
    from resnet_jax.config import load_config

    photos = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
    options = options_of(load_config("folder"))
    transform = make_transform(options.augment, options.images, options.images.preprocess())
    with tempfile.TemporaryDirectory() as scratch:
        made = make_sources(Path(scratch), photos, 20 * batch_size)
        reading = DatasetOptions(threads=options.images.reading().threads)
        sources = {
            name: reading.source(open_image_set(path).images()).transformed(transform) for name, path in made.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in sources}
        for turn in range(num_pairs + 1):
            for name, source in sources.items():
                spent = _read(source, turn, 4, batch_size)
                if turn:  # the first brings all to memory
                    seconds[name].append(spent)
        result: dict[str, Any] = {"images a second of a folder": 4 * batch_size / statistics.median(seconds["folder"])}
        for name in sources:
            ratios = [base / own for base, own in zip(seconds["folder"], seconds[name], strict=True)]
            result[f"{name} by folder"] = round(statistics.median(ratios), 3)
        for name, source in sources.items():
            _read(source, 100, 20, batch_size)
            before = _resident()
            _read(source, 101, num_batches, batch_size)
            result[f"{name}: MiB more after {num_batches} batches"] = round(_resident() - before, 1)
        return result


def _read(source: EncodedSource, epoch: int, num_batches: int, batch_size: int) -> float:
    started = time.perf_counter()
    for batch in range(num_batches):
        samples = (np.arange(batch_size) * 7 + batch * batch_size) % len(source)
        source.read(samples, Keys(0, epoch, samples))
    return time.perf_counter() - started


def _resident() -> float:
    """Returns this process's memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure_start(num_files: int, num_classes: int = 1000) -> dict[str, Any]:
    """Returns what understanding a listing of so many files takes, which a disk has no part in."""
    files = [
        StoredFile(path, path) for path in (f"train/n{i % num_classes:08d}/{i:08d}.JPEG" for i in range(num_files))
    ]
    folders = {"train", *(f"train/n{i:08d}" for i in range(num_classes))}
    tracemalloc.start()
    started = time.perf_counter()
    counts = Counter(file.path.rpartition("/")[0] for file in files)
    layout = plan_layout(Path("/images"), make_tree(sorted(folders), counts))
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert len(layout.splits["train"].classes) == num_classes
    return {f"seconds to understand {num_files:,} files": round(seconds, 2), "MiB for that": round(peak, 1)}


def measure_open(num_files: int, num_classes: int = 100) -> dict[str, Any]:
    """Returns what opening a folder of so many empty files takes, from listing to labels, with its peak of memory."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for label in range(num_classes):
            (root / f"class{label:03d}").mkdir()
        for i in range(num_files):
            (root / f"class{i % num_classes:03d}" / f"{i:08d}.jpg").touch()
        before = _resident()
        started = time.perf_counter()
        images = open_image_set(root).images()
        seconds = time.perf_counter() - started
        return {
            f"seconds to open {len(images):,} files": round(seconds, 2), "MiB more": round(_resident() - before, 1)
        }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=15, help="measurements of each, in turn (default: 15)")
    parser.add_argument("--batches", type=int, default=2000, help="over which memory is looked at (default: 2000)")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--files", type=int, default=1_000_000, help="of the start (default: 1000000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    result = {
        **measure_start(arguments.files),
        **measure_open(arguments.files),
        **measure_reading(arguments.folder, arguments.pairs, arguments.batches, arguments.batch_size),
    }
    return print_result(json.loads(json.dumps(result)), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
