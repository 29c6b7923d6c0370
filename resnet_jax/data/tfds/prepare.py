"""Prepares a TFDS set: once, in a separate process, the only place where TensorFlow is imported."""

import contextlib
import glob
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from resnet_jax.data.tfds.archives import check_archives
from resnet_jax.data.tfds.builder import FILE_FORMAT, data_root, find_builder, import_for_tfds, one_line
from resnet_jax.errors import UserError
from resnet_jax.filesystem import lock

logger = logging.getLogger(__name__)

# TensorFlow is hidden from accelerators, or it would take their memory, and kept quiet.
PREPARE_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
STOPPING_SIGNALS = (signal.SIGTERM, signal.SIGINT)
REMOVAL_ATTEMPTS = 5


def manual_dir(data_dir: str = "") -> Path:
    """Returns the folder in which an archive that the user brings is looked for."""
    return data_root(data_dir) / "downloads" / "manual"


def prepare(name: str, data_dir: str = "", url_infos: dict[str, Any] | None = None) -> None:
    """Downloads and prepares a TFDS set as array_record; imports TensorFlow.

    A process that prepares the same set meanwhile is waited for. Nothing half-prepared stays if this one fails, and
    a killed one's leftovers are removed.

    Args:
      url_infos: replaces the registered sizes and checksums of the set's archives (for archives made by tests).

    Raises:
      UserError: if TensorFlow or an archive is missing, an archive is damaged or the network cannot be reached.
    """
    with contextlib.ExitStack() as tidying:
        _prepare(name, data_dir, url_infos, tidying)


def _prepare(name: str, data_dir: str, url_infos: dict[str, Any] | None, tidying: contextlib.ExitStack) -> None:
    """Prepares as `prepare` does, and leaves in `tidying` the work for its end, however it ends."""
    builder = find_builder(name, data_dir)
    if builder.is_prepared():
        return
    if url_infos is not None:
        builder.url_infos.clear()
        builder.url_infos.update(url_infos)
    folder = manual_dir(data_dir)
    check_archives(name, builder, folder)  # before TensorFlow, which takes seconds to import
    os.environ.update(PREPARE_ENVIRONMENT)
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"preparing {name} needs TensorFlow: pip install 'resnet-family-jax[prepare]' "
            "(only once; training does not need it)"
        ) from error
    import_for_tfds("array_record", name)
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    config = tfds.download.DownloadConfig(manual_dir=folder)
    tidying.enter_context(_locked(data_root(data_dir) / builder.name))
    if builder.is_prepared():  # by the process that was waited for
        return
    remove_leftovers = _leftovers_remover(builder, folder.parent)
    remove_leftovers()
    tidying.callback(remove_leftovers)
    builder.download_and_prepare(download_config=config, file_format=FILE_FORMAT)
    if not builder.is_prepared():
        raise UserError(f"{builder.data_dir} is no prepared set, and TFDS does not replace it: delete that folder")


def prepare_in_subprocess(name: str, data_dir: str, builder: Any) -> None:
    """Runs `prepare` in a process that ends with this one, however this one ends; `builder` belongs to `name`."""
    where = data_root(data_dir)
    check_archives(name, builder, manual_dir(data_dir))  # the process checks again, but is seconds later
    logger.info(f"preparing {name} in {where} (once)")
    code = "from resnet_jax.data.tfds import prepare; prepare.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, name, data_dir],
        stdin=subprocess.PIPE, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        lines = process.stderr.read().strip().splitlines()
    finally:
        process.stdin.close()  # ends a process that has not ended yet: this one was interrupted
        process.wait()
        process.stderr.close()
    if process.returncode == 0:
        return
    reason = lines[-1] if lines and process.returncode > 0 else f"exit code {process.returncode}"
    raise UserError(reason if process.returncode == 2 else f"preparing {name} in {where} failed: {reason}")


def main() -> None:
    """Does the process's own part: `prepare` of its two arguments, given up when the standard input closes."""
    tidying = contextlib.ExitStack()

    def give_up(number: int, frame: FrameType | None) -> None:
        # Here and not by an exception, which is lost where Python or a library ignores it: in a destructor, a callback.
        del number, frame
        for each in STOPPING_SIGNALS:  # once is enough
            signal.signal(each, signal.SIG_IGN)
        tidying.close()
        _exit(1, "interrupted")

    for number in STOPPING_SIGNALS:
        signal.signal(number, give_up)
    threading.Thread(target=_watch_parent, daemon=True).start()
    code, message = 0, ""
    try:
        with tidying:
            _prepare(sys.argv[1], sys.argv[2], None, tidying)
    except UserError as error:
        code, message = 2, str(error)
    except Exception as error:
        code, message = 1, f"{type(error).__name__}: {one_line(error)}"
    _exit(code, message)


def _exit(code: int, message: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(sys.stderr.fileno(), f"{message}\n".encode())  # whatever a signal has interrupted may hold the buffer
    os._exit(code)  # threads that download would be waited for


def _watch_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`, which is made if need be and removed if left empty: one process prepares a set."""
    path = folder / ".preparing"
    with _acquire(path):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # not empty: the set is there
                path.unlink()
                folder.rmdir()


def _acquire(path: Path) -> TextIO:
    """Returns the file `path`, open and locked; waits for the process that holds it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # who held it has removed it, or its folder, meanwhile
            file = path.open("w")
            with contextlib.suppress(OSError):  # a file system without locks
                lock(file)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
            file.close()


def _leftovers_remover(builder: Any, downloads: Path) -> Callable[[], None]:
    """Returns what removes all that TFDS leaves of this set when it is killed: half a set, half a download or
    extraction.
    """
    from tensorflow_datasets.core.download import resource

    folder = Path(builder.data_dir)
    patterns = [(folder.parent, f"incomplete.??????_{folder.name}")]
    for url, info in (builder.url_infos or {}).items():
        patterns.append((downloads, f"{glob.escape(resource.get_dl_fname(url))}.tmp.*"))
        for archive in filter(None, (resource.get_dl_fname(url, info.checksum), info.filename)):
            patterns.append((downloads / "extracted", f"incomplete.*_*.{glob.escape(archive)}"))

    def remove() -> None:
        for _ in range(REMOVAL_ATTEMPTS):  # threads of TFDS's may still be writing there
            leftovers = [path for where, pattern in patterns for path in where.glob(pattern)]
            for path in leftovers:
                shutil.rmtree(path, ignore_errors=True)
            if not leftovers:
                return

    return remove
