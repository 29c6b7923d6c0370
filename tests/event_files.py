"""Reads TensorBoard's event files."""

import struct

from tensorboardX.proto.event_pb2 import Event


def read_events(path):
    """The events of a file."""
    data, events = path.read_bytes(), []
    while data:  # length (8), its checksum (4), the event, its checksum (4)
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[12 + length + 4 :]
    return events
