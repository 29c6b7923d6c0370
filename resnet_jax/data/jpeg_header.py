"""Reads a JPEG's header, and copies it: cut short early, or without the parts that do not decide pixels."""

import struct
from typing import NamedTuple

# JPEG's markers: quantisation and Huffman tables, comments and applications' data may stand before the scan.
_BASELINE_FRAME, _START_OF_SCAN, _APP1 = 0xC0, 0xDA, 0xE1
_OTHER_SEGMENTS = (0xC4, 0xDB, 0xFE, *range(0xE0, 0xF0))
# Frames, Huffman and arithmetic tables, quantisation tables, restart intervals, JFIF's and Adobe's words on colour.
_DECIDING_SEGMENTS = (*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE)
_WITHOUT_LENGTH = (0x00, 0x01, *range(0xD0, 0xD9))  # what follows them is no segment, as libjpeg has it


def declare_rows(data: bytes, height_at: int, rows: int) -> bytearray:
    """Returns the JPEG saying that it has only `rows` rows, behind which libjpeg then stops."""
    changed = bytearray(data)
    struct.pack_into(">H", changed, height_at, rows)
    return changed


class JpegHeader(NamedTuple):
    """height_at: where a JPEG's height stands; 0 if it is not baseline in one scan, has restart markers or is odd."""

    height_at: int
    has_exif: bool


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Returns the facts that a JPEG gives before its first scan."""
    position, height_at, has_exif = 2, 0, False
    while position + 9 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == _START_OF_SCAN:
            one_scan = height_at and data[position + 4] == data[height_at + 4]  # has all of the frame's components
            return JpegHeader(height_at if one_scan else 0, has_exif)
        if marker == _BASELINE_FRAME:
            height_at = position + 5
        elif marker == _APP1:
            has_exif = has_exif or data[position + 4 : position + 8] == b"Exif"
        elif marker not in _OTHER_SEGMENTS:
            break
        position += 2 + (data[position + 2] << 8 | data[position + 3])
    return JpegHeader(0, has_exif or b"Exif" in data[: 2**16])


def without_header_junk(data: bytes) -> bytes:
    """Returns the JPEG with only those segments before its first scan that decide its pixels.

    Bytes between segments, profiles, EXIF and comments are left out: where libjpeg complains of these alone, it does
    not complain of the result. The scans are as they are; data whose header cannot be followed are returned unchanged.
    """
    kept, position = [data[:2]], 2
    while True:
        position = data.find(b"\xff", position)
        while data[position : position + 2] == b"\xff\xff":  # any number of which may stand before a marker
            position += 1
        if position < 0 or position + 4 > len(data):
            return data
        marker = data[position + 1]
        if marker == _START_OF_SCAN:
            return b"".join((*kept, data[position:]))
        if marker in _WITHOUT_LENGTH:
            position += 2
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _DECIDING_SEGMENTS:
            kept.append(data[position:end])
        position = end
