"""The sources of a TFDS set: archives that the user brings, or servers that must answer."""

import hashlib
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from resnet_jax.data.tfds.builder import one_line
from resnet_jax.errors import UserError

NETWORK_TIMEOUT_SECONDS = 5
# The archives that ImageNet's builders name in their instructions; other sets ask for folders and hand-made files too.
_MANUAL_ARCHIVE = re.compile(r"ILSVRC2012_\w+\.tar\b")
_MOST_FILES_SHOWN = 8


def check_archives(name: str, builder: Any, folder: Path) -> None:
    """Raises UserError unless what `builder` needs is intact in `folder`, or a server answers that has it.

    An archive that TFDS knows the checksum of is taken from `folder` instead of from the network.
    """
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        _check_manual_files(name, builder.MANUAL_DOWNLOAD_INSTRUCTIONS, folder)
    missing = {}
    for url, info in (builder.url_infos or {}).items():
        if info.filename is None:  # TFDS takes it from the network alone, or it is one of the manual archives
            continue
        archive = folder / info.filename
        if not archive.exists():
            missing[url] = info.filename
        elif archive.stat().st_size != int(info.size) or _sha256(archive) != info.checksum:
            raise UserError(
                f"{archive} is damaged or another file: expected {int(info.size)} bytes with "
                f"sha256 {info.checksum}; delete it or replace it by {url}"
            )
    if missing and not _any_answers(list(missing)):
        raise UserError(
            f"{name} is not prepared and {next(iter(missing))} cannot be reached: "
            f"put {_listed(list(missing.values()))} into {folder}"
        )


def manual_archives(instructions: str) -> list[str]:
    """Returns the archives that a builder's instructions name; empty if it asks for something else."""
    return list(dict.fromkeys(_MANUAL_ARCHIVE.findall(instructions)))


def _check_manual_files(name: str, instructions: str, folder: Path) -> None:
    archives = manual_archives(instructions)
    missing = [archive for archive in archives if not (folder / archive).is_file()]
    if missing:
        raise UserError(
            f"{name} is not prepared and cannot be downloaded: put {_listed(missing)} into {folder} "
            "(registered users get them from https://image-net.org/download-images)"
        )
    if not archives and not (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{name} is not prepared and its files must be put into {folder}: {one_line(instructions)}")


def _listed(names: list[str]) -> str:
    return ", ".join(names if len(names) <= _MOST_FILES_SHOWN else [*names[: _MOST_FILES_SHOWN - 1], "…", names[-1]])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _any_answers(urls: list[str]) -> bool:
    """Returns whether one of the servers answers (through a proxy, if one is set) within NETWORK_TIMEOUT_SECONDS."""
    answered = threading.Event()

    def ask(url: str) -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT_SECONDS):
                answered.set()
        except urllib.error.HTTPError:  # it answered, if only with a refusal: the download itself reports more
            answered.set()
        except OSError:
            pass

    # The socket's own timeout covers neither name resolution nor a list of addresses that all hang.
    servers = {urllib.parse.urlsplit(url).netloc: url for url in urls}
    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in servers.values()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + NETWORK_TIMEOUT_SECONDS
    while not answered.is_set() and time.monotonic() < deadline and any(thread.is_alive() for thread in threads):
        answered.wait(0.05)
    return answered.is_set()
