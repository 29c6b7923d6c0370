"""The bytes of a pickle in a file, never more of them than are there."""

from typing import BinaryIO

MAX_BYTES = 64 * 2**20
# The first object in a file of torch.save before torch 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_PICKLED_MAGIC = b"\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")
_FRAME_BYTES = 9  # which come before it from protocol 4 on


def is_legacy(head: bytes) -> bool:
    """Returns whether a file that begins so is torch.save's of before torch 1.6, of whatever protocol."""
    return head[:1] == b"\x80" and head[2 : 2 + _FRAME_BYTES + len(_PICKLED_MAGIC)].find(_PICKLED_MAGIC) in (
        0,
        _FRAME_BYTES,
    )


class MalformedPickleError(ValueError):
    """The pickle is damaged, or larger than a checkpoint's; the message says what is wrong with it."""


class Stream:
    """Reads a file for the machine: at most `most` bytes from where the file stands, never more than are there."""

    def __init__(self, file: BinaryIO, num_bytes: int, most: int = MAX_BYTES) -> None:
        """num_bytes: from where the file stands to its end."""
        self.file = file
        self.num_bytes = min(num_bytes, most)
        self.limit = file.tell() + self.num_bytes
        self.ends_early = "ends early" if num_bytes <= most else f"has more than {most} bytes"

    def tell(self) -> int:
        """Returns the position in the file."""
        return self.file.tell()

    def read(self, count: int) -> bytes:
        """Returns the next `count` bytes.

        A length that cannot be true is refused before it is allocated.
        """
        if count > self.limit - self.file.tell():
            raise MalformedPickleError(f"its pickle {self.ends_early}")
        return self.file.read(count)

    def readline(self) -> bytes:
        """Returns the bytes up to the next newline, or to the end."""
        return self.file.readline(self.limit - self.file.tell())
