"""Every layout read right, and every malformed row refused with file, line and field."""

import datetime
import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith.records import Answer, AnswerGroup, Demonstration, Message, Prompt
from tunesmith.store import formats

USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
ASK = Prompt((Message("user", "Hi"),))


def write(folder, *rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def one(folder, kind, row):
    rows = formats.read(write(folder, row), kind).rows
    assert len(rows) == 1
    return rows[0]


def demo(*turns):
    return Demonstration(tuple(Message(*t) for t in turns))


def pair(better="Hello", worse="No", prompt=ASK, **rest):
    return AnswerGroup(prompt, (Answer(better), Answer(worse)), ((0,), (1,)), **rest)


# ---- layouts

DEMONSTRATIONS = {
    "openai": ({"messages": [{"role": "system", "content": "Be kind"}, USER, {**BOT, "weight": 0},
                             {"role": "user", "content": "Bye"},
                             {"role": "assistant", "content": "Ciao", "weight": 1}]},
               demo(("system", "Be kind"), ("user", "Hi"), ("assistant", "Hello", 0), ("user", "Bye"),
                    ("assistant", "Ciao", 1))),
    "text parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "H"},
                                                              {"type": "text", "text": "i"}]}, BOT]},
                   demo(("user", "Hi"), ("assistant", "Hello"))),
    "developer is system": ({"messages": [{"role": "developer", "content": "x"}, USER, BOT]},
                            demo(("system", "x"), ("user", "Hi"), ("assistant", "Hello"))),
    "agent greets first": ({"messages": [BOT, USER, {"role": "assistant", "content": "How?"}]},
                           demo(("assistant", "Hello"), ("user", "Hi"), ("assistant", "How?"))),
    "tool calls": ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [
                        {"type": "function", "function": {"name": "rate", "arguments": "{}"}}]},
                    {"role": "tool", "content": "4.5"}, BOT]},
                   demo(("user", "Hi"), ("assistant", '<tool_call>\n{"name": "rate", "arguments": "{}"}\n</tool_call>'),
                        ("tool", "4.5"), ("assistant", "Hello"))),
    "plain": ({"prompt": "Hi", "completion": " Hello"}, demo(("user", "Hi"), ("assistant", " Hello"))),
    "conversational": ({"prompt": [USER, BOT, {"role": "user", "content": "Bye"}],
                        "completion": [{"role": "assistant", "content": "Ciao"}]},
                       demo(("user", "Hi"), ("assistant", "Hello", 0), ("user", "Bye"), ("assistant", "Ciao"))),
    "alpaca": ({"instruction": "Add", "input": "1 2", "output": "3"}, demo(("user", "Add\n\n1 2"), ("assistant", "3"))),
    "alpaca without input": ({"instruction": "Hi", "input": "", "output": "3"},
                             demo(("user", "Hi"), ("assistant", "3"))),
    "dolly": ({"instruction": "Hi", "context": "Now", "response": "3", "category": "x"},
              demo(("user", "Hi\n\nNow"), ("assistant", "3"))),
    "sharegpt": ({"system": "s", "conversations": [{"from": "human", "value": "Hi"},
                                                   {"from": "gpt", "value": "Hello"}]},
                 demo(("system", "s"), ("user", "Hi"), ("assistant", "Hello"))),
    "source and licence": ({"messages": [USER, BOT], "source": "here", "license": "MIT", "review": "pending"},
                           Demonstration((Message("user", "Hi"), Message("assistant", "Hello")), "here", "MIT",
                                         "pending")),
}


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_demonstrations(tmp_path, name):
    row, expected = DEMONSTRATIONS[name]
    assert one(tmp_path, "demonstrations", row) == expected


PROMPTS = {
    "text": ({"prompt": "Hi"}, ASK),
    "messages": ({"messages": [USER], "domain": "loans", "split": "validation", "facts": {"rate": 4.5}},
                 Prompt(ASK.messages, "loans", "dev", {"rate": 4.5})),
    "prompt messages": ({"prompt": [USER, BOT, {"role": "user", "content": "x"}], "split": "test"},
                        Prompt((Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "x")),
                               split="test")),
    "instruction": ({"instruction": "Hi", "output": "ignored"}, ASK),
    "OpenAI reinforcement": (
        {"messages": [{"role": "developer", "content": "Be brief."}, USER], "answer": {"rate": 7.5}, "tools": [],
         "tags": ["a"], "none": None, "facts": {"more": 1}},
        Prompt((Message("system", "Be brief."), *ASK.messages),
               facts={"answer": {"rate": 7.5}, "tags": ["a"], "more": 1})),
    "reinforcement, plain": ({"prompt": "Hi", "answer": "x"}, Prompt(ASK.messages, facts={"answer": "x"})),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(tmp_path, name):
    row, expected = PROMPTS[name]
    assert one(tmp_path, "prompts", row) == expected


NO = {"role": "assistant", "content": "No"}
COMPARISONS = {
    "explicit, plain": ({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, pair()),
    "explicit, conversational": ({"prompt": [USER], "chosen": [BOT], "rejected": [NO]}, pair()),
    "prompt repeated in the answers": ({"prompt": "Hi", "chosen": [USER, BOT], "rejected": [USER, NO]}, pair()),
    "implicit, conversational": ({"chosen": [USER, BOT], "rejected": [USER, NO]}, pair()),
    "implicit, plain": ({"chosen": "The sky is blue.", "rejected": "The sky is green."},
                        pair("blue.", "green.", Prompt((Message("user", "The sky is"),)))),
    "openai": ({"input": {"messages": [USER], "tools": []}, "preferred_output": [BOT], "non_preferred_output": [NO]},
               pair()),
    "hh": ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}, pair()),
    "hh with prompt": ({"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Hello", "rejected": " No"}, pair()),
    "hh, two turns in a row": ({"chosen": "\n\nHuman: A\n\nHuman: B\n\nAssistant: Hello",
                                "rejected": "\n\nHuman: A\n\nHuman: B\n\nAssistant: No\n\nAssistant: Never"},
                               pair("Hello", "No\n\nNever", Prompt((Message("user", "A\n\nB"),)))),
    "tie": ({"prompt": "Hi", "chosen": "Same", "rejected": "Same"},
            AnswerGroup(ASK, (Answer("Same"), Answer("Same")), ((0, 1),))),
    "labeler and weight": ({"prompt": "Hi", "chosen": "Hello", "rejected": "No", "labeler": "Zoë", "weight": 0.5,
                            "split": "dev"}, pair(prompt=Prompt(ASK.messages, split="dev"), labeler="Zoë", weight=0.5)),
    "thumb": ({"prompt": "Hi", "completion": "Hello", "label": False},
              AnswerGroup(ASK, (Answer("Hello"),), labels=(0.0,))),
    "rating": ({"prompt": [USER], "completion": [BOT], "label": 4},
               AnswerGroup(ASK, (Answer("Hello"),), labels=(4.0,))),
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(tmp_path, name):
    row, expected = COMPARISONS[name]
    assert one(tmp_path, "comparisons", row) == expected


@pytest.mark.parametrize("ranking, tiers", [([[2], [0, 3], [1]], ((2,), (0, 3), (1,))), ([3, 1], ((3,), (1,))),
                                            ([[0, 1, 2, 3]], ((0, 1, 2, 3),)), ([2, [0, 3]], ((2,), (0, 3)))])
def test_rankings(tmp_path, ranking, tiers):
    got = one(tmp_path, "rankings", {"prompt": "Hi", "answers": list("abcd"), "ranking": ranking, "labeler": "ann"})
    assert got == AnswerGroup(ASK, tuple(map(Answer, "abcd")), tiers, labeler="ann")


def test_what_tunesmith_wrote_reads_back(tmp_path):
    group = AnswerGroup(Prompt(ASK.messages, "d", "test", {"a": 1}), (Answer("x", "m@1"), Answer("y")), ((1,), (0,)),
                        labeler="ann", shown=(1, 0), source="human", weight=2.0)
    assert one(tmp_path, "rankings", group.to_dict()) == one(tmp_path, "comparisons", group.to_dict()) == group
    assert one(tmp_path, "prompts", group.prompt.to_dict()) == group.prompt


def test_hh_oddities_are_left_out_and_counted(tmp_path):
    good = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
    path = write(tmp_path, good, good, {**good, "chosen": "\n\nHuman: Hi\n\nAssistant: "},
                 {**good, "chosen": "\n\nHuman: Ho\n\nAssistant: x"},
                 {**good, "chosen": good["chosen"] + "\n\nHuman: so?"},
                 {**good, "chosen": good["rejected"]}, "", "")
    got = formats.read(path, "comparisons")
    assert got.skipped == {"exact duplicate": 1, "a turn is empty": 1, "the transcripts differ before the last turn": 1,
                           "a transcript does not end with the assistant": 1, "blank line": 2}
    assert got.rows == [pair(), AnswerGroup(ASK, (Answer("No"), Answer("No")), ((0, 1),))]
    assert got.notes == {"exact tie": 1} and got.format == "Anthropic HH transcripts"


# ---- files

ROWS = [{"prompt": "Hi", "completion": "Hello"}, {"prompt": 'a "quoted", one', "completion": "two\nlines — ünï"}]
EXPECTED = [demo(("user", r["prompt"]), ("assistant", r["completion"])) for r in ROWS]


def as_csv(path):
    path.write_text('prompt,completion\nHi,Hello\n"a ""quoted"", one","two\nlines — ünï"\n', encoding="utf-8")


def as_jsonl(path, ending="\n", start=""):
    text = start + "".join(json.dumps(r, ensure_ascii=False) + ending for r in ROWS)
    path.write_text(text, encoding="utf-8", newline="")


FILES = {
    "a.jsonl": as_jsonl,
    "crlf.jsonl": lambda p: as_jsonl(p, "\r\n"),
    "bom.jsonl": lambda p: as_jsonl(p, start="\ufeff"),
    "unfinished.jsonl": lambda p: p.write_text("\n".join(json.dumps(r) for r in ROWS)),
    "array.jsonl": lambda p: p.write_text(json.dumps(ROWS)),
    "a.json": lambda p: p.write_text(json.dumps(ROWS, indent=2)),
    "lines.json": as_jsonl,
    "a.csv": as_csv,
    "UPPER.CSV": as_csv,
    "a.parquet": lambda p: pq.write_table(pa.Table.from_pylist(ROWS), p),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name, zipped):
    path = tmp_path / name
    FILES[name](path)
    if zipped:
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    assert formats.read(path, "demonstrations").rows == EXPECTED


def test_tsv_and_typed_cells(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('prompt\tcompletion\tlabel\tweight\nHi\tHello\tTrue\t\nHi\tNo\t0\t0.5\n')
    first, second = formats.read(path, "comparisons").rows
    assert (first.labels, first.weight, second.labels, second.weight) == ((1.0,), 1, (0.0,), 0.5)
    path = tmp_path / "a.csv"
    path.write_text('prompt,answers,ranking\n[sic] Hi,"[""a"", ""b""]","[[1], [0]]"\n')
    assert formats.read(path, "rankings").rows[0].tiers == ((1,), (0,))


def test_parquet_messages_with_missing_fields(tmp_path):
    rows = [{"messages": [USER, {**BOT, "weight": 0}, USER, BOT], "note": None}, {"messages": [USER, BOT]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert [len(r.messages) for r in formats.read(tmp_path / "a.parquet", "demonstrations").rows] == [4, 2]


# ---- refusals

GOOD = {"messages": [USER, BOT]}
BAD_DEMONSTRATIONS = {
    '"content" is empty (messages[1])': {"messages": [USER, {"role": "assistant", "content": " "}]},
    '"content" is missing (messages[1])': {"messages": [USER, {"role": "assistant"}]},
    '"content" must be a text, it is a number (messages[0])': {"messages": [{"role": "user", "content": 3}, BOT]},
    '"content" may hold only parts of type "text" (messages[0])':
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, BOT]},
    "\"role\" must be system, user, assistant or tool, got 'robot' (messages[0])":
        {"messages": [{"role": "robot", "content": "x"}, BOT]},
    '"role" must be system, user, assistant or tool, got [1] (messages[0])':
        {"messages": [{"role": [1], "content": "x"}, BOT]},
    '"messages[0]" must be an object with "role" and "content", it is a text': {"messages": ["x"]},
    '"messages" must be a list, it is a text': {"messages": "x"},
    '"messages" is empty': {"messages": []},
    '"messages" is missing': {"prompt": "Hi", "completion": "Hello"},
    'two "user" turns in a row; merge them (messages[1])': {"messages": [USER, USER, BOT]},
    'a "system" message must come first (messages[1])': {"messages": [USER, {"role": "system", "content": "x"}, BOT]},
    'a "tool" message must follow an assistant turn (messages[1])':
        {"messages": [USER, {"role": "tool", "content": "x"}, BOT]},
    'a demonstration must end with an assistant turn, this one ends with "user"': {"messages": [BOT, USER]},
    'no assistant turn has a "weight" above 0: nothing would be learned': {"messages": [USER, {**BOT, "weight": 0}]},
    "\"weight\" must be a number of at least 0, got '1' (messages[1])": {"messages": [USER, {**BOT, "weight": "1"}]},
    '"weight" must be a number of at least 0, got -1 (messages[1])': {"messages": [USER, {**BOT, "weight": -1}]},
    "\"review\" must be accepted, pending or rejected, got 'ok'": {**GOOD, "review": "ok"},
    "a row must be a JSON object, this is a list": "[1]",
    "a row must be a JSON object, this is a number": "7",
    "not valid JSON: NaN is not a JSON number": '{"messages": NaN}',
    "not valid JSON: 1e999 is too large a number": '{"messages": 1e999}',
    'not valid JSON: the key "messages" comes twice': '{"messages": 1, "messages": 2}',
    "not valid JSON: expecting value at column 14": '{"messages": }',
    "not valid JSON: extra data at column 4": "{} {}",
    "nested too deeply": '{"messages":' + "[" * 100_000 + "]" * 100_000 + "}",
    "a text holds half a character (\\ud800 without its partner)":
        r'{"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "x"}]}',
}


@pytest.mark.parametrize("message", BAD_DEMONSTRATIONS)
def test_bad_demonstrations_die_with_file_line_and_field(tmp_path, message):
    path = write(tmp_path, GOOD, BAD_DEMONSTRATIONS[message], GOOD)
    with pytest.raises(DataError) as e:
        formats.read(path, "demonstrations")
    assert str(e.value) == f"{path}:2: {message}"
    assert (e.value.path, e.value.line) == (path, 2)


RANK = {"prompt": "Hi", "answers": ["a", "b", "c"], "ranking": [[0], [1]]}
HH = {"chosen": "\n\nHuman: Hi\n\nAssistant: x", "rejected": "\n\nHuman: Hi\n\nAssistant: y"}
BAD_ROWS = [
    ("prompts", {"prompt": [USER, BOT]}, 'a prompt must end with a user turn, this one ends with "assistant"'),
    ("prompts", {"prompt": [{"role": "system", "content": "x"}]},
     'a prompt must end with a user turn, this one ends with "system"'),
    ("prompts", {"prompt": ""}, '"prompt" is empty'),
    ("prompts", {"prompt": "x", "split": "holdout"}, "\"split\" must be train, dev or test, got 'holdout'"),
    ("prompts", {"prompt": "x", "facts": [1]}, '"facts" must be an object, it is a list'),
    ("prompts", {"prompt": "x", "domain": 1}, '"domain" must be a text, it is a number'),
    ("prompts", {"text": "x"}, 'prompts need "messages" or "prompt" or "instruction" or "conversations" or '
     '"conversation" or "mapping"+"current_node"; this row has "text"'),
    ("demonstrations", {"prompt": "x", "chosen": "a", "rejected": "b"},
     'demonstrations need "messages" or "prompt"+"completion" or "instruction"+"output" or "instruction"+"response" or '
     '"conversations"; this row has "prompt", "chosen", "rejected"; it looks like comparisons: try --as comparisons'),
    ("demonstrations", {"conversations": [{"from": "alien", "value": "x"}]},
     "\"from\" must be one of system, human, user, gpt, chatgpt, bot, bard, assistant, tool, function, observation, "
     "got 'alien' (conversations[0])"),
    ("demonstrations", {"conversations": [{"from": "human", "value": ""}]}, '"value" is empty (conversations[0])'),
    ("demonstrations", {"instruction": "x", "input": 3, "output": "y"}, '"input" must be a text, it is a number'),
    ("comparisons", {"prompt": "x", "chosen": "a", "rejected": ""}, '"rejected" is empty'),
    ("comparisons", {"prompt": "x", "chosen": [USER], "rejected": [BOT]}, '"chosen" must be one assistant turn'),
    ("comparisons", {"chosen": [USER, BOT], "rejected": [{"role": "user", "content": "Ho"}, NO]},
     '"chosen" and "rejected" must be alike up to their last turn'),
    ("comparisons", {"chosen": "one", "rejected": "two"},
     '"chosen" and "rejected" begin differently, so there is no prompt; add a "prompt" field'),
    ("comparisons", {"input": "x", "preferred_output": [BOT], "non_preferred_output": [NO]},
     '"input" must be an object with "messages"'),
    ("comparisons", {"prompt": "x", "completion": "y", "label": "good"},
     "\"label\" must be true, false or a number, got 'good'"),
    ("comparisons", {**HH, "labeler": "a\nb"}, "a labeler's name has 1 to 64 printable characters, got 'a\\nb'"),
    ("rankings", {**RANK, "answers": ["a"]}, 'a ranking needs at least 2 answers, "answers" has 1'),
    ("rankings", {**RANK, "answers": ["a", " ", "c"]}, '"answers" is empty (answers[1])'),
    ("rankings", {**RANK, "answers": ["a", 2, "c"]}, '"answers" must be a text, it is a number (answers[1])'),
    ("rankings", {**RANK, "ranking": []}, '"ranking" is empty'),
    ("rankings", {**RANK, "ranking": [[0], []]}, '"ranking": a tier is empty'),
    ("rankings", {**RANK, "ranking": [[0], [0]]}, '"ranking": answer 0 is ranked twice'),
    ("rankings", {**RANK, "ranking": [0, 3]}, '"ranking": answer 3 is ranked, but there are answers 0 to 2'),
    ("rankings", {**RANK, "ranking": [-1]}, '"ranking": answer -1 is ranked, but there are answers 0 to 2'),
    ("rankings", {**RANK, "ranking": ["a"]}, "\"ranking[0]\" must hold indices of answers, got ['a']"),
    ("rankings", {**RANK, "ranking": [True, 0]}, '"ranking[0]" must hold indices of answers, got [True]'),
    ("rankings", {"prompt": {"messages": [USER]}, "answers": [{"text": "a"}, {"text": ""}]},
     '"text" is empty (answers[1])'),
    ("rankings", {"prompt": {"messages": [USER]}, "answers": [{"text": "a"}], "tiers": [[1]]},
     "answer 1 is ranked, but there are answers 0 to 0"),
]


@pytest.mark.parametrize("kind, row, message", BAD_ROWS)
def test_bad_rows(tmp_path, kind, row, message):
    path = write(tmp_path, row)
    with pytest.raises(DataError) as e:
        formats.read(path, kind)
    assert str(e.value) == f"{path}:1: {message}"


def test_hh_row_that_is_no_transcript(tmp_path):
    path = write(tmp_path, HH, {"chosen": "Hello", "rejected": "No"})
    with pytest.raises(DataError, match=r'rows.jsonl:2: "chosen" is not a transcript: it must begin with "Human:"'):
        formats.read(path, "comparisons")


BAD_FILES = {
    "missing.jsonl": (None, "no such file"),
    "empty.jsonl": (b"", "is empty"),
    "empty.csv": (b"", "is empty"),
    "header.csv": (b"prompt,completion\n", "no rows"),
    "blank.jsonl": (b"\n\n", "no rows left (2 x blank line)"),
    "empty.json": (b"[]", "no rows"),
    "a.txt": (b"x", "unknown kind of file; known are .jsonl, .ndjson, .json, .csv, .tsv, .parquet, each also with .gz"),
    "utf16.jsonl": ('{"prompt": "x"}'.encode("utf-16"), "is UTF-16 or UTF-32 (or no text at all); save it as UTF-8"),
    "utf16be.csv": ("prompt".encode("utf-16-be"), "is UTF-16 or UTF-32 (or no text at all); save it as UTF-8"),
    "fake.gz.jsonl.gz": (b"not gzip", "the gzip file is truncated or damaged"),
    "cut.jsonl.gz": (gzip.compress(random.Random(0).randbytes(4000).hex().encode())[:2000],
                     "the gzip file is truncated or damaged"),
    "a.parquet": (b"PAR1 but no more", None),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path, name):
    content, message = BAD_FILES[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as e:
        formats.read(path, "prompts")
    if message is None:
        assert str(e.value).startswith(f"{path}: not a readable Parquet file: ")
    else:
        assert str(e.value) == f"{path}: {message}"


LATIN = "not valid UTF-8 (byte 0xe9); save the file as UTF-8"
BAD_LINES = {
    "latin1.jsonl": (b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n', 2, LATIN),
    "latin1.csv": (b"prompt\na\ncaf\xe9\n", 3, LATIN),
    "latin1.json": (b'[\n{"prompt": "a"},\n{"prompt": "caf\xe9"}]', 3, LATIN),
    "cells.csv": (b"prompt,domain\na,b\nx,y,z\n", 3, "3 cells under a header of 2"),
    "twice.csv": (b"prompt,prompt\na,b\n", 1, 'the header names "prompt" twice'),
    "quote.csv": (b'prompt\na\n"never closed\nmore', 3, "not valid CSV: unexpected end of data"),
    "weight.csv": (b"prompt,completion,label\na,b,good\n", 2, "\"label\" must be a number, got 'good'"),
    "row.json": (b'[{"prompt": "a"},\n {"prompt": ""}]', 2, '"prompt" is empty'),
    "comma.json": (b'[{"prompt": "a"},\n]', 2, "not valid JSON: expecting value"),
    "open.json": (b'[{"prompt": "a"}\n', 2, 'the JSON array does not go on with "," or "]"'),
    "after.json": (b'[{"prompt": "a"}]\n[]', 2, "something follows the JSON array"),
    "deep.json": (b'[\n' + b"[" * 100_000, 2, "nested too deeply"),
    "pretty.json": (b'{\n "prompt": "a"\n}', 1, None),
    "nul.jsonl": (b'{"prompt": "a"}\n{"prompt": "\0"}\n', 2, "not valid JSON: invalid control character at column 13"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines_in_files(tmp_path, name):
    content, line, message = BAD_LINES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as e:
        formats.read(path, "comparisons" if name.startswith("weight") else "prompts")
    assert e.value.line == line
    if message:
        assert str(e.value) == f"{path}:{line}: {message}"


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="is a folder; name one file"):
        formats.read(tmp_path, "prompts")


def test_a_row_of_unbounded_length_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.store.files.LONGEST_ROW", 1000)
    path = write(tmp_path, {"prompt": "x"}, {"prompt": "x" * 2000})
    with pytest.raises(DataError, match=":2: a row of more than"):
        formats.read(path, "prompts")


def test_a_parquet_file_cut_short(tmp_path):
    FILES["a.parquet"](tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[:-20])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        formats.read(tmp_path / "cut.parquet", "demonstrations")


def test_other_fields_of_prompts_are_stored_whatever_a_parquet_file_holds(tmp_path, workspace):
    table = pa.table({"prompt": ["Hi"], "when": [datetime.datetime(2026, 1, 2)], "x": [float("nan")], "raw": [b"a"]})
    pq.write_table(table, tmp_path / "p.parquet")
    rows = formats.read(tmp_path / "p.parquet", "prompts").rows
    found, = workspace.add_dataset("d", "prompts", rows).rows()
    assert found.facts == {"when": "2026-01-02 00:00:00", "x": None, "raw": "b'a'"}


value = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False)
                     | st.sampled_from(["", " ", "Hi", "user", "assistant", "\n\nHuman: a\n\nAssistant: b", "\0"]),
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                         ["role", "content", "weight", "from", "value", "text", "messages", "tool_calls"]),
                         inner, max_size=3), max_leaves=8)
KEYS = ["messages", "prompt", "completion", "chosen", "rejected", "answers", "ranking", "label", "weight", "labeler",
        "conversations", "instruction", "output", "input", "preferred_output", "non_preferred_output", "tiers", "pairs",
        "facts", "labels", "split", "domain", "source", "review", "shown", "tools"]
ROUGHLY = {"messages": st.just([USER, BOT]), "prompt": st.sampled_from(["Hi", [USER], {"messages": [USER]}]),
           "answers": st.sampled_from([["a", "b"], [{"text": "a"}, {"text": "b"}]]), "ranking": st.just([[0], [1]])}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(formats.LAYOUTS)), st.data())
def test_no_row_whatsoever_gets_past_as_another_error(tmp_path, kind, data):
    needed, more = data.draw(st.sampled_from(formats.LAYOUTS[kind])).keys, data.draw(st.sets(st.sampled_from(KEYS)))
    row = {key: data.draw(ROUGHLY.get(key, value) | value) for key in sorted({*needed, *more})}
    try:
        got = formats.read(write(tmp_path, row), kind)
    except DataError as e:
        assert str(e).startswith(str(tmp_path))
    else:
        record = got.rows[0]
        assert type(record).from_dict(json.loads(json.dumps(record.to_dict()))) == record


# ---- real data

def test_anthropic_hh(shared_data):
    got = formats.read(shared_data / "preferences" / "hh_rlhf.jsonl.gz", "comparisons")
    assert len(got.rows) + sum(got.skipped.values()) == 6414
    assert got.skipped == {"a turn is empty": 7, "a transcript does not end with the assistant": 2}
    assert got.notes == {"exact tie": 28}
    assert all(g.prompt.messages[0].role == "user" and "\n\nHuman:" not in a.text for g in got.rows for a in g.answers)
    assert {g.prompt.split for g in got.rows} == {"train", "dev"}


def test_dolly(shared_data):
    got = formats.read(shared_data / "demonstrations" / "dolly_part.jsonl.gz", "demonstrations")
    assert len(got.rows) == 5749 - got.skipped.get("exact duplicate", 0)


# ---- cells that look like something else

def test_an_answer_in_a_csv_may_be_json(tmp_path):
    """Only messages are taken apart; what else begins like JSON is what somebody wrote."""
    path = tmp_path / "x.csv"
    path.write_text('prompt,chosen,rejected\n"[1, 2]","{""a"": 1}","[""x""]"\n'
                    '"[{""role"": ""user"", ""content"": ""Hi""}]",Hello,No\n', "utf-8")
    found = formats.read(path, "comparisons").rows
    assert [(g.prompt.messages[0].content, [a.text for a in g.answers]) for g in found] == [
        ("[1, 2]", ['{"a": 1}', '["x"]']), ("Hi", ["Hello", "No"])]


@pytest.mark.parametrize(("column", "value"), [
    ("label", "nan"), ("label", "inf"), ("weight", "nan"), ("weight", "-inf")])
def test_numbers_that_are_none_are_named_with_file_line_and_field(tmp_path, column, value):
    path = tmp_path / "x.csv"
    cells = {"label": "1", "weight": "1"} | {column: value}
    path.write_text(f"prompt,completion,label,weight\nq,a,1,1\nr,b,{cells['label']},{cells['weight']}\n", "utf-8")
    with pytest.raises(DataError, match=rf'x.csv:3: "{column}" must be'):
        formats.read(path, "comparisons")
    rows = [{"prompt": "q", "completion": "a", "label": 1.0, "weight": 1.0},
            {"prompt": "r", "completion": "b", **{key: float(cell) for key, cell in cells.items()}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=rf'x.parquet:2: "{column}" must be'):
        formats.read(tmp_path / "x.parquet", "comparisons")
