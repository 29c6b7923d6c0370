"""Lists what lies in a folder of images, those in its tars among it, at once; nothing is decoded."""

import contextlib
import errno
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from resnet_jax.data.image_formats import is_image
from resnet_jax.data.kept_files import kept_file
from resnet_jax.data.listing import LABEL_EXTENSIONS, Listing, StoredFile, TarMember, sample_key
from resnet_jax.data.split_names import SPLIT_FOLDERS, is_belonging, name_splits, split_in, split_of
from resnet_jax.data.tars import list_tar
from resnet_jax.errors import UserError

# What unpacking and desktops leave behind, which holds none of the set's images.
IGNORED_FOLDERS = ("__MACOSX", "@eaDir", "lost+found", "System Volume Information", "$RECYCLE.BIN")
IGNORED_FILES = ("thumbs.db", "desktop.ini")
ARCHIVES = (".zip", ".7z", ".rar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
_SHARD = re.compile(r"(^|[-_.])\d{4,}$")  # train-000017: a number that says nothing of what is inside
INDEXED_BYTES = 2**26  # of a tar whose listing is kept: a smaller one is listed in no time


def list_folder(root: Path) -> Listing:
    """Returns the image files under `root`, a folder or a tar; nothing is decoded.

    A tar stands for its content, where it lies: root/train/00.tar that holds cat/1.jpg is as good as
    root/train/cat/1.jpg, and so is root/train-00.tar.

    Raises:
      UserError: if something cannot be read, or an image is there twice, in a tar and beside it or in two.
    """
    listing = Listing(root)
    if root.suffix.lower() == ".tar" and root.is_file():
        _add_tar(listing, "", "")
        return listing
    tars: dict[str, list[str]] = {}  # by the folder that they lie in
    for path, fault in _walk(root, "", listing.real_paths, {os.path.realpath(root)}):
        if fault:
            raise UserError(f"{root / path} {fault}{'' if fault.startswith('cannot') else ': remove it'}")
        if path.lower().endswith(".tar"):
            tars.setdefault(path.rpartition("/")[0], []).append(path)
        else:
            _add(listing, StoredFile(path, path))
    listing.folders.update(listing.real_paths)
    below = [*listing.folders, *(path for paths in tars.values() for path in paths)]
    for folder, paths in tars.items():
        _add_tars(listing, folder, paths, below)
    _check_twice(listing)
    return listing


def _add_tars(listing: Listing, folder: str, paths: list[str], below: list[str]) -> None:
    """Adds the content of the tars `paths`, which lie in one folder: each as a split where their names divide the set.

    If one is called like masks, each stands for a folder with its name, or masks would be images of the classes.

    Args:
      below: paths of all folders and tars.
    """
    beside = [path.rpartition("/")[2] for path in listing.real_paths if path.rpartition("/")[0] == folder]
    stems = {path: Path(path).stem for path in paths}
    names = [*beside, *stems.values()]
    listed = {}
    if len({*map(split_in, names)}) > 1:  # only then do names say how the set is divided
        listed = {path: _list_tar(listing.root / path) for path in paths}
    depth = len(folder) + 1 if folder else 0
    inside = itertools.chain(
        (f"{path[depth:]}/x" for path in below if path.startswith(f"{folder}/" if folder else "")),
        (f"{stems[path]}/{member.path}" for path in listed for member in listed[path] if is_image(member.path)),
    )
    splits = name_splits(names, inside)
    apart = len(paths) > 1 and any(map(is_belonging, stems.values()))
    for path in paths:
        split, usual = splits.get(stems[path]), split_of(Path(path).name)
        if split:
            usual = next((name for name in beside if splits.get(name) == split), usual or SPLIT_FOLDERS[split][0])
        inner = usual if split or not folder else ""
        _add_tar(listing, path, folder, inner or (stems[path] if apart else ""), listed.pop(path, None))


def _add_tar(listing: Listing, path: str, folder: str, inner: str = "", members: list[TarMember] | None = None) -> None:
    """Adds the content of the tar at `path` from the root, as if it were unpacked into `folder`.

    A tar of loose images stands for a folder with its name: ImageNet's n01440764.tar is a class.

    Args:
      inner: the name of the folder inside `folder` that it stands for, for example a split's; "": its contents decide.
      members: its content, if that is known.
    """
    members = _list_tar(listing.root / path if path else listing.root) if members is None else members
    number = len(listing.tars)
    listing.tars.append(path)
    if holds_labels(members):
        listing.shards[number] = members
        return
    stem = Path(path).stem
    images = [member.path for member in members if not member.is_folder and is_image(member.path)]
    is_loose = path and images and not any("/" in name for name in images)
    name = stem if is_loose and not _SHARD.search(stem) else ""
    above = [*filter(None, (folder, inner or name))]
    if above:
        listing.folders.add("/".join(above))
    outer, _, last = "/".join(above).rpartition("/")
    for member in members:
        inside = not last or member.path.split("/")[0] == last  # as in train.tar, which holds train/
        _add_member(listing, member, "/".join(filter(None, (outer, "" if inside else last, member.path))), number)


def _add_member(listing: Listing, member: TarMember, path: str, number: int) -> None:
    above = path.split("/")[: None if member.is_folder else -1]
    if any(name in IGNORED_FOLDERS for name in above):
        return
    listing.folders.update("/".join(above[: i + 1]) for i in range(len(above)))
    if not member.is_folder:
        _add(listing, StoredFile(path, member.path, number, member.offset, member.size))


def _add(listing: Listing, file: StoredFile) -> None:
    (listing.files if is_image(file.path) else listing.others).append(file)


def _list_tar(tar: Path) -> list[TarMember]:
    """Does as `list_tar`; the listing of a large tar is kept, and read instead while the tar is as it was."""
    with contextlib.suppress(OSError, UserError):  # where nothing can be kept, the tar itself is read below
        if tar.stat().st_size >= INDEXED_BYTES:
            return _read_index(kept_file("tars", [tar], lambda path: _write_index(path, list_tar(tar)), ".jsonl"))
    return list_tar(tar)


def _write_index(path: Path, members: list[TarMember]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(json.dumps(member) + "\n" for member in members)


def _read_index(path: Path) -> list[TarMember]:
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        return [TarMember(*json.loads(line)) for line in file]


def holds_labels(members: list[TarMember]) -> bool:
    """Returns whether most images of a tar have their label in a file beside them: 000017.jpg and 000017.cls.

    Text and JSON beside the images of class folders are notes, no labels.
    """
    labels = {sample_key(member.path)[1] for member in members} & {*LABEL_EXTENSIONS}
    images = [member.path for member in members if not member.is_folder and is_image(member.path)]
    if not images or not labels or ("cls" not in labels and any("/" in path for path in images)):
        return False
    keys = {key for key, extension in map(sample_key, (member.path for member in members)) if extension in labels}
    return 2 * sum(sample_key(path)[0] in keys for path in images) > len(images)


def _check_twice(listing: Listing) -> None:
    if not listing.tars or len({file.path for file in listing.files}) == len(listing.files):
        return
    seen: dict[str, StoredFile] = {}
    for file in listing.files:
        first = seen.setdefault(file.path, file)
        if first is not file:
            tars = [listing.tars[one.tar] for one in (first, file) if one.tar >= 0]
            where = "in a tar and beside it" if len(tars) == 1 else f"in the tars {' and '.join(tars)}"
            raise UserError(f"{listing.root / file.path} is there twice, {where}: remove one of them")


def list_images(root: Path) -> list[tuple[Path, str]]:
    """Returns the image files under the folder `root`, as `list_folder` finds them but not in tars, in the order of
    names.

    With each comes what is wrong with it, as a reason: what is neither a file nor a folder that can be read is among
    them.

    Raises:
      UserError: if the root itself cannot be read.
    """
    found = []
    for path, fault in _walk(root, "", {}, {os.path.realpath(root)}):
        if fault and not path:
            raise UserError(f"{root} {fault}")
        if fault or is_image(path):
            found.append((root / path, fault and f"it {fault}"))
    return found


def _walk(root: Path, folder: str, folders: dict[str, str], seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yields (path, "") of the files under root/folder, relative to the root.

    Their folders are added to `folders`, each with where it lies, links followed.

    Of what is neither a file nor a folder that can be read, (path, what to say of it).
    """
    try:
        with os.scandir(root / folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        yield folder, f"cannot be read as a folder of images: {error.strerror}"
        return
    for entry in found:
        path = f"{folder}/{entry.name}" if folder else entry.name
        try:
            # List a broken link too: reading it reports the error, leaving it out would change the result.
            is_file = entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
            is_folder = entry.is_dir()
        except OSError as error:
            reason = "leads to itself" if error.errno == errno.ELOOP else f"cannot be followed ({error.strerror})"
            yield path, f"is a link that {reason}"
            continue
        if is_file:
            if entry.name.lower() not in IGNORED_FILES:
                yield path, ""
        elif not is_folder:
            yield path, "is neither a file nor a folder"
        elif entry.name in IGNORED_FOLDERS:
            continue
        elif (real := os.path.realpath(root / path)) not in seen:  # links may lead in circles
            folders[path] = real
            yield from _walk(root, path, folders, seen | {real})
