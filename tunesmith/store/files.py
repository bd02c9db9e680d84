"""The bytes of a data file -> its rows with their line numbers. What the rows mean is for formats.py.

Streams: only one row is in memory at a time (a JSON array excepted). Nothing is ever unpickled.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from tunesmith.errors import DataError

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
LONGEST_ROW = 32 * 2**20
LARGEST_ARRAY = 512 * 2**20
Row = Mapping[str, Any]
_JSON_CELLS = {"messages", "conversations", "prompt", "chosen", "rejected", "completion", "answers", "ranking", "facts"}
_NUMBER_CELLS = {"weight", "label"}


def read_rows(path: Path, skipped: Counter[str]) -> Iterator[tuple[int, Row]]:
    """(line, row) of a .jsonl, .json, .csv, .tsv or .parquet file, .gz too. Blank lines are counted in `skipped`.

    Raises:
        DataError: missing, empty, not UTF-8, truncated, malformed; with the line where there is one.
    """
    name = path.name.lower().removesuffix(".gz")
    if path.is_dir():
        raise DataError("is a folder; name one file", path)
    if not path.exists():
        raise DataError("no such file", path)
    if not name.endswith(ENDINGS):
        raise DataError(f"unknown kind of file; known are {', '.join(ENDINGS)}, each also with .gz", path)
    try:
        with _open(path) as f:
            if name.endswith(".parquet"):
                yield from _parquet(f, path)
            elif name.endswith((".csv", ".tsv")):
                yield from _csv(f, path, "\t" if name.endswith(".tsv") else ",")
            else:
                yield from _json(f, path, skipped)
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise DataError("the gzip file is truncated or damaged", path) from e
    except OSError as e:
        raise DataError(f"cannot be read: {e.strerror or e}", path) from e


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


def _json(f: BinaryIO, path: Path, skipped: Counter[str]) -> Iterator[tuple[int, Row]]:
    started = False
    for number, raw in _lines(f, path):
        if not raw.strip():
            skipped["blank line"] += 1
        elif not started and raw.lstrip().startswith(b"["):
            raw += f.read(LARGEST_ARRAY + 1)
            if len(raw) > LARGEST_ARRAY:
                raise DataError(f"a JSON array of more than {LARGEST_ARRAY // 2**20} MB; write one row per line", path)
            yield from _array(_decode(raw, path, number), path, number)
            return
        else:
            started = True
            row = _parse(_decode(_bounded(raw, path, number), path, number), path, number)
            yield number, _object(row, path, number)


def _lines(f: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while raw := f.readline(LONGEST_ROW + 1):
        number += 1
        if number == 1:
            raw = _without_bom(raw, path)
        yield number, raw
    if number == 0:
        raise DataError("is empty", path)


def _bounded(raw: bytes, path: Path, line: int) -> bytes:
    if len(raw) > LONGEST_ROW:
        raise DataError(f"a row of more than {LONGEST_ROW // 2**20} MB", path, line)
    return raw


def _without_bom(raw: bytes, path: Path) -> bytes:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:4]:
        raise DataError("is UTF-16 or UTF-32 (or no text at all); save it as UTF-8", path)
    return raw.removeprefix(b"\xef\xbb\xbf")


def _decode(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as e:
        line += raw.count(b"\n", 0, e.start)
        raise DataError(f"not valid UTF-8 (byte 0x{raw[e.start]:02x}); save the file as UTF-8", path, line) from e


def _parse(text: str, path: Path, line: int) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as e:
        _malformed(e, path, line)


def _malformed(e: ValueError | RecursionError, path: Path, line: int) -> NoReturn:
    if isinstance(e, RecursionError):
        raise DataError("nested too deeply", path, line) from e
    what = f"{_said(e)} at column {e.colno}" if isinstance(e, json.JSONDecodeError) else str(e)
    raise DataError(f"not valid JSON: {what}", path, line) from e


def _said(e: json.JSONDecodeError) -> str:
    return f"{e.msg[:1].lower()}{e.msg[1:].removesuffix(' at')}"


def _array(text: str, path: Path, line: int) -> Iterator[tuple[int, Row]]:
    """The objects of one JSON array, each with the line where it begins."""
    at, counted = text.index("[") + 1, 0
    first = True
    while True:
        at = _skip_space(text, at)
        if first and text[at:at + 1] == "]":
            break
        line, counted = line + text.count("\n", counted, at), at
        try:
            row, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as e:
            if isinstance(e, json.JSONDecodeError):
                raise DataError(f"not valid JSON: {_said(e)}", path, line + text.count("\n", counted, e.pos)) from e
            _malformed(e, path, line)
        yield line, _object(row, path, line)
        at, first = _skip_space(text, at), False
        if text[at:at + 1] == "]":
            break
        if text[at:at + 1] != ",":
            raise DataError('the JSON array does not go on with "," or "]"', path, line + text.count("\n", counted, at))
        at += 1
    if text[at + 1:].strip():
        raise DataError("something follows the JSON array", path, line + text.count("\n", counted, at + 1))


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _object(row: Any, path: Path, line: int) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"a row must be a JSON object, this is {kind_of(row)}", path, line)
    return row


def _csv(f: BinaryIO, path: Path, delimiter: str) -> Iterator[tuple[int, Row]]:
    def lines() -> Iterator[str]:
        for number, raw in _lines(f, path):
            yield _decode(_bounded(raw, path, number), path, number)

    csv.field_size_limit(LONGEST_ROW)
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader)]
        if twice := next((n for n in header if header.count(n) > 1), None):
            raise DataError(f'the header names "{twice}" twice', path, 1)
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) != len(header):
                    raise DataError(f"{len(cells)} cells under a header of {len(header)}", path, line)
                yield line, {name: _cell(name, cell, path, line) for name, cell in zip(header, cells) if cell != ""}
            line = reader.line_num + 1
    except csv.Error as e:
        raise DataError(f"not valid CSV: {e}", path, line) from e


def _cell(name: str, cell: str, path: Path, line: int) -> Any:
    """A cell is text, except where the field holds a number, or JSON that begins like it."""
    if name in _JSON_CELLS and cell.lstrip().startswith(("[", "{")):
        try:
            return _DECODER.decode(cell)
        except (ValueError, RecursionError):
            return cell
    if name in _NUMBER_CELLS:
        if cell.strip().lower() in ("true", "false"):
            return cell.strip().lower() == "true"
        try:
            return float(cell)
        except ValueError as e:
            raise DataError(f'"{name}" must be a number, got {cell[:40]!r}', path, line) from e
    return cell


def _parquet(f: BinaryIO, path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = io.BytesIO(f.read()) if isinstance(f, gzip.GzipFile) else f
        number = 0
        for batch in pq.ParquetFile(source).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, UnicodeDecodeError) as e:
        raise DataError(f"not a readable Parquet file: {str(e).splitlines()[0]}", path) from e


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f'the key "{twice}" comes twice')
    return row


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is too large a number")
    return number


def kind_of(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number",
            type(None): "null"}.get(type(value), f"a {type(value).__name__}")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant, parse_float=_float)
