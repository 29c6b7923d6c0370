"""safetensors files: written and read back equal, and refused when they are not sound."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.weights.files import open_weights_file
from resnet_jax.weights.lazy_tensor import DTYPES, ByteRange
from resnet_jax.weights.safetensors_file import open_safetensors, write_safetensors

NUMBERS = np.arange(24, dtype=np.float32)


def file_of(header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_is_written_reads_back_equal_whatever_the_dtype_and_layout(tmp_path):
    tensors = {name: np.arange(6).reshape(2, 3).astype(dtype) for name, dtype in DTYPES.items()}
    tensors |= {
        "transposed": NUMBERS.reshape(4, 6).T,
        "part": NUMBERS[::5],
        "expanded": np.broadcast_to(NUMBERS[:2], (3, 2)),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float16),
        "big_endian": NUMBERS.astype(">f4"),
    }
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, tensors, {"model": "resnet18", "naïve": "ü\n"})
    opened = open_weights_file(path)
    assert opened.format == "safetensors"
    assert opened.metadata == {"model": "resnet18", "naïve": "ü\n"}
    assert opened.root.keys() == tensors.keys()
    for name, array in tensors.items():
        read = opened.root[name].read()
        assert read.dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(read, array)


def test_the_header_is_aligned_to_8_bytes_and_each_tensor_to_its_own_size(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"flag": np.ones(1, bool), "w": NUMBERS, "n": np.arange(3)}, {})
    (header_bytes,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert header_bytes % 8 == 0
    for tensor in open_safetensors(path)[0].values():
        assert tensor.storage.start % tensor.dtype.itemsize == 0


def test_the_bytes_are_those_of_the_format(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"w": np.array([1, 2], np.int16)}, {"a": "b"})
    header = b'{"__metadata__":{"a":"b"},"w":{"dtype":"I16","shape":[2],"data_offsets":[0,4]}}'
    padded = header.ljust(-(-len(header) // 8) * 8)
    assert path.read_bytes() == struct.pack("<Q", len(padded)) + padded + b"\x01\x00\x02\x00"


def test_opening_reads_no_tensor(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"w": NUMBERS}, {})
    monkeypatch.setattr(ByteRange, "read", lambda *_: pytest.fail("a tensor was read"))
    assert open_safetensors(path)[0]["w"].shape == (24,)


def test_a_failed_write_leaves_the_old_file_and_no_partial_one(tmp_path):
    class Failing(dict):
        """Gives its tensor for the checks and the header, not for the content."""

        num_reads = 0

        def __getitem__(self, name):
            self.num_reads += 1
            if self.num_reads > 2:
                raise RuntimeError("interrupted")
            return super().__getitem__(name)

    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"w": NUMBERS}, {})
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="interrupted"):
        write_safetensors(path, Failing(w=NUMBERS + 1), {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_at_once_and_not_overwritten(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"w": NUMBERS}, {})
    before = path.read_bytes()
    with path.open("rb") as reader:
        write_safetensors(path, {"w": NUMBERS + 1}, {})
        assert reader.read() == before
    np.testing.assert_array_equal(open_safetensors(path)[0]["w"].read(), NUMBERS + 1)


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match="'w' has dtype complex64"):
        write_safetensors(tmp_path / "w.safetensors", {"w": NUMBERS.astype(np.complex64)}, {})
    with pytest.raises(UserError, match="'w' has dtype float8_e5m2"):
        write_safetensors(tmp_path / "w.safetensors", {"w": NUMBERS.astype(ml_dtypes.float8_e5m2)}, {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written: "):
        write_safetensors(tmp_path / "file" / "w.safetensors", {"w": NUMBERS}, {})


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (file_of({}, length=2**60), "longer than the file"),
        (file_of({"w": entry()}, bytes(8), length=400), "longer than the file"),
        (file_of(b"{" + b" " * (17 * 2**20)), "longer than"),
        (file_of(b"{nonsense}"), "damaged"),
        (file_of(b'{"\xff": 1}'), "damaged"),
        (file_of(b'{"a":' + b"[" * 100_000), "recursion"),
        (file_of(b'{"w":' + b"9" * 10_000 + b"}"), "digits"),
        (file_of(b'{"w":1,"w":1}'), "twice"),
        (file_of({"__metadata__": {"a": 1}}), "__metadata__"),
        (file_of({"__metadata__": []}), "__metadata__"),
        (file_of({"w": []}), "must have dtype"),
        (file_of({"w": entry() | {"more": 1}}, bytes(8)), "must have dtype"),
        (file_of({"w": entry("F8_E4M3", (8,))}, bytes(8)), "'w' has dtype 'F8_E4M3': only F64"),
        (file_of({"w": entry([], (8,))}, bytes(8)), "has dtype"),
        (file_of({"w": entry(shape=(2, -1))}, bytes(8)), "shape"),
        (file_of({"w": entry(shape=(2.0,))}, bytes(8)), "shape"),
        (file_of({"w": entry(shape=(True, 2))}, bytes(8)), "shape"),
        (file_of({"w": entry(shape=(1,) * 8 + (2,))}, bytes(8)), "shape of at most 8"),
        (file_of({"w": entry(shape=(0, 2**39, 2**39), offsets=(0, 0))}), "integers in"),
        (file_of({"w": entry(shape=(3,))}, bytes(8)), "do not fit"),
        (file_of({"w": entry(offsets=(8, 0))}, bytes(8)), "do not fit"),
        (file_of({"w": entry(offsets=(0, 8, 8))}, bytes(8)), "do not fit"),
        (file_of({"w": entry(offsets=(0, 2**70))}, bytes(8)), "do not fit"),
        (file_of({"v": entry(), "w": entry()}, bytes(8)), "overlap"),
        (file_of({"v": entry(), "w": entry(offsets=(12, 20))}, bytes(20)), "gaps"),
        (file_of({"w": entry()}, bytes(9)), "end at byte"),
        (file_of({"w": entry()}, bytes(7)), "end at byte"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the bytes would be the name
)
def test_an_unsound_file_is_refused_in_one_line(tmp_path, data, line):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=line) as error:
        open_safetensors(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"w": NUMBERS, "v": NUMBERS}, {})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError):
            open_weights_file(path)


def test_the_safetensors_package_reads_what_is_written(tmp_path):
    from safetensors.numpy import load_file, save_file

    tensors = {"matrix": NUMBERS.reshape(4, 6).T, "counter": np.zeros((), np.int64), "half": NUMBERS.astype(np.float16)}
    write_safetensors(tmp_path / "ours", tensors, {"format": "pt"})
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, tmp_path / "theirs")
    for read in (
        load_file(tmp_path / "ours"),
        {n: t.read() for n, t in open_safetensors(tmp_path / "theirs")[0].items()},
    ):
        assert read.keys() == tensors.keys()
        for name, array in tensors.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)
