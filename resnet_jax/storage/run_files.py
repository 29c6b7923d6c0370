"""The files of a run in a bucket: which of them make a checkpoint, and how they come to this machine."""

import atexit
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resnet_jax.errors import RunError, UserError
from resnet_jax.filesystem import expand
from resnet_jax.storage.address import check_key, is_address
from resnet_jax.storage.object_store import ObjectStore
from resnet_jax.storage.run_index import INDEX_FILE, Files, files_by_listing, read_index

NUM_THREADS = 8  # that transfer files at a time
# The folders of checkpoints in a run's folder, whose steps are whole or absent.
STEP_FOLDERS = ("checkpoints", "best")
MANIFEST_FILE = "manifest.json"  # of a step: the last of its files that comes, and the first that goes
_NUM_LOOKS = 5  # at an index whose files are removed by its run while they are read


def read_run(text: str | Path, *, arrays: bool = True, may_be_new: bool = False) -> Path:
    """Returns the folder of a run, or of converted weights, to read from: a path as it is, or of an address a copy that
    is removed when the process ends.

    Args:
      arrays: checkpoints are to be had as well, not only what a run says of itself.
      may_be_new: of an address where nothing is yet, an empty folder instead of an error.

    Raises as `open_workdir`; UserError if nothing is there.
    """
    if not is_address(text):
        return expand(text)
    parent = Path(tempfile.mkdtemp(prefix="resnet_jax-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    above, _, name = str(text).rstrip("/").rpartition("/")
    # Of one file: a folder's name with a dot in it is looked for next.
    if Path(name).suffix and not above.endswith(":/"):
        if ObjectStore(above, may_be_bucket=True).download(name, parent / name):
            return parent / name
        (parent / name).unlink(missing_ok=True)
    store = ObjectStore(str(text))
    if not download_run(store, parent / name, arrays=arrays) and not may_be_new:
        raise UserError(f"{store.address} holds no run and no weights: nothing is there")
    return parent / name


def download_run(store: ObjectStore, folder: Path, *, arrays: bool) -> Files:
    """Brings the run's files into `folder`, which then matches the index, and returns them."""
    for is_last in (*[False] * (_NUM_LOOKS - 1), True):
        shutil.rmtree(folder, ignore_errors=True)
        index = read_index(store)
        files = files_by_listing(store) if index is None else index.files
        wanted = {key: size for key, size in files.items() if arrays or not step_of(key) or key.endswith(".json")}
        missing = bring_files(store, wanted, folder)
        if not missing:
            return files
        if is_last:
            raise RunError(f"{store.address} has lost {missing[0]}, which its {INDEX_FILE} names")
    raise AssertionError


def bring_files(store: ObjectStore, files: Files, folder: Path) -> list[str]:
    """Writes the objects into `folder`; returns those that are not there, or of another size where that may not be."""
    folder.mkdir(parents=True, exist_ok=True)

    def bring(key: str) -> bool:
        path = folder / check_key(store.address, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return store.download(key, path) and (not step_of(key) or path.stat().st_size == files[key])

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return [key for key, is_there in zip(files, pool.map(bring, files), strict=True) if not is_there]


def step_of(key: str) -> str:
    """Returns the folder of the checkpoint that a file belongs to, as in "checkpoints/12"; empty if there is none."""
    parts = key.split("/")
    is_one = len(parts) > 2 and parts[0] in STEP_FOLDERS and parts[1].isdecimal()
    return "/".join(parts[:2]) if is_one else ""


def is_manifest(key: str) -> bool:
    """Returns whether a file is the one without which a step is not whole."""
    return bool(step_of(key)) and key.endswith(f"/{MANIFEST_FILE}")


def is_note(key: str) -> bool:
    """Returns whether a file says which checkpoint was saved last: it goes with that."""
    return key in [f"{folder}.json" for folder in STEP_FOLDERS]
