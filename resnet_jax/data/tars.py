"""Lists the content of a tar, and where each file lies, without unpacking it."""

import posixpath
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

from resnet_jax.data.listing import TarMember
from resnet_jax.errors import UserError
from resnet_jax.storage.ranged_files import ReadOnlyFile, open_file

TEXT_EXTENSIONS = (".cls", ".json", ".txt", ".label")
MOST_TEXT_BYTES = 2**16
_BLOCK = 512
_CHECKED_BEHIND = 2**16  # bytes behind the end's mark that must be zeros


def list_tar(tar: Path) -> list[TarMember]:
    """Returns the files and folders in `tar`, without hidden ones.

    A link is the file that it leads to; of several files of one name the last counts. A tar in it stands for a folder
    with its name, as ImageNet's training images come: n01440764.tar/n01440764_18.JPEG is n01440764/n01440764_18.JPEG.

    Raises:
      UserError: for a tar that is compressed, damaged, cut or several in one, for links that lead nowhere, and for
        sparse files.
    """
    try:
        with open_file(tar) as file:
            return _list(str(tar), file, 0, tar.stat().st_size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{tar} cannot be read as a tar ({error}): it must be whole and not compressed") from error


class _Section(ReadOnlyFile):
    """A part of an open file, as a separate file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        super().__init__(size)
        self._file, self._start = file, start

    def read(self, size: int = -1) -> bytes:
        """Does as io's."""
        left = max(self._size - self._at, 0)
        self._file.seek(self._start + self._at)
        data = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data


def _list(name: str, file: BinaryIO, start: int, size: int) -> list[TarMember]:
    """Returns the members of the tar that lies in `file` from `start` on, with their places in `file`."""
    members: dict[str, TarMember] = {}
    links: list[tuple[str, str]] = []
    section: Any = _Section(file, start, size) if start else file
    with tarfile.open(fileobj=section, mode="r:") as archive:
        for member in archive:
            path = _normalised(member.name)
            if any(part.startswith(".") for part in path.split("/")):
                continue
            if member.issym() or member.islnk():
                above = posixpath.dirname(path) if member.issym() else ""
                links.append((path, _normalised(posixpath.join(above, member.linkname))))
            elif member.issparse():
                raise UserError(f"{name} holds {member.name} as a sparse file: write it without --sparse")
            elif member.isfile() or member.isdir():
                text = None
                if path.lower().endswith(TEXT_EXTENSIONS) and member.size <= MOST_TEXT_BYTES:
                    section.seek(member.offset_data)
                    text = section.read(member.size).decode(errors="surrogateescape")
                members[path] = TarMember(path, member.isdir(), start + member.offset_data, member.size, text)
        end = archive.offset
    _check_end(name, section, end)
    for path, target in links:
        if target not in members:
            raise UserError(
                f"{name} holds {path}, a link to {target}, which it does not hold: write it with --dereference"
            )
        members[path] = members[target]._replace(path=path)
    inner = [member for member in members.values() if not member.is_folder and member.path.lower().endswith(".tar")]
    for packed in inner:
        folder = packed.path[: -len(".tar")]
        inside = _list(f"{name}/{packed.path}", file, packed.offset, packed.size)
        del members[packed.path]
        members.setdefault(folder, TarMember(folder, True, 0, 0))
        for one in inside:
            path = f"{folder}/{one.path}"
            members[path] = one._replace(path=path)
    return list(members.values())


def _normalised(name: str) -> str:
    return posixpath.normpath(name).removeprefix("/").removeprefix("./")


def _check_end(tar: str, file: BinaryIO, end: int) -> None:
    """Raises UserError unless the tar says at `end`, where its listing stopped, that there is no more.

    tarfile takes a damaged header, or a file that just ends, for the end.
    """
    file.seek(end)
    mark, behind = file.read(_BLOCK), file.read(_CHECKED_BEHIND)
    if len(mark) < _BLOCK or any(mark):
        raise UserError(f"{tar} is damaged or cut at byte {end}: replace it")
    if any(behind):
        raise UserError(f"{tar} goes on behind its end at byte {end}: keep tars apart instead of joining them")
