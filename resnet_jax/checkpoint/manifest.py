"""The manifest of a checkpoint: what its arrays and files must be, bit for bit, and what else was saved with them.

The file `manifest.json` holds two lines: a JSON object, and the SHA-256 of that line. The object has "format" and
"leaves": for each item (a folder of arrays) the type, shape and SHA-256 of each of its arrays by name. The two lines
and "format" stay the same in every future format, so that a newer checkpoint is not mistaken for a damaged one.
"""

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.errors import DamagedCheckpointError, RunError, UserError, truncate

# 1: without a manifest. 2: with one.
FORMAT = 2
MANIFEST_FILE = "manifest.json"
# Beside it in a folder that the convert command has written: what the weights are of.
INFO_FILE = "weights.json"
# What a training checkpoint of format 1 has and a later one has not.
_POSITION_OF_FORMAT_1 = "position"
_MOST_SHOWN = 3
# What the operating system says of a file that has gone, or of which something else has the name.
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)

Leaf = dict[str, Any]
Leaves = dict[str, Leaf]


def leaf_digests(tree: Any) -> Leaves:
    """Returns {name: {"dtype", "shape", "sha256"}} of the arrays in a tree; the digest is of their bytes in C order."""
    return {
        jax.tree_util.keystr(path): {
            "dtype": str(leaf.dtype),
            "shape": list(leaf.shape),
            "sha256": hashlib.sha256(np.ascontiguousarray(leaf).view(np.uint8).data).hexdigest(),
        }
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def check_leaves(where: Path, tree: Any, leaves: Leaves) -> None:
    """Raises DamagedCheckpointError unless the tree's arrays are those whose digests are `leaves`, bit for bit."""
    found = leaf_digests(tree)
    wrong = [name for name in {**leaves, **found} if found.get(name) != leaves.get(name)]
    if wrong:
        raise DamagedCheckpointError(
            f"{where} is damaged: {_listed(wrong)} {'is' if len(wrong) == 1 else 'are'} not what was saved"
        )


def check_fits(where: Path, leaves: Leaves, template: Any) -> None:
    """Raises UserError (a ValueError) that names the arrays and both shapes unless `leaves` match `template`."""
    wanted = {
        jax.tree_util.keystr(path): (str(leaf.dtype), tuple(leaf.shape))
        for path, leaf in jax.tree.leaves_with_path(template)
    }
    stored = {name: (leaf["dtype"], tuple(leaf["shape"])) for name, leaf in leaves.items()}
    differences = [
        f"{truncate(name)} is {_described(stored.get(name))} there and {_described(wanted.get(name))} in the model"
        for name in {**stored, **wanted}
        if stored.get(name) != wanted.get(name)
    ]
    if differences:
        raise UserError(f"{where} is of another model: {_listed(differences, '; ')}")


def write_manifest(folder: Path, content: Mapping[str, Any], leaves: Mapping[str, Leaves]) -> None:
    """Writes the manifest of the checkpoint in `folder`: `content`, which JSON can hold, with the items' `leaves`."""
    line = json.dumps({"format": FORMAT, **content, "leaves": leaves})
    (folder / MANIFEST_FILE).write_bytes(f"{line}\n{_sha256(line)}\n".encode())  # no system's own ends of lines


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of the checkpoint in `folder`.

    Raises:
      DamagedCheckpointError: if it is missing or altered, UserError if it is of another format, RunError if the disk
        does not give it.
    """
    try:
        text = (folder / MANIFEST_FILE).read_bytes().decode("utf-8")
    except OSError as error:
        if error.errno not in NOT_THERE:  # no fault of the checkpoint, which is best left where it is
            raise RunError(f"{folder / MANIFEST_FILE} cannot be read: {error.strerror}") from error
        if (folder / _POSITION_OF_FORMAT_1).is_dir():
            raise UserError(
                f"{folder} is of the older format 1, without digests, and this version reads {FORMAT}: continue it "
                "with the version that wrote it, or train anew"
            ) from None
        if not folder.is_dir():
            raise DamagedCheckpointError(f"{folder} does not exist") from None
        if (folder / INFO_FILE).is_file():
            raise DamagedCheckpointError(
                f"{folder} is damaged, or of an older version: it has no {MANIFEST_FILE}; convert the weights again"
            ) from None
        raise DamagedCheckpointError(f"{folder} is damaged: it has no {MANIFEST_FILE}") from None
    except UnicodeDecodeError:
        raise DamagedCheckpointError(f"{folder} is damaged: {MANIFEST_FILE} is not what was saved") from None
    line, _, rest = text.partition("\n")
    if rest.strip() != _sha256(line):
        raise DamagedCheckpointError(f"{folder} is damaged: {MANIFEST_FILE} is not what was saved")
    manifest = json.loads(line)
    if manifest["format"] != FORMAT:
        raise UserError(
            f"{folder} is of format {manifest['format']}, and this version reads {FORMAT}: "
            f"{'update resnet_jax' if manifest['format'] > FORMAT else 'use the version that wrote it'}"
        )
    return manifest


def _sha256(line: str) -> str:
    return hashlib.sha256(line.encode("utf-8")).hexdigest()


def _described(leaf: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if leaf is None else f"{leaf[0]}{list(leaf[1])}"


def _listed(names: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return separator.join(map(truncate, names[:_MOST_SHOWN])) + more
