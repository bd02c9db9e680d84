"""The bytes of a data file -> its rows with their line numbers. What the rows mean is for formats.py.

Streams: only a few rows are in memory at a time. A row has a largest size, and a packed file may not unpack to
hundreds of times its size. Nothing is ever unpickled.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from tunesmith.errors import DataError

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
LONGEST_ROW = 8 * 2**20
PACKED = 100
"""How many times its size a file may unpack to: text packs to a fifth or a twentieth, a bomb to a thousandth."""
MOST_BLANK = 100_000
SMALL = 8 * 2**20
"""Bytes that any file may unpack to."""
PARQUET_ROWS = 64
"""Rows of Parquet unpacked at a time."""
Row = Mapping[str, Any]
_JSON_CELLS = {"messages", "conversations", "answers", "ranking", "facts", "conversation", "responses", "completions",
               "outputs", "candidates", "models", "shown", "ratings", "labels", "pairs"}
_TEXT_CELLS = {"prompt", "chosen", "rejected", "completion"}
"""Texts, or messages written as JSON. A text may be JSON too: an answer of a model that was asked for it."""
_SPACES = re.compile(r"[ \t\r\n]*")
_NUMBER_CELLS = {"weight", "label"}


def read_rows(path: Path, skipped: Counter[str], largest: int = 0) -> Iterator[tuple[int, Row]]:
    """(line, row) of a .jsonl, .json, .csv, .tsv or .parquet file, .gz too. Blank lines are counted in `skipped`.

    Args:
        largest: bytes that the rows of a packed file may have in all; 0: no limit but `PACKED`.

    Raises:
        DataError: missing, empty, not UTF-8, truncated, malformed, a bomb; with the line where there is one.
    """
    name = path.name.lower().removesuffix(".gz")
    if path.is_dir():
        raise DataError("is a folder; name one file", path)
    if not path.exists():
        raise DataError("no such file", path)
    if not name.endswith(ENDINGS):
        raise DataError(f"unknown kind of file; known are {', '.join(ENDINGS)}, each also with .gz", path)
    try:
        with _open(path, largest) as f:
            if name.endswith(".parquet"):
                yield from _parquet(f, path, largest)
            elif name.endswith((".csv", ".tsv")):
                yield from _csv(f, path, "\t" if name.endswith(".tsv") else ",")
            else:
                yield from _json(f, path, skipped)
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise DataError("the gzip file is truncated or damaged", path) from e
    except OSError as e:
        raise DataError(f"cannot be read: {e.strerror or e}", path) from e


def _open(path: Path, largest: int) -> BinaryIO:
    if not path.name.lower().endswith(".gz"):
        return open(path, "rb")
    most = max(SMALL, PACKED * path.stat().st_size)
    return cast(BinaryIO, _Unpacked(path, min(most, largest) if largest else most))


class _Unpacked(gzip.GzipFile):
    """A gzip file that ends with an error after `most` bytes."""

    def __init__(self, path: Path, most: int):
        super().__init__(path, "rb")
        self.path, self.most, self.seen = path, most, 0

    def readline(self, size: int | None = -1) -> bytes:
        return self._counted(super().readline(size))

    def read(self, size: int | None = -1) -> bytes:
        room = self.most - self.seen + 1
        return self._counted(super().read(room if size is None or size < 0 else min(size, room)))

    def _counted(self, raw: bytes) -> bytes:
        self.seen += len(raw)
        if self.seen > self.most:
            raise DataError(f"unpacks to more than {self.most // 2**20} MB, far more than its size; unpack it yourself "
                            "if it is what it should be", self.path)
        return raw


def _json(f: BinaryIO, path: Path, skipped: Counter[str]) -> Iterator[tuple[int, Row]]:
    started = False
    for number, raw in _lines(f, path):
        if not raw.strip():
            skipped["blank line"] += 1
            if skipped["blank line"] > MOST_BLANK:
                raise DataError(f"more than {MOST_BLANK} blank lines", path, number)
        elif not started and raw.lstrip().startswith(b"["):
            yield from _Array(f, raw, path, number).rows()
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


class _Array:
    """The objects of one JSON array, each with the line where it begins; read a part at a time."""

    def __init__(self, f: BinaryIO, head: bytes, path: Path, line: int):
        self._f, self._path, self._line = f, path, line
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at = "", 0
        self._take(head)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """
        Raises:
            DataError: not JSON, a row that is no object or too large, something after the array.
        """
        self._next()
        self._at += 1  # "["
        if self._next() != "]":
            while True:
                line = self._here()
                yield line, _object(self._value(), self._path, line)
                if (sign := self._next()) == "]":
                    break
                if sign != ",":
                    raise DataError('the JSON array does not go on with "," or "]"', self._path, self._here())
                self._at += 1
                self._next()
        self._at += 1
        if self._next():
            raise DataError("something follows the JSON array", self._path, self._here())

    def _value(self) -> Any:
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._text, self._at)
                return value
            except json.JSONDecodeError as e:
                cut = e.pos >= len(self._text) - 12 or e.msg.startswith("Unterminated string")
                if cut and len(self._text) - self._at > LONGEST_ROW:
                    raise DataError(f"a row of more than {LONGEST_ROW // 2**20} MB", self._path, self._here()) from e
                if not (cut and self._more()):
                    raise DataError(f"not valid JSON: {_said(e)}", self._path, self._here(e.pos)) from e
            except (ValueError, RecursionError) as e:
                _malformed(e, self._path, self._here())

    def _next(self) -> str:
        """The next character that is no space, "" at the end of the file."""
        while True:
            self._at = _SPACES.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _here(self, at: int = -1) -> int:
        return self._line + self._text.count("\n", 0, self._at if at < 0 else at)

    def _more(self) -> bool:
        """Whether there was more to read; what is done with is dropped."""
        raw = self._f.read(max(2**16, len(self._text) - self._at))
        self._line = self._here()
        self._text, self._at = self._text[self._at:], 0
        self._take(raw)
        return bool(raw)

    def _take(self, raw: bytes) -> None:
        try:
            self._text += self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as e:
            line = self._here(len(self._text)) + e.object.count(b"\n", 0, e.start)
            raise DataError(f"not valid UTF-8 (byte 0x{e.object[e.start]:02x}); save the file as UTF-8", self._path,
                            line) from e


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
    if name in _JSON_CELLS | _TEXT_CELLS and cell.lstrip().startswith(("[", "{")):
        try:
            value = _DECODER.decode(cell)
        except (ValueError, RecursionError):
            return cell
        turns = isinstance(value, list) and all(isinstance(turn, dict) and "role" in turn for turn in value)
        return value if turns or name in _JSON_CELLS else cell
    if name in _NUMBER_CELLS:
        if cell.strip().lower() in ("true", "false"):
            return cell.strip().lower() == "true"
        try:
            return _float(cell)
        except ValueError as e:
            raise DataError(f'"{name}" must be a number, got {cell[:40]!r}', path, line) from e
    return cell


def _parquet(f: BinaryIO, path: Path, largest: int) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = io.BytesIO(f.read()) if isinstance(f, gzip.GzipFile) else f
        most = max(SMALL, PACKED * source.seek(0, io.SEEK_END))  # a column may say one text a million times
        number = seen = source.seek(0)
        for batch in pq.ParquetFile(source).iter_batches(batch_size=PARQUET_ROWS):
            size = sum((column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).nbytes
                       for column in batch.columns)
            seen += size
            if size > PARQUET_ROWS * LONGEST_ROW or (largest and seen > largest):
                raise DataError(f"unpacks to more than {seen // 2**20} MB", path, number + 1)
            if seen > most:
                raise DataError("unpacks to far more than its size", path, number + 1)
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, UnicodeDecodeError, OverflowError) as e:
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
