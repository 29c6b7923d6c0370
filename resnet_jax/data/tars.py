"""What lies in a tar, and where: listed without unpacking it."""

import posixpath
import tarfile
from pathlib import Path
from typing import NamedTuple

from resnet_jax.errors import UserError

_BLOCK = 512
_CHECKED_BEHIND = 2**16  # bytes behind the end's mark that must be zeros


class TarMember(NamedTuple):
    """A file or folder in a tar. path: with slashes, normalised. offset, size: of a file's data, in bytes."""

    path: str
    is_folder: bool
    offset: int
    size: int


def list_tar(tar: Path) -> list[TarMember]:
    """Returns the files and folders in `tar`, without hidden ones.

    A link is the file that it leads to; of several files of one name the last counts.

    Raises:
      UserError: for a tar that is compressed, damaged, cut or several in one, for links that lead nowhere, and for
        sparse files.
    """
    members: dict[str, TarMember] = {}
    links: list[tuple[str, str]] = []
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                path = _normalised(member.name)
                if any(part.startswith(".") for part in path.split("/")):
                    continue
                if member.issym() or member.islnk():
                    above = posixpath.dirname(path) if member.issym() else ""
                    links.append((path, _normalised(posixpath.join(above, member.linkname))))
                elif member.issparse():
                    raise UserError(f"{tar} holds {member.name} as a sparse file: write it without --sparse")
                elif member.isfile() or member.isdir():
                    members[path] = TarMember(path, member.isdir(), member.offset_data, member.size)
            end = archive.offset
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{tar} cannot be read as a tar ({error}): it must be whole and not compressed") from error
    _check_end(tar, end)
    for path, target in links:
        if target not in members:
            raise UserError(
                f"{tar} holds {path}, a link to {target}, which it does not hold: write it with --dereference"
            )
        members[path] = members[target]._replace(path=path)
    return list(members.values())


def _normalised(name: str) -> str:
    return posixpath.normpath(name).removeprefix("/").removeprefix("./")


def _check_end(tar: Path, end: int) -> None:
    """Raises UserError unless the tar says at `end`, where its listing stopped, that there is no more.

    tarfile takes a damaged header, or a file that just ends, for the end.
    """
    with tar.open("rb") as file:
        file.seek(end)
        mark, behind = file.read(_BLOCK), file.read(_CHECKED_BEHIND)
    if len(mark) < _BLOCK or any(mark):
        raise UserError(f"{tar} is damaged or cut at byte {end}: replace it")
    if any(behind):
        raise UserError(f"{tar} goes on behind its end at byte {end}: keep tars apart instead of joining them")
