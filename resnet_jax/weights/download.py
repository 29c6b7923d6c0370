"""A file over HTTP that may break off anywhere and is continued there, now or by a later call."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from resnet_jax.errors import UserError

TIMEOUT_SECONDS = 8
RETRY_PAUSES_SECONDS = (0.5, 1.5)
CHUNK_BYTES = 1 << 18


class _TransferError(Exception):
    """The network or the server failed; `passing` if another attempt may succeed."""

    def __init__(self, reason: str, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing


def partial_of(path: Path) -> Path:
    """Returns where the download of `path` stands until it is complete."""
    return path.with_name(path.name + ".partial")


def forget_partial(path: Path) -> None:
    """Removes the received part of `path`: the next download starts over."""
    partial_of(path).unlink(missing_ok=True)
    _validator_of(path).unlink(missing_ok=True)


def download(url: str, path: Path) -> None:
    """Brings the file at `url` to `partial_of(path)`, continuing a part of it; the caller checks and renames it.

    Raises:
      UserError: that says what to put where if the server refuses or cannot be reached, within seconds; OSError if
        the disk refuses.
    """
    pauses = iter(RETRY_PAUSES_SECONDS)
    with _display(url, path) as show:
        while True:
            try:
                return _receive(url, path, show)
            except _TransferError as error:
                pause = next(pauses, None) if error.passing else None
                if pause is None:
                    raise UserError(f"{url} cannot be downloaded ({error}): put that file at {path}") from error
            time.sleep(pause)


def _receive(url: str, path: Path, show: Callable[[int, int | None], None]) -> None:
    """Makes one request for the missing part of the file; for all of it if the server cannot or must not continue."""
    partial, validator = partial_of(path), _validator_of(path)
    offset = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "resnet_jax"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator.exists():  # has the server send another file whole, instead of a rest that does not fit
            headers["If-Range"] = validator.read_text()
    with _open(Request(url, headers=headers)) as response:
        if not _continues(response, offset):
            if offset == 0:
                raise _TransferError(f"HTTP {response.status} to a request for the whole file", passing=False)
            forget_partial(path)
            return _receive(url, path, show)
        if response.status == 200:
            offset = 0
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdecimal() else None
        received = offset
        with partial.open("ab" if offset else "wb") as file:
            if offset == 0:
                _remember_validator(response.headers, validator)
            for chunk in _chunks(response):
                file.write(chunk)
                received += len(chunk)
                show(received, total)
    # A connection that is closed early ends the body without an error.
    if total is not None and received < total:
        raise _TransferError(f"the connection broke off after {received} of {total} bytes", passing=True)
    return None


def _continues(response: Any, offset: int) -> bool:
    """Returns whether the body is the whole file, or its rest from `offset` on."""
    if response.status == 206:
        return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
    return response.status == 200


def _open(request: Request) -> Any:
    """Returns the server's answer, with status 200, 206 or, to a range that the file does not have, 416."""
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(urlopen(request, timeout=TIMEOUT_SECONDS))
        except Exception as error:
            answer.set_exception(error)

    # The socket's own timeout covers neither name resolution nor a list of addresses that all hang.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        raise _TransferError(
            f"HTTP {error.code} {error.reason}", error.code >= 500 or error.code in (408, 429)
        ) from None
    except (OSError, HTTPException, UnicodeError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):  # a network that is silent stays so
            raise _TransferError(f"no answer in {TIMEOUT_SECONDS} s", passing=False) from None
        raise _TransferError(getattr(reason, "strerror", None) or str(reason), passing=True) from None


def _chunks(response: Any) -> Iterator[bytes]:
    """Yields the body piece by piece; a failure here is the network's, not the disk's."""
    try:
        while chunk := response.read(CHUNK_BYTES):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _TransferError(f"the connection broke off: {error}", passing=True) from None


def _validator_of(path: Path) -> Path:
    return path.with_name(path.name + ".partial.validator")


def _remember_validator(headers: Any, validator: Path) -> None:
    """Keeps a mark of this version of the file: its strong ETag, else the time of its last change."""
    etag = headers.get("ETag", "W/")
    mark = headers.get("Last-Modified", "") if etag.startswith("W/") else etag
    if mark:
        validator.write_text(mark)
    else:
        validator.unlink(missing_ok=True)


@contextlib.contextmanager
def _display(url: str, path: Path) -> Iterator[Callable[[int, int | None], None]]:
    """Shows on standard error the bytes received so far, of a total if known: a live bar on a terminal, else a line."""
    from rich.console import Console  # here, so that loading weights from a file does not wait for it
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        console.print(f"downloading {url} to {path}", highlight=False, markup=False, soft_wrap=True)
    bar = Progress(
        TextColumn(path.name), BarColumn(bar_width=20), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal, transient=True,
    )  # fmt: skip
    task = bar.add_task(path.name, total=None)
    with bar:
        yield lambda received, total: bar.update(task, completed=received, total=total)
