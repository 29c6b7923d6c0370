"""Files of torch.save, of both formats, read without torch: the saved object with its tensors still in the file."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from resnet_jax.errors import UserError
from resnet_jax.weights.formats.zip_entries import ZipFile
from resnet_jax.weights.lazy_tensor import MAX_INT, ByteRange, reading
from resnet_jax.weights.torch.pickle_stream import LEGACY_MAGIC, MAX_BYTES, MalformedPickleError, Stream
from resnet_jax.weights.torch.safe_unpickler import load_pickle
from resnet_jax.weights.torch.tensors import ITEMSIZES, TENSOR_FUNCTIONS, Storage, storage_dtype

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_PROTOCOL = 1001
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of the name and of the extra field
COUNT = struct.Struct("<q")

Load = Callable[[Any], Any]
Find = Callable[[str, int, int], ByteRange]  # (key, number of elements, bytes of each) -> the storage


def open_torch_file(path: Path) -> Any:
    """Returns the object that torch.save wrote to `path`, a `StoredTensor` in place of each tensor; no tensor is read
    yet.

    What is no tensor, container, number or string is an `Unreadable`. Nothing in the file is executed. The object may
    contain itself, as any pickled object.

    Raises:
      UserError: if the file is damaged or another kind's.
    """
    with reading(path), path.open("rb", buffering=0) as file:
        is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    return _open_zip(path) if is_zip else _open_legacy(path)


def _open_zip(path: Path) -> Any:
    with reading(path):
        entries = _zip_entries(path)
        order = entries.get("byteorder")
        if order is not None and order.read(0, min(order.length, 16)) != b"little":
            raise UserError(f"{path} was saved on a big-endian machine: load and save it again with torch on another")
        pickled = entries["data.pkl"]
        if pickled.length > MAX_BYTES:
            raise ValueError(f"its pickle has more than {MAX_BYTES} bytes")

        def find(key: str, _num_elements: int, _itemsize: int) -> ByteRange:
            if f"data/{key}" not in entries:
                raise ValueError(f"it has no entry data/{key[:100]} for a tensor")
            return entries[f"data/{key}"]

        stream = Stream(io.BytesIO(pickled.read(0, pickled.length)), pickled.length)
        return load_pickle(stream, TENSOR_FUNCTIONS, _persistent_load(find))


def _zip_entries(path: Path) -> dict[str, ByteRange]:
    """Returns the files of the archive by their names without its top folder."""
    with ZipFile(str(path)) as file, zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        names = [info.filename.partition("/")[2] for info in infos]
        _refuse_other_archives(path, names)
        entries: dict[str, ByteRange] = {}
        for name, info in zip(names, infos, strict=True):
            if info.header_offset >= archive.start_dir:
                raise ValueError("its entries reach into its directory")
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
                raise UserError(f"{path} has compressed entries: torch.save writes none; load it and save it again")
            if name in entries:
                raise ValueError(f"it has two entries {info.filename[:100]!r}")
            file.seek(info.header_offset)
            signature, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            if signature != ZIP_MAGIC:
                raise ValueError(f"its entry {info.filename[:100]!r} is not where its directory says")
            start = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
            # torch leaves the checksums 0 when set to compute none.
            entries[name] = ByteRange(path, start, info.file_size, info.CRC or None)
        ends = 0
        for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.length)):
            if entry.start < ends:
                raise ValueError("its entries overlap")
            ends = entry.start + entry.length
        if ends > archive.start_dir:
            raise ValueError("its entries reach into its directory")
        return entries


def _refuse_other_archives(path: Path, names: list[str]) -> None:
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise UserError(
            f"{path} is a TorchScript archive: load it with torch.jit.load and save model.state_dict() instead"
        )
    if "data.pkl" in names:
        return
    raise UserError(f"{path} is not a checkpoint: it is a zip archive without torch's data.pkl")


def _persistent_load(find: Find) -> Load:
    """Returns what a persistent id stands for, `find` telling where the storages are."""

    def load(persistent_id: Any) -> Any:
        if not isinstance(persistent_id, tuple) or len(persistent_id) < 2:
            raise ValueError("its reference to a storage is no tuple")
        if persistent_id[0] == "module":  # a class, with its source
            return persistent_id[1]
        _storage, storage_type, key, _location, num_elements, *view = persistent_id
        if not isinstance(key, str) or not _is_count(num_elements):
            raise ValueError("the key of a storage must be text, its number of elements an integer >= 0")
        dtype = storage_dtype(storage_type)
        itemsize = ITEMSIZES[dtype]
        data = find(key, num_elements, itemsize)
        if num_elements * itemsize > data.length:
            raise ValueError(f"storage {key[:100]!r} has {data.length} bytes, too few for its elements of {dtype}")
        if view and view[0] is not None:
            _view_key, offset, view_elements = view[0]
            if not (_is_count(offset) and _is_count(view_elements)):
                raise ValueError("the view of a storage must have integers >= 0")
            data = data.part(offset * itemsize, view_elements * itemsize)
        return Storage("a storage by itself", data, dtype)

    return load


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < MAX_INT


def _open_legacy(path: Path) -> Any:
    with reading(path), path.open("rb") as file:
        num_bytes = path.stat().st_size
        starts_as_pickle = file.peek(1)[:1] == b"\x80"
        file.seek(257)
        if file.read(5) == b"ustar":
            raise UserError(f"{path} is in torch's tar format of 2016: load it and save it again with torch")
        file.seek(0)

        def load(persistent_load: Load | None = None) -> Any:
            return load_pickle(Stream(file, num_bytes - file.tell()), TENSOR_FUNCTIONS, persistent_load)

        try:
            magic = load()
        except MalformedPickleError:
            if starts_as_pickle:
                raise
            raise UserError(f"{path} is not a checkpoint: it is neither a torch nor a safetensors file") from None
        if magic != LEGACY_MAGIC:
            raise UserError(
                f"{path} is a plain pickle, not a torch checkpoint: save model.state_dict() with torch.save"
            )
        if load() != LEGACY_PROTOCOL:
            raise ValueError(f"its protocol is not {LEGACY_PROTOCOL}")
        system = load()
        if not isinstance(system, dict) or not system.get("little_endian", True):
            raise UserError(f"{path} was saved on a big-endian machine: load and save it again with torch on another")
        # The storages come after the object, which alone has their sizes: it is read once to learn these, and again
        # when the place of each storage is known.
        start = file.tell()
        declared: dict[str, tuple[int, int]] = {}

        def declare(key: str, num_elements: int, itemsize: int) -> ByteRange:
            declared.setdefault(key, (num_elements, itemsize))  # the first tensor of a storage shows how it is written
            return ByteRange(path, 0, num_bytes)

        load(_persistent_load(declare))
        ranges = _legacy_ranges(path, file, load(), declared)
        file.seek(start)
        return load(_persistent_load(lambda key, _elements, _itemsize: ranges[key]))


def _legacy_ranges(path: Path, file: BinaryIO, keys: Any, declared: dict[str, tuple[int, int]]) -> dict[str, ByteRange]:
    """Returns the bytes of each storage: one after the other in the order of `keys`, each after its number of
    elements.
    """
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or {*keys} != {*declared}:
        raise ValueError("its list of storages is not that of its tensors")
    num_bytes = path.stat().st_size
    ranges = {}
    for key in keys:
        num_elements, itemsize = declared[key]
        if file.read(COUNT.size) != COUNT.pack(num_elements):
            raise ValueError(f"storage {key[:100]!r} is not where it should be, or ends early")
        ranges[key] = ByteRange(path, file.tell(), num_elements * itemsize)
        if file.seek(ranges[key].length, io.SEEK_CUR) > num_bytes:
            raise ValueError(f"storage {key[:100]!r} ends early")
    return ranges
