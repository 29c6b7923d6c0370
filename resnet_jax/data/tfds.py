"""TFDS data sets: prepared once in a process of its own (with TensorFlow), then read into memory without TensorFlow."""

import hashlib
import io
import logging
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnet_jax.errors import UserError

NETWORK_TIMEOUT_SECONDS = 5
# Reading record by record takes twice as long; two threads win what Pillow does without the interpreter lock.
READ_CHUNK = 500
READ_THREADS = 2
# TensorFlow is hidden from accelerators, or it would take their memory, and kept quiet.
PREPARE_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}


def load_arrays(name: str, split: str, data_dir: str = "") -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images (N, H, W, 3) uint8, labels (N,) int32 and class names of a TFDS set whose images have one size.

    Prepares the set first where it is not: from the archive in `manual_dir(data_dir)`, else from the network.
    Raises UserError (a ValueError) in seconds if that is not possible, with what to do.
    """
    builder = _builder(name, data_dir)
    if not builder.is_prepared():
        _prepare_in_subprocess(name, data_dir)
        builder = _builder(name, data_dir)
    import tensorflow_datasets as tfds

    records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    num_images = len(records)
    images = np.empty((num_images, *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(num_images, np.int32)

    def read(start: int) -> None:
        indices = range(start, min(start + READ_CHUNK, num_images))
        for i, record in zip(indices, records.__getitems__(indices), strict=True):
            images[i] = Image.open(io.BytesIO(record["image"]))
            labels[i] = record["label"]

    with ThreadPoolExecutor(READ_THREADS) as pool:
        list(pool.map(read, range(0, num_images, READ_CHUNK)))
    return images, labels, tuple(builder.info.features["label"].names)


def manual_dir(data_dir: str = "") -> Path:
    """The folder in which an archive that the user brings is looked for."""
    return _root(data_dir) / "downloads" / "manual"


def prepare(name: str, data_dir: str = "", url_infos: dict[str, Any] | None = None) -> None:
    """Download and prepare a TFDS set as array_record; imports TensorFlow.

    url_infos: replaces the registered sizes and checksums of the set's archives (for archives made by tests).
    Raises UserError (a ValueError) if TensorFlow is missing, an archive is damaged or the network cannot be reached.
    """
    builder = _builder(name, data_dir)
    if url_infos is not None:
        builder.url_infos.clear()
        builder.url_infos.update(url_infos)
    folder = manual_dir(data_dir)
    _check_archives(name, builder.url_infos or {}, folder)  # before TensorFlow, which takes seconds to import
    os.environ.update(PREPARE_ENVIRONMENT)
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"preparing {name} needs TensorFlow: pip install 'resnet-family-jax[prepare]' "
            "(only once; training does not need it)"
        ) from error
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))


def _root(data_dir: str) -> Path:
    """The folder of the prepared sets; "" is TFDS's own default."""
    return Path(data_dir or "~/tensorflow_datasets").expanduser()


def _builder(name: str, data_dir: str) -> Any:
    logging.getLogger("absl").setLevel(logging.ERROR)
    import tensorflow_datasets as tfds

    where = _root(data_dir)
    try:
        return tfds.builder(name, data_dir=where, file_format="array_record")
    except ValueError as error:
        if "File format is already set" not in str(error):
            raise
        raise UserError(
            f"{name} in {where} is prepared as TFRecord, which only TensorFlow reads: convert it with "
            "'python -m tensorflow_datasets.scripts.convert_format --to_file_format=array_record', or give another "
            "config.data_dir"
        ) from error
    except OSError as error:
        raise UserError(f"config.data_dir={str(where)!r} cannot be used: {error.strerror or error}") from error


def _prepare_in_subprocess(name: str, data_dir: str) -> None:
    where = _root(data_dir)
    print(f"preparing {name} in {where} (once)", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "resnet_jax.data.tfds", name, data_dir]
    result = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode == 2:
        raise UserError(result.stderr.strip().splitlines()[-1])
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise UserError(f"preparing {name} in {where} failed: {reason}")


def _check_archives(name: str, url_infos: dict[str, Any], folder: Path) -> None:
    """Raise UserError unless each archive is intact in `folder` or its server answers."""
    for url, info in url_infos.items():
        archive = folder / info.filename
        if archive.exists():
            if archive.stat().st_size != int(info.size) or _sha256(archive) != info.checksum:
                raise UserError(
                    f"{archive} is damaged or another file: expected {int(info.size)} bytes with "
                    f"sha256 {info.checksum}; delete it or replace it by {url}"
                )
        elif not _answers(url):
            raise UserError(f"{name} is not prepared and {url} cannot be reached: put {info.filename} into {folder}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _answers(url: str) -> bool:
    """Whether a server answers at `url` (through a proxy, if one is set) within NETWORK_TIMEOUT_SECONDS."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT_SECONDS):
                answered.set()
        except urllib.error.HTTPError:  # it answered, if only with a refusal: the download itself will tell
            answered.set()
        except OSError:
            pass

    # The socket's own timeout covers neither name resolution nor a list of addresses that all hang.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT_SECONDS)
    return answered.is_set()


if __name__ == "__main__":
    try:
        prepare(sys.argv[1], sys.argv[2])
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
