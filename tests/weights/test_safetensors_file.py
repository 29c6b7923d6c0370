"""safetensors files: written and read back equal, and refused when they are not sound."""

import json
import struct

import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.weights.files import open_weights_file
from resnet_jax.weights.lazy_tensor import DTYPES, Unreadable
from resnet_jax.weights.safetensors_file import SafetensorsTensor, open_safetensors, write_safetensors

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


def test_opening_reads_no_tensor(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"w": NUMBERS}, {})
    monkeypatch.setattr(SafetensorsTensor, "read", lambda *_: pytest.fail("a tensor was read"))
    assert open_safetensors(path)[0]["w"].shape == (24,)


def test_a_failed_write_leaves_the_old_file_and_no_partial_one(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"w": NUMBERS}, {})
    before = path.read_bytes()
    with pytest.raises(UserError, match="cannot be written: "):
        write_safetensors(path, {"v": NUMBERS, "w": NUMBERS.astype(np.complex128)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_readable_by_whom_the_users_mask_lets(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"w": NUMBERS}, {})
    (tmp_path / "other").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_tensor_that_changed_since_it_was_opened_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"w": NUMBERS}, {})
    tensor = open_safetensors(path)[0]["w"]
    write_safetensors(path, {"w": NUMBERS[:3]}, {})
    with pytest.raises(UserError, match="'w' has changed"):
        tensor.read()
    write_safetensors(path, {"v": NUMBERS}, {})
    with pytest.raises(UserError, match="damaged"):
        tensor.read()


def test_a_file_is_replaced_at_once_and_not_overwritten(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"w": NUMBERS}, {})
    before = path.read_bytes()
    with path.open("rb") as reader:
        write_safetensors(path, {"w": NUMBERS + 1}, {})
        assert reader.read() == before
    np.testing.assert_array_equal(open_safetensors(path)[0]["w"].read(), NUMBERS + 1)


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot be written: .*complex128"):
        write_safetensors(tmp_path / "w.safetensors", {"w": NUMBERS.astype(np.complex128)}, {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written: "):
        write_safetensors(tmp_path / "file" / "w.safetensors", {"w": NUMBERS}, {})


def test_a_dtype_that_numpy_does_not_have_is_no_weight(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(file_of({"w": entry("F8_E4M3", (8,)), "v": entry(offsets=(8, 16))}, bytes(16)))
    tensors, _ = open_safetensors(path)
    assert isinstance(tensors["w"], Unreadable)
    assert "F8_E4M3" in tensors["w"].what
    np.testing.assert_array_equal(tensors["v"].read(), [0.0, 0.0])


@pytest.mark.parametrize(
    "data",
    [
        file_of({}, length=2**60),
        file_of({"w": entry()}, bytes(8), length=400),
        file_of(b"{nonsense}"),
        file_of(b'{"\xff": 1}'),
        file_of(b'{"a":' + b"[" * 100_000),
        file_of(b'{"w":' + b"9" * 10_000 + b"}"),
        file_of({"__metadata__": {"a": 1}}),
        file_of({"__metadata__": []}),
        file_of({"w": []}),
        file_of({"w": entry([], (8,))}, bytes(8)),
        file_of({"w": entry(shape=(2, -1))}, bytes(8)),
        file_of({"w": entry(shape=(2.0,))}, bytes(8)),
        file_of({"w": entry(shape=(3,))}, bytes(8)),
        file_of({"w": entry(offsets=(8, 0))}, bytes(8)),
        file_of({"w": entry(offsets=(0, 8, 8))}, bytes(8)),
        file_of({"w": entry(offsets=(0, 2**70))}, bytes(8)),
        file_of({"v": entry(), "w": entry()}, bytes(8)),
        file_of({"v": entry(), "w": entry(offsets=(12, 20))}, bytes(20)),
        file_of({"w": entry()}, bytes(9)),
        file_of({"w": entry()}, bytes(7)),
    ],
    ids=range(20),  # the bytes would be the name
)
def test_an_unsound_file_is_refused_in_one_line(tmp_path, data):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged") as error:
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
