"""Torch's files read without torch: the numbers torch wrote; nothing executed, nothing allocated without need."""

import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from torch_files import Call, Name, Persistent, Raw, legacy_file, opcodes, pickled, storage, tensor, zip_file

from resnet_jax.errors import UserError
from resnet_jax.weights.files import open_weights_file
from resnet_jax.weights.formats.pickle_file import looks_like_pickle
from resnet_jax.weights.lazy_tensor import FLOAT8, ByteRange, StoredTensor, Unreadable
from resnet_jax.weights.torch.file import open_torch_file
from resnet_jax.weights.torch.pickle_stream import LEGACY_MAGIC, is_legacy

GOLDEN = Path(__file__).parents[1] / "golden"
DIGITS = GOLDEN / "digits-resnet20.pth"
NUMBERS = np.arange(24, dtype=np.float32)
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def numbers_of(dtype):
    return np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


@pytest.fixture
def opened(tmp_path):
    """Opens the bytes of a file."""

    def open_bytes(data, name="weights.pth"):
        path = tmp_path / name
        path.write_bytes(data)
        return open_weights_file(path).root

    return open_bytes


@pytest.fixture
def refused(opened):
    """The one line with which the bytes of a file are refused."""

    def refusal(data):
        with pytest.raises(UserError) as error:
            opened(data)
        assert "\n" not in str(error.value)
        assert "weights.pth" in str(error.value)
        return str(error.value)

    return refusal


# What torch.save writes.


def test_every_format_of_the_digits_weights_holds_the_same_numbers():
    reference = open_weights_file(DIGITS)
    legacy = open_weights_file(GOLDEN / "digits-resnet20-wrapped-legacy.th")
    safetensors = open_weights_file(GOLDEN / "digits-resnet20.safetensors")
    half = open_weights_file(GOLDEN / "digits-resnet20-fp16.pth")
    assert (reference.format, legacy.format, safetensors.format) == ("torch", "torch-legacy", "safetensors")
    assert len(reference.root) == 116
    unwrapped = {name.removeprefix("module."): value for name, value in legacy.root["state_dict"].items()}
    assert reference.root.keys() == unwrapped.keys() == safetensors.root.keys()
    for name, stored in reference.root.items():
        numbers = stored.read()
        assert numbers.shape == stored.shape
        np.testing.assert_array_equal(unwrapped[name].read(), numbers)
        np.testing.assert_array_equal(safetensors.root[name].read(), numbers)
        if name in half.root:
            np.testing.assert_array_equal(half.root[name].read(), numbers.astype(half.root[name].dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_reads_the_same_from_both_formats(opened, dtype):
    numbers = numbers_of(dtype)
    root = {"w": tensor("0", dtype, (2, 3))}
    for data in (zip_file(root, {"0": numbers.tobytes()}), legacy_file(root, {"0": (6, numbers.tobytes())})):
        stored = opened(data)["w"]
        assert stored.dtype == numbers.dtype
        np.testing.assert_array_equal(stored.read(), numbers)


def test_untyped_storages_take_the_dtype_of_each_tensor(opened):
    args = (storage("0", "UntypedStorage", 12), 1, (2,), (1,), False, {}, Name("torch.uint16"))
    root = Call(Name("torch._utils._rebuild_tensor_v3"), args)
    np.testing.assert_array_equal(opened(zip_file(root, {"0": np.arange(6, dtype=np.uint16).tobytes()})).read(), [1, 2])


def test_strides_give_channels_last_shared_transposed_and_expanded_tensors(opened):
    root = {
        "channels_last": tensor("0", "float32", (1, 2, 3, 4), strides=(24, 1, 8, 2), num_elements=24),
        "transposed": tensor("0", "float32", (4, 6), strides=(1, 4), num_elements=24),
        "part": tensor("0", "float32", (3,), strides=(2,), offset=5, num_elements=24),
        "expanded": tensor("0", "float32", (5, 2), strides=(0, 1), offset=22, num_elements=24),
        "scalar": tensor("0", "float32", (), offset=7, num_elements=24),
        "empty": tensor("1", "float32", (0, 3)),
    }
    state = opened(zip_file(root, {"0": NUMBERS.tobytes(), "1": b""}))
    np.testing.assert_array_equal(state["channels_last"].read(), NUMBERS.reshape(1, 3, 4, 2).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(state["transposed"].read(), NUMBERS.reshape(6, 4).T)
    np.testing.assert_array_equal(state["part"].read(), [5, 7, 9])
    np.testing.assert_array_equal(state["expanded"].read(), [[22, 23]] * 5)
    assert state["scalar"].read() == 7
    assert state["empty"].read().shape == (0, 3)
    assert state["part"].storage is state["expanded"].storage  # so that its checksum is computed once


def test_a_view_of_a_storage_in_a_legacy_file_is_that_part(opened):
    root = [tensor("9", "float32", (2,), num_elements=24, view=(("view", 10, 4),))]
    np.testing.assert_array_equal(opened(legacy_file(root, {"9": (24, NUMBERS.tobytes())}))[0].read(), [10, 11])


def test_a_legacy_storage_is_as_long_as_its_first_mention_says(opened):
    root = [storage("0", "UntypedStorage", 8), tensor("0", "float32", (2,))]
    np.testing.assert_array_equal(opened(legacy_file(root, {"0": (8, NUMBERS[:2].tobytes())}))[1].read(), [0, 1])


def test_parameters_and_tensor_subclasses_are_their_tensors(opened):
    weight = tensor("0", "float32", (2,), num_elements=24)
    rebuild = Name("torch._utils._rebuild_tensor_v2")
    root = {
        "parameter": Call(Name("torch._utils._rebuild_parameter"), (weight, True, {})),
        "with_state": Call(Name("torch._utils._rebuild_parameter_with_state"), (weight, True, {}, {"tag": 1})),
        "subclass": Call(
            Name("torch._tensor._rebuild_from_type_v2"), (rebuild, Name("my.Tensor"), weight.args, {"tag": 1})
        ),
    }
    state = opened(zip_file(root, {"0": NUMBERS.tobytes()}))
    for name in root:
        np.testing.assert_array_equal(state[name].read(), [0, 1])


@pytest.mark.parametrize("protocol", range(6))
def test_containers_and_scalars_of_every_protocol_come_back(opened, protocol):
    value = {
        "epoch": 7, "big": -(2**70), "best": 0.5, "name": "résumé\n", "raw": b"\x00\xff", "none": None, "flag": True,
        "list": [1, [2, (), (3,), (4, 5), (6, 7, 8), (1, 2, 3, 4)]], "set": {1, "a"}, "frozen": frozenset([2]),
        3: "int", 0.5: "float", None: "none", b"k": "bytes", "bytearray": bytearray(b"xy"),
    }  # fmt: skip
    data = pickle.dumps(value, protocol)
    if protocol < 5:  # then bytearray has no opcode of its own
        value["bytearray"] = Unreadable(f"an object of class {'builtins' if protocol > 2 else '__builtin__'}.bytearray")
    with zipfile.ZipFile(buffer := BytesIO(), "w") as archive:
        archive.writestr("x/data.pkl", data)
    assert opened(buffer.getvalue()) == value


def test_dict_keys_that_are_no_numbers_or_text_are_dropped(opened):
    root = {"a": 1, Raw(opcodes((1, 2))): 2, "b" * 5000: 3, 2**100: 4}
    assert opened(zip_file(root, {})) == {"a": 1}


def test_what_is_no_strided_tensor_says_what_it_is(opened):
    layout = Name("torch.sparse_coo")
    weight = tensor("0", "float32", (2,), num_elements=24)
    quantised = (storage("0", "QUInt8Storage", 4), 0, (4,), (1,), (Name("torch.per_tensor_affine"), 0.1, 0), False, {})
    float8 = (storage("0", "UntypedStorage", 4), 0, (4,), (1,), False, {}, Name("torch.float8_e4m3fn"))
    negated = Call(weight.function, (*weight.args, {"neg": True}))
    root = {
        "a tensor whose negation or conjugation is still to be done": negated,
        "a quantised tensor": Call(Name("torch._utils._rebuild_qtensor"), quantised),
        "a sparse tensor": Call(Name("torch._utils._rebuild_sparse_tensor"), (layout, (weight, weight, (2,)))),
        "a nested tensor": Call(Name("torch._utils._rebuild_nested_tensor"), (weight, weight, weight, weight)),
        "a tensor of dtype complex64": tensor("0", "ComplexFloatStorage", (2,)),
        FLOAT8.format("float8_e4m3fn"): Call(Name("torch._utils._rebuild_tensor_v3"), float8),
        "a storage by itself": storage("0", "float32", 4),
        "an object of class torch.device": Call(Name("torch.device"), ("cuda", 0)),
        "the name torch.float32": Name("torch.float32"),
    }
    state = opened(zip_file(root, {"0": NUMBERS.tobytes()}))
    for what, value in state.items():
        assert isinstance(value, Unreadable)
        assert value.what == what
    assert opened(zip_file(Call(Name("torch.Size"), ((2, 3),)), {})) == (2, 3)


def test_a_whole_module_is_unreadable_and_names_its_class(opened):
    module = Raw(opcodes(Name("torchvision.models.resnet.ResNet")) + b")\x81" + opcodes({"training": True}) + b"b")
    what = opened(zip_file(module, {})).what
    assert what == "an object of class torchvision.models.resnet.ResNet"
    persistent = Persistent(("module", Name("models.Net"), "models.py", "class Net: ..."))
    assert opened(legacy_file(Call(persistent, ()), {})).what == "an object of class models.Net"


def test_opening_reads_no_tensor_and_reading_one_reads_only_its_elements(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(ByteRange, "_bytes_at", lambda self, file, offset, count: reads.append(count) or bytes(count))
    path = tmp_path / "weights.pth"
    path.write_bytes(legacy_file([tensor("0", "float32", (3,), offset=5, num_elements=24)], {"0": (24, bytes(96))}))
    (stored,) = open_torch_file(path)
    assert reads == []
    stored.read()
    assert reads == [12]


# What is something else.


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
        (b"<html><body>404</body></html>", "web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "damaged"),
        (b"\x93NUMPY\x01\x00", r"\.npy"),
        (b"\x1f\x8b\x08" + bytes(99), "gzip"),
        (b"\x08\x07\x12\x07pytorch\x1a\x05" + bytes(99), "an ONNX model"),
        (b"hello", "not a checkpoint"),
        (bytes(1000), "not a checkpoint"),
        (pickle.dumps({"w": [1.0]}), "a plain pickle, not a torch checkpoint"),
        (pickle.dumps({"w": [1.0]}, 0), "a plain pickle, not a torch checkpoint"),
        (zip_file({}, {}, extra={"constants.pkl": b"."}), r"TorchScript.*save model\.state_dict\(\) instead"),
        (zip_file({}, {}, extra={"code/model.py": b""}), "TorchScript"),
        (zip_file({}, {}, extra={"data.pkl": None}), r"without torch's data\.pkl"),
        (zip_file({}, {}, extra={"byteorder": b"big"}), "big-endian"),
        (zip_file({}, {}, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (legacy_file({}, {}, system={"little_endian": False}), "big-endian"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the bytes would be the name
)
def test_a_file_of_another_kind_is_refused_by_what_it_is(tmp_path, data, line):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=line) as error:
        open_weights_file(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_tar_checkpoints_are_refused_by_what_they_are(refused):
    with tarfile.open(fileobj=(tar := BytesIO()), mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    assert "tar format" in refused(tar.getvalue())


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_weights_file(tmp_path / "none.pth")
    with pytest.raises(UserError, match="not a file"):
        open_weights_file(tmp_path)


# Hostile files.


def payloads(marker):
    """Objects that a real unpickler would create `marker` with."""
    command = f"touch {marker}"
    source = f"open({str(marker)!r}, 'w').close()"
    state = Raw(opcodes(Call(Name("builtins.object"), ())) + opcodes({"__setstate__": Name("os.system")}) + b"b")
    return {
        "os.system": Call(Name("os.system"), (command,)),
        "posix.system": Call(Name("posix.system"), (command,)),
        "eval": Call(Name("builtins.eval"), (source,)),
        "exec": Call(Name("builtins.exec"), (source,)),
        "python2": Call(Name("__builtin__.eval"), (source,)),
        "nested": Call(Call(Name("builtins.getattr"), (Name("os.path.os"), "system")), (command,)),
        "argument": Call(Name("torch._utils._rebuild_parameter"), (Call(Name("os.system"), (command,)), True, {})),
        "function": Call(Name("torch._tensor._rebuild_from_type_v2"), (Name("os.system"), Name("x.T"), (command,), {})),
        "runpy": Call(Name("torch.jit.unsupported_tensor_ops.execWrapper"), (source, {}, {})),
        "load": Call(Name("torch.storage._load_from_bytes"), (pickled(Call(Name("os.system"), (command,))),)),
        "setstate": Raw(opcodes(state) + opcodes(command) + b"b"),
        "inst": Raw(b"(" + opcodes(command) + b"ios\nsystem\n"),
        "obj": Raw(b"(" + opcodes(Name("os.system")) + opcodes(command) + b"o"),
        "newobj": Raw(opcodes(Name("subprocess.getoutput")) + opcodes((command,)) + b"\x81"),
        "newobj_ex": Raw(opcodes(Name("os.system")) + opcodes((command,)) + b"}\x92"),
        "stack_global": Raw(opcodes("os") + opcodes("system") + b"\x93" + opcodes((command,)) + b"R"),
    }


def test_the_payloads_are_live(tmp_path):
    marker = tmp_path / "marker"
    for name in ("os.system", "eval", "inst", "obj", "stack_global"):
        pickle.loads(pickled(payloads(marker)[name]))
        marker.unlink()


@pytest.mark.parametrize("name", payloads("marker"))
def test_no_payload_runs_in_any_format(tmp_path, opened, refused, name):
    marker = tmp_path / "marker"
    payload = payloads(marker)[name]
    assert isinstance(opened(zip_file({"x": payload}, {}))["x"], Unreadable)
    assert isinstance(opened(legacy_file({"x": payload}, {}))["x"], Unreadable)
    assert "a plain pickle" in refused(pickled(payload))
    assert not marker.exists()


HUGE = struct.pack("<I", 0xFFFFFFFF)
MANY = 100_000
END_OF_ZIP = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 9_000_004, 0, 0)


def nested(depth):
    """Tuples in tuples; hashing deep ones overflows the C stack."""
    return b")" + b"\x85" * depth


def hostile_files():
    """name -> (bytes of a file, part of the line that it is refused with; "opened" if it is harmless)."""
    deep = nested(200_000)
    harmless = {
        "memo index of 4 billion": b"Nr" + HUGE,
        "tuples in tuples": nested(1_000_000),
        "tuples in tuples as a key": b"}" + deep + b"Ns",
        "tuples in tuples as a set member": b"\x8f(" + deep + b"\x90",
        "doubled a thousand times by DUP": b")" + b"2\x86" * 1000,
        "doubled a thousand times by the memo": b")q\x00" + b"h\x00h\x00\x86q\x00" * 1000,
        "a list that contains itself": b"]q\x00(h\x00h\x00e",
        "keys that could all have one hash": b"}("
        + b"".join(opcodes(i * (2**61 - 1)) + b"N" for i in range(MANY))
        + b"u",
        "a tensor of terabytes": opcodes(tensor("0", "float32", (2**39,), strides=(0,), num_elements=1)),
    }
    refused = {
        "a text memo index": (b"Np" + b"9" * 4000 + b"\n", "memo index"),
        "memo indices of one hash": (b"N" + b"".join(b"p%d\n" % (i * (2**61 - 1)) for i in range(MANY)), "memo index"),
        "tuples in tuples as a storage's key": (b"(" + opcodes("storage") + b"N" + deep + b"NK\x01tQ", "must be text"),
        "too many opcodes": (b"N0" * 1_000_001, "more than 2000000 opcodes"),
        "marks only": (b"(" * MANY, "empty stack"),
        "a dict copied again and again": (
            opcodes([[number, None] for number in range(MANY)]) + b"q\x00" + opcodes(Name("collections.OrderedDict"))
            + b"q\x01" + b"h\x01h\x00\x85R" * MANY,
            "more than 2000000 opcodes",
        ),
        "text encoded again and again": (
            opcodes(("x" * 10_000_000, "latin1")) + b"q\x00" + opcodes(Name("_codecs.encode")) + b"q\x01"
            + b"h\x01h\x00R" * MANY,
            "copies the same text again and again",
        ),
        "arguments of a tensor copied again and again": (
            opcodes(tuple([None] * MANY)) + b"q\x00" + opcodes(Name("torch._tensor._rebuild_from_type_v2")) + b"q\x01"
            + opcodes(Name("torch._utils._rebuild_parameter")) + b"q\x02" + b"h\x01(h\x02h\x02h\x00NtR" * MANY,
            "too many arguments",
        ),
        "class names": (b"".join(b"cm\n%d\n0" % number for number in range(MANY)), "more than 10000 classes"),
        "bytes of 2**62": (b"\x8e" + struct.pack("<Q", 2**62), "ends early"),
        "text of 4 GB": (b"X" + HUGE, "ends early"),
        "an integer of 2 GB": (b"\x8b" + struct.pack("<i", 2**31 - 1), "ends early"),
        "an integer of a million digits": (b"L" + b"9" * 1_000_000 + b"L\n", "digits"),
        "a pickle of 65 MiB": (b"N" * (65 * 2**20), "more than 67108864 bytes"),
    }  # fmt: skip
    others = {
        "text of 4 GB in a legacy file": (legacy_file(Raw(b"X" + HUGE), {}), "ends early"),
        "text of 4 GB in a plain pickle": (b"\x80\x02X" + HUGE, "ends early"),
        "a legacy storage of terabytes": (
            legacy_file([tensor("0", "float32", (2**39,))], {"0": (2**39, b"")}),
            "too few",
        ),
        "a legacy storage of negative size": (
            legacy_file([tensor("0", "float32", (2,))], {"0": (-2, bytes(8))}),
            "storage",
        ),
        "a zip bomb": (zip_file({}, {"0": bytes(50_000_000)}, compression=zipfile.ZIP_DEFLATED), "compressed"),
        "a zip directory of 9 MB": (b"PK\x03\x04" + bytes(9_000_000) + END_OF_ZIP, "directory has more than"),
    }
    files = {name: (zip_file(Raw(body), {"0": bytes(4)}), "opened") for name, body in harmless.items()}
    return files | {name: (zip_file(Raw(body), {}), line) for name, (body, line) in refused.items()} | others


def expanded_bomb(shape):
    return zip_file([tensor("0", "float32", shape, strides=(0,) * len(shape), num_elements=1)], {"0": bytes(4)})


def test_hostile_files_are_bounded_in_memory_and_time(tmp_path):
    """Opened in a process of its own that may take 1 GB and 2 minutes of processor time, for all of them together."""
    files = hostile_files()
    paths = []
    for number, (data, _) in enumerate(files.values()):
        paths.append(tmp_path / f"{number}.pth")
        paths[-1].write_bytes(data)
    code = (
        "import resource, sys; from pathlib import Path; from resnet_jax.errors import UserError\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (120, 120))\n"
        "from resnet_jax.weights.files import open_weights_file\n"
        "for path in sys.argv[1:]:\n"
        "    try: open_weights_file(Path(path)); print('opened')\n"
        "    except UserError as error: print(error)\n"
    )

    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # each thread's buffer would count
    command = [sys.executable, "-c", code, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    for (name, (_, expected)), line in zip(files.items(), result.stdout.splitlines(), strict=True):
        assert expected in line, name


def test_an_expanded_tensor_of_petabytes_has_its_shape_and_allocates_nothing(opened, refused):
    (stored,) = opened(expanded_bomb((2**39, 2**10)))
    assert stored.shape == (2**39, 2**10)
    assert stored.read().shape == stored.shape  # a view of 4 bytes
    assert "more bytes than can be addressed" in refused(expanded_bomb((2**39, 2**39)))


@pytest.mark.parametrize(
    "numbers",
    [
        {"offset": -1}, {"offset": 2**40}, {"offset": True}, {"offset": 22, "num_elements": 24}, {"shape": (25,)},
        {"shape": (-3,)}, {"shape": (3.0,)}, {"shape": [3]}, {"shape": (1,) * 9}, {"strides": (-1,)},
        {"strides": (2**40,)}, {"strides": (12,)}, {"strides": (1, 1)}, {"num_elements": 25}, {"num_elements": -1},
    ],
)  # fmt: skip
def test_tensors_with_impossible_numbers_are_refused(refused, numbers):
    weight = tensor("0", "float32", (3,), num_elements=24)
    store, offset, shape, strides, *rest = weight.args
    if "num_elements" in numbers:
        store = storage("0", "float32", numbers["num_elements"])
    args = (store, numbers.get("offset", offset), numbers.get("shape", shape), numbers.get("strides", strides), *rest)
    assert "damaged" in refused(zip_file([Call(weight.function, args)], {"0": NUMBERS.tobytes()}))


def test_overlapping_and_misplaced_entries_are_refused(refused):
    data = zip_file([tensor("0", "float32", (24,))], {"0": NUMBERS.tobytes(), "1": NUMBERS.tobytes()})
    with zipfile.ZipFile(BytesIO(data)) as archive:
        first, second = (archive.getinfo(f"archive/data/{key}").header_offset for key in "01")

    def moved(offset):
        changed = data.replace(struct.pack("<I", second) + b"archive", struct.pack("<I", offset) + b"archive")
        assert changed != data
        return changed

    assert "overlap" in refused(moved(first))
    assert "not where its directory says" in refused(moved(second + 1))
    assert "reach into its directory" in refused(moved(2**31))
    before, signature, last = data.rpartition(b"PK\x01\x02")  # the last entry of the directory
    sizes = struct.pack("<2I", 97, 97)
    assert "reach into its directory" in refused(before + signature + last[:16] + sizes + last[24:])
    assert "two entries" in refused(data.replace(b"data/1", b"data/0"))


def test_a_storage_that_is_not_in_the_file_is_refused_in_one_line(refused):
    assert "no entry data/a?b for a tensor" in refused(zip_file([tensor("a\nb", "float32", (2,))], {}))


@pytest.mark.parametrize(
    ("root", "storages", "line"),
    [
        ([tensor("0", "float32", (2,))], {}, "list of storages"),
        ([], {"0": (2, bytes(8))}, "list of storages"),
        ([tensor("0", "float32", (2,))], {"0": (3, bytes(12))}, "not where it should be"),
        ([tensor("0", "float32", (2,), view=(("v", 0.0, 2),))], {"0": (2, bytes(8))}, "view of a storage"),
        ([tensor("0", "float32", (2,), view=(("v", 1, 2),))], {"0": (2, bytes(8))}, "must lie within"),
    ],
)
def test_a_legacy_file_whose_storages_do_not_fit_is_refused(refused, root, storages, line):
    root = {"padding": "x" * 1000, "tensors": root}  # so that only the storages' own limits can refuse
    assert line in refused(legacy_file(root, storages))


def test_a_legacy_file_of_another_protocol_is_refused(refused):
    assert "protocol is not 1001" in refused(legacy_file({}, {}).replace(pickled(1001), pickled(1002)))


def test_a_wrong_checksum_is_found_at_the_first_read(opened):
    data = zip_file([tensor("0", "float32", (24,))], {"0": NUMBERS.tobytes()})
    (intact,) = opened(data)
    intact.read()
    at = data.index(NUMBERS.tobytes())
    (stored,) = opened(data[:at] + b"\x01" + data[at + 1 :])
    with pytest.raises(UserError, match=r"weights\.pth is damaged .* checksum"):
        stored.read()


def test_a_storage_is_compared_with_its_checksum_once_for_all_its_tensors(opened, monkeypatch):
    checked = []
    monkeypatch.setattr(zlib, "crc32", lambda data, start, crc32=zlib.crc32: checked.append(data) or crc32(data, start))
    weight = tensor("0", "float32", (2,), num_elements=24)
    for stored in opened(zip_file([weight, weight], {"0": NUMBERS.tobytes()})):
        stored.read()
        stored.read()
    assert checked.count(NUMBERS.tobytes()) == 1


def test_a_file_that_became_shorter_is_refused(opened, tmp_path):
    (stored,) = opened(zip_file([tensor("0", "float32", (24,))], {"0": NUMBERS.tobytes()}))
    os.truncate(tmp_path / "weights.pth", 150)
    with pytest.raises(UserError, match=r"weights\.pth is damaged .* ends early"):
        stored.read()


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_file_cut_off_anywhere_is_refused(refused, kind):
    root = {"w": tensor("0", "float32", (24,))}
    data = {
        "zip": zip_file(root, {"0": NUMBERS.tobytes()}),
        "legacy": legacy_file(root, {"0": (24, NUMBERS.tobytes())}),
    }[kind]
    for length in range(1, len(data), 3):
        refused(data[:length])


# The real torch's files, where it is installed.


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_reads_equal(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    weight = torch.arange(120.0).reshape(2, 3, 4, 5)
    tensors = {
        **{dtype: torch.tensor(numbers_of("float32"), dtype=getattr(torch, dtype)) for dtype in DTYPES},
        "channels_last": weight.to(memory_format=torch.channels_last),
        "transposed": weight[0, 0].T,
        "part": weight[1, 1:, ::2],
        "expanded": weight[:1].expand(7, 3, 4, 5),
        "parameter": torch.nn.Parameter(weight),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "uint16": torch.tensor([1, 2], dtype=torch.uint16),
    }
    tagged = torch.nn.Parameter(weight)
    tagged.tag = "kept by _rebuild_parameter_with_state"
    tensors["tagged"] = tagged
    root = {"model": tensors, "epoch": 3, "size": weight.shape, "raw": b"\x00\xff", "names": [("a", 1.5), {2}]}
    path = tmp_path / "weights.pth"
    torch.save(root, path, _use_new_zipfile_serialization=zipped)
    opened = open_torch_file(path)
    assert {name: value for name, value in opened.items() if name != "model"} == {
        "epoch": 3, "size": (2, 3, 4, 5), "raw": b"\x00\xff", "names": [("a", 1.5), {2}],
    }  # fmt: skip
    for name, value in tensors.items():
        stored = opened["model"][name]
        assert isinstance(stored, StoredTensor)
        assert f"torch.{stored.dtype.name}" == str(value.dtype)
        expected = value.detach().double().numpy()
        np.testing.assert_array_equal(stored.read().astype(np.float64), expected, err_msg=name)


def test_what_torch_saves_of_modules_and_odd_tensors_is_unreadable(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    root = {
        "an object of class torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2),
        "a sparse tensor": torch.eye(3).to_sparse(),
        "a tensor on the meta device, which has no content": torch.empty(2, device="meta"),
        "a tensor of dtype complex64": torch.zeros(2, dtype=torch.complex64),
        FLOAT8.format("float8_e5m2"): torch.zeros(2, dtype=torch.float8_e5m2),
    }
    torch.save(root, path)
    assert {name: value.what for name, value in open_torch_file(path).items()} == {name: name for name in root}
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(UserError, match="TorchScript"):
        open_torch_file(path)


def test_files_saved_without_checksums_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save([torch.arange(3)], tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(open_torch_file(tmp_path / "weights.pth")[0].read(), [0, 1, 2])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_legacy_file_is_known_by_its_beginning_whatever_the_pickles_protocol(protocol):
    data = pickle.dumps(LEGACY_MAGIC, protocol) + pickle.dumps(1001, protocol)
    assert is_legacy(data)
    assert not looks_like_pickle(data)
    other = pickle.dumps({"a": 1}, protocol)
    assert not is_legacy(other)
    assert looks_like_pickle(other)
