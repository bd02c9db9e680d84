"""Files that are broken or mean harm: refused in words, at once, in little memory, and nothing of them is stored."""

import gzip
import io
import json
import tarfile
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.service import sources

GOOD = b'{"prompt": "Rate?", "answers": ["7.5", "8"]}\n'


def bomb(start, filling):
    """Three hundred million bytes in a few kilobytes of gzip, in members."""
    return gzip.compress(start) + gzip.compress(filling * 3_000_000) * 100


DEEP = b"[" * 100_000


def zipped(name="a.jsonl", content=GOOD):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as z:
        z.writestr(name, content)
    return raw.getvalue()


def linked():
    """A tar file with a link to /etc/passwd, packed."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as t:
        info = tarfile.TarInfo("../a.jsonl")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        t.addfile(info)
    return raw.getvalue()


def parquet(rows, cut=0):
    raw = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), raw)
    return raw.getvalue()[:len(raw.getvalue()) - cut]


def row(**rest):
    return json.dumps({"prompt": "Rate?", "answers": ["7.5", "8"], **rest}).encode()


def repeated(rows, text):
    """A Parquet file of one text over and over, which takes no room: some hundred kB that are `rows * len(text)`."""
    raw = io.BytesIO()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])
    pq.write_table(pa.table({"prompt": column, "answer_1": column, "answer_2": column}), raw)
    return raw.getvalue()


CORPUS = {
    "half-million-keys.jsonl": (json.dumps({f"k{n}": 0 for n in range(500_000)}).encode(), ":1: "),
    "bomb.parquet": (repeated(200_000, "x" * 50_000), "far more than its size"),
    "empty.jsonl": (b"", "is empty"),
    "blank.jsonl": (b"\n\n \n", "no rows"),
    "utf16.jsonl": (GOOD.decode().encode("utf-16"), "UTF-16"),
    "utf32.jsonl": (GOOD.decode().encode("utf-32"), "UTF-16 or UTF-32"),
    "latin1.jsonl": (GOOD + '{"prompt": "Käse"}'.encode("latin-1"), ":2: not valid UTF-8 (byte 0xe4)"),
    "nul.jsonl": (b'{"prompt": "a\0b"}', ":1: not valid JSON: invalid control character"),
    "zeros.jsonl": (b"\0" * 4096, "no text at all"),
    "surrogate.jsonl": (GOOD + rb'{"prompt": "\ud800", "answers": ["a", "b"]}', ":2: a text holds half a character"),
    "comma.jsonl": (b'{"prompt": "a",}', ":1: not valid JSON"),
    "comma.json": (b'[{"prompt": "a", "answers": ["a", "b"]},\n]', ":2: not valid JSON"),
    "unfinished.json": (b"[" + GOOD, "does not go on"),
    "array.jsonl": (GOOD + b"[1, 2]", ":2: a row must be a JSON object, this is a list"),
    "scalar.jsonl": (b'"hello"', ":1: a row must be a JSON object"),
    "nan.jsonl": (GOOD + b'{"prompt": NaN}', ":2: not valid JSON: NaN is not a JSON number"),
    "infinity.jsonl": (b'{"prompt": -Infinity}', "-Infinity is not a JSON number"),
    "huge.jsonl": (b'{"prompt": 1e999}', "1e999 is too large"),
    "digits.jsonl": (b'{"prompt": ' + b"9" * 100_000 + b"}", ":1: not valid JSON"),
    "twice.jsonl": (b'{"prompt": "a", "prompt": "b"}', 'the key "prompt" comes twice'),
    "deep.jsonl": (b'{"prompt": ' + DEEP, ":1: nested too deeply"),
    "deep.json": (b"[" + DEEP, ":1: nested too deeply"),
    "balanced.jsonl": (b'{"prompt": ' + DEEP + b"]" * 100_000 + b"}", "nested too deeply"),
    "keys.jsonl": (json.dumps({f"k{n}": 0 for n in range(10**6)}).encode(), "a row of more than 8 MB"),
    "line.jsonl": (b'{"prompt": "' + b"x" * 100_000_000, "a row of more than 8 MB"),
    "line.json": (b'[{"prompt": "' + b"x" * 100_000_000, "a row of more than 8 MB"),
    "number.jsonl": (row(prompt=7), '"prompt" must be a list'),
    "roles.jsonl": (row(prompt=[{"role": "alien", "content": "x"}]), '"role" must be system, user, assistant or tool'),
    "content.jsonl": (row(prompt=[{"role": "user", "content": ""}]), '"content" is empty'),
    "null.jsonl": (row(prompt=None), '"prompt"'),
    "order.jsonl": (row(prompt=[{"role": "user", "content": "x"}] * 2), "in a row"),
    "answers.jsonl": (row(answers=[]), '"answers" is empty'),
    "same.jsonl": (row(answers=["a", "a"]), "all answers are alike"),
    "quotes.csv": (b'prompt,answer_1,answer_2\n"open,a,b\n', "not valid CSV"),
    "cells.csv": (b"prompt,answer_1,answer_2\na,b,c\na,b\n", ":3: 2 cells under a header of 3"),
    "header.csv": (b"prompt,prompt\na,b\n", 'the header names "prompt" twice'),
    "nul.csv": (b"prompt,answer_1,answer_2\na,b,\0\nx", "cells"),
    "cell.csv": (b"prompt,answer_1,answer_2\n" + b"x" * 20_000_000, "a row of more than 8 MB"),
    "cut.parquet": (parquet([{"prompt": "a"}], cut=20), "not a readable Parquet file"),
    "text.parquet": (GOOD, "not a readable Parquet file"),
    "magic.parquet": (b"PAR1" + b"\xff" * 400 + b"PAR1", "not a readable Parquet file"),
    "zip.jsonl": (zipped(), "no"),
    "pickle.jsonl": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins", "no"),
    "zip.jsonl.gz": (zipped(), "truncated or damaged"),
    "tar.jsonl.gz": (linked(), "not valid JSON"),
    "text.jsonl.gz": (GOOD, "truncated or damaged"),
    "cut.jsonl.gz": (gzip.compress(GOOD * 1000)[:-9], "truncated or damaged"),
    "blank-bomb.jsonl.gz": (bomb(b"", b"\n"), "blank lines"),
    "line-bomb.jsonl.gz": (bomb(b'{"prompt": "', b"x"), "a row of more than 8 MB"),
    "array-bomb.json.gz": (bomb(b"[", b" "), "far more than its size"),
    "bomb.parquet.gz": (bomb(b"", b"\0"), "far more than its size"),
    "zstd.jsonl": (b"\x28\xb5\x2f\xfd\x04\x00\x01\x00", "no"),
    "page.jsonl": (b"<!doctype html><script>alert(1)</script>", ":1: not valid JSON"),
    "picture.json": (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', ":1: not valid JSON"),
    "polyglot.jsonl": (b"GIF89a/*" + GOOD, ":1: not valid JSON"),
    "shell.jsonl": (b"#!/bin/sh\nrm -rf /\n", ":1: not valid JSON"),
}


def memory(what):
    """MB of this process: VmRSS now, VmHWM at its highest."""
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) / 1024


@pytest.mark.parametrize("name", CORPUS)
def test_malformed_files(client, workspace, name):
    content, message = CORPUS[name]
    sets = [s["name"] for s in workspace.group_sets()]
    client.get("/sources")
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is the present
    before, start = memory("VmRSS") + 2 * len(content) / 2**20, time.process_time()  # the test's client holds it too
    refused = client.post("/api/uploads", params={"kind": "answers", "name": "bad", "file": name}, content=content,
                          headers={"content-type": "application/octet-stream"})
    seconds = time.process_time() - start
    said = refused.json()["error"]["message"]
    assert refused.status_code == 400 and said.startswith(f"{name}:") and message in said, said
    assert len(said) < 600 and str(workspace.root) not in said
    assert seconds < 2 * (1 + len(content) / 50e6), seconds  # sending 100 MB in memory takes its time
    assert memory("VmHWM") - before < 200
    assert [s["name"] for s in workspace.group_sets()] == sets and workspace.datasets() == []
    assert not list((workspace.root / sources.FOLDER).iterdir())


@pytest.mark.parametrize(("name", "content"), {
    "bom.jsonl": b"\xef\xbb\xbf" + GOOD, "mixed.jsonl": GOOD.replace(b"\n", b"\r\n") + b"\n" + GOOD + b"\r\n",
    "no-end.jsonl": GOOD.strip(), "array.jsonl": b"[" + GOOD + b"]", "many.json": b"[" + GOOD + b"," + GOOD + b"]",
    "a.jsonl.gz": gzip.compress(GOOD, mtime=0)}.items())
def test_odd_files_that_are_right(client, workspace, name, content):
    made = client.post("/api/uploads", params={"kind": "answers", "name": "odd", "file": name}, content=content,
                       headers={"content-type": "application/octet-stream"})
    assert made.status_code == 201, made.text
    assert len(workspace.groups("odd")) == 1
