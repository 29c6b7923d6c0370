"""How fast training images are read from a bucket, beside the same tars on the disk.

python benchmarks/bucket_images.py DIR s3://bucket/folder [--images 2000]

DIR holds JPEGs, of which tars are made, and written to the address.
"""

import argparse
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.cli.printing import print_result
from resnet_jax.data.encoded import EncodedSource
from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.source import Keys
from resnet_jax.data.threads import DecodeThreads
from resnet_jax.storage import ranged_files
from resnet_jax.storage.image_folder import BOUND_VARIABLE, local_folder
from resnet_jax.storage.object_store import ObjectStore
from resnet_jax.training.experiment import options_of
from resnet_jax.training.images import make_transform

NUM_CLASSES = 10
IMAGES_A_TAR = 500
BATCH_SIZE = 64


def make_tars(folder: Path, photos: list[bytes], num_images: int) -> None:
    """Writes tars of class folders that hold so many of the photos, again and again."""
    for first in range(0, num_images, IMAGES_A_TAR):
        with tarfile.open(folder / f"part-{first // IMAGES_A_TAR:04}.tar", "w") as archive:
            for i in range(first, min(first + IMAGES_A_TAR, num_images)):
                member = tarfile.TarInfo(f"class{i % NUM_CLASSES}/{i:06d}.jpg")
                data = photos[i % len(photos)]
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def epoch_seconds(source: EncodedSource, epoch: int) -> float:
    """Returns how long it takes to read all images once, in another order each epoch."""
    order = np.random.RandomState(epoch).permutation(len(source))
    started = time.perf_counter()
    for batch in np.split(order, range(BATCH_SIZE, len(order), BATCH_SIZE)):
        source.read(batch, Keys(0, epoch, batch))
    return time.perf_counter() - started


def measure(photos: list[bytes], address: str, num_images: int, num_threads: int) -> dict[str, Any]:
    """Returns images a second from the disk, and from the bucket where nothing is kept, while it is kept, and then."""
    from resnet_jax.config import load_config

    options = options_of(load_config("folder"))
    transform = make_transform(options.augment, options.images, options.images.preprocess())
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RESNET_JAX_HOME"] = str(Path(scratch, "home"))
        disk = Path(scratch, "disk")
        disk.mkdir()
        make_tars(disk, photos, num_images)
        store = ObjectStore(address)
        for path in sorted(disk.iterdir()):
            store.put(path.name, path)
        reading = DatasetOptions(threads=DecodeThreads(num_threads))

        def opened(where: str | Path) -> EncodedSource:
            ranged_files.folders.clear()
            return reading.source(open_image_set(local_folder(where)).images()).transformed(transform)

        epoch_seconds(opened(disk), 0)
        result: dict[str, Any] = {"images": num_images, "bytes": sum(path.stat().st_size for path in disk.iterdir())}
        seconds: dict[str, list[float]] = {}
        for turn in range(3):
            seconds.setdefault("disk", []).append(epoch_seconds(opened(disk), turn))
            os.environ[BOUND_VARIABLE] = "0"
            seconds.setdefault("bucket, nothing kept", []).append(epoch_seconds(opened(address), turn))
            os.environ[BOUND_VARIABLE] = "100"
            started = time.perf_counter()
            source = opened(address)
            seconds.setdefault("bucket, listing", []).append(time.perf_counter() - started)
            seconds.setdefault("bucket, kept", []).append(epoch_seconds(source, turn))
        base = statistics.median(seconds["disk"])
        result["images a second from the disk"] = round(num_images / base)
        for name in ("bucket, nothing kept", "bucket, kept"):
            result[f"{name}, by the disk's"] = round(base / statistics.median(seconds[name]), 3)
        result["seconds to list the tars the first time"] = round(seconds["bucket, listing"][0], 2)
        return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of JPEGs")
    parser.add_argument("address", help="where to write tars of them: s3://bucket/folder")
    parser.add_argument("--images", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--threads", type=int, default=16, help="that read and decode (default: 16)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    paths = [path for path in sorted(arguments.folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
    photos = [path.read_bytes() for path in paths]
    if not photos:
        parser.error(f"{arguments.folder} holds no JPEGs")
    return print_result(measure(photos, arguments.address, arguments.images, arguments.threads), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
