"""Tables as files: CSV, TSV, JSON lines and Parquet, read into columns."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_jax.errors import RunError, UserError, abridge, first_line

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_PHOTOS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_HEAD_BYTES = 2**20
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Table:
    """The columns of a table, by name, each of `num_rows` values.

    Attributes:
      class_names: of a column, where the file says what its numbers stand for (Parquet by Hugging Face).
      lines: the line of each row in the file, from 1; empty where there are none.
    """

    path: Path
    columns: dict[str, Sequence[Any]]
    num_rows: int
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lines: Sequence[int] = ()

    def row(self, i: int) -> str:
        """Returns the name of row `i` for messages."""
        return f"{self.path} line {self.lines[i]}" if self.lines else f"{self.path} row {i}"


def read_table(path: Path) -> Table:
    """Returns the table in a file, by the end of its name, without Parquet's columns of images.

    Raises:
      UserError: if it cannot be read, or has rows without the header's columns.
    """
    if path.suffix.lower() == ".parquet":
        with _errors_in_a_line(path):
            return _read_parquet(path)
    text = read_text(path)
    return _read_csv(path, text) if path.suffix.lower() in (".csv", ".tsv") else _read_json_lines(path, text)


def read_text(path: Path) -> str:
    """Returns the text of a table or a list, in UTF-8.

    Raises:
      UserError: if it cannot be read, or is no such text.
    """
    with _errors_in_a_line(path):
        return path.read_bytes().decode("utf-8-sig")


@contextmanager
def _errors_in_a_line(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def read_head(path: Path) -> Table | None:
    """Returns the first rows of a large CSV or TSV file; None of another, or if they alone cannot be read."""
    if path.suffix.lower() not in (".csv", ".tsv") or path.stat().st_size < 2 * _HEAD_BYTES:
        return None
    try:
        with path.open("rb") as file:
            lines = file.read(_HEAD_BYTES).rpartition(b"\n")[0]
        return _read_csv(path, lines.decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, UserError):
        return None


def _read_csv(path: Path, text: str) -> Table:
    header = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, lines = [], []
    try:
        names = [name.strip() for name in next(reader, [])]
        while len(names) > 1 and not names[-1]:  # behind the last column, as spreadsheets write them
            names.pop()
        for row in reader:
            if not any(row):
                continue
            if len(row) < len(names) or any(row[len(names) :]):
                raise UserError(
                    f"{path} line {reader.line_num} has {len(row)} columns, and its header {len(names)}: mend the line"
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num} cannot be read as a table: {error}") from error
    if any(name.lower().endswith(_PHOTOS) for name in names):
        raise UserError(
            f"{path} begins with {abridge(names, 3)}, which is no header: its first line must name its columns "
            "(image,label)"
        )
    _check_header(path, names)
    columns: dict[str, Sequence[Any]] = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return Table(path, columns, len(rows), lines=lines)


def _read_json_lines(path: Path, text: str) -> Table:
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} line {number} is no JSON: {first_line(error)}") from None
        if not isinstance(row, dict):
            raise UserError(f'{path} line {number} is no JSON object: write {{"image": …, "label": …}} on each')
        rows.append(row)
        lines.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    _check_header(path, names)
    return Table(path, {name: [row.get(name) for row in rows] for name in names}, len(rows), lines=lines)


def _check_header(path: Path, names: list[str]) -> None:
    if not any(names):
        raise UserError(f"{path} is empty: its first line must name its columns")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has the column {twice!r} twice: rename one of them")


def parquet() -> Any:
    """Returns pyarrow's module for Parquet.

    Raises:
      UserError: if pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet needs pyarrow: pip install 'resnet-family-jax[parquet]'") from None
    return pyarrow.parquet


def _read_parquet(path: Path) -> Table:
    with open_parquet(path) as file:
        schema = file.schema_arrow
        names = [field.name for field in schema if not holds_bytes(field.type)]
        _check_header(path, schema.names)
        data = file.read(columns=names)
        columns = {name: data.column(name).to_pylist() for name in names}
        return Table(path, columns, file.metadata.num_rows, parquet_class_names(path, schema))


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Yields pyarrow's ParquetFile.

    Raises:
      UserError: if it cannot be opened, or what is read of it, as it is damaged.
    """
    from resnet_jax.storage.ranged_files import is_ranged, open_file

    module = parquet()
    try:
        opened = open_file(path) if is_ranged(path) else nullcontext(path)
        with opened as source, module.ParquetFile(source) as file:
            yield file
    except (UserError, RunError):
        raise
    except Exception as error:  # pyarrow's own kinds, and the system's
        raise UserError(f"{path} cannot be read as Parquet: {first_line(error)}") from error


def holds_bytes(kind: Any) -> bool:
    """Returns whether a column of pyarrow's type `kind` holds files: bytes, or {bytes, path} as Hugging Face has it."""
    text = str(kind)
    return text in ("binary", "large_binary") or (text.startswith("struct<") and "bytes: " in text)


def parquet_class_names(path: Path, schema: Any) -> dict[str, tuple[str, ...]]:
    """Returns the class names that Hugging Face's metadata in a Parquet file say, by column; none if there are none."""
    text = (schema.metadata or {}).get(b"huggingface")
    if not text:
        return {}
    try:
        features = json.loads(text)["info"]["features"]
        found = {}
        for name, feature in features.items():
            kind = feature.get("feature", feature) if isinstance(feature, dict) else feature[0]
            if isinstance(kind, dict) and kind.get("_type") == "ClassLabel":
                found[name] = tuple(map(str, kind["names"]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: its metadata of Hugging Face cannot be read: {first_line(error)}") from None
    return found
