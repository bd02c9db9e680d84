"""Judgements in and out: what comes back is what went out, and what a format cannot hold is counted."""

import csv
import json

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError, NotFound, SettingsError, UserError
from tunesmith.records import Answer, AnswerGroup, Demonstration, Message, Prompt, Ranking
from tunesmith.store import exchange, foreign, formats, team
from tunesmith.store.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    with Workspace.open(tmp_path / "ws") as w:
        yield w


def group(n=0, k=3, **rest):
    messages = (Message("system", "Be short."), Message("user", f"Question {n}?"))
    return AnswerGroup(Prompt(messages, "loans", ("train", "dev")[n % 2]),
                       tuple(Answer(f"Answer {n}.{i}", f"desk@{i}", (1, 2), (-0.5, -1.0)) for i in range(k)), **rest)


FULL = Ranking("r-full", group().id, "Ann Ångström", ((2,), (0, 1)), (1, 0, 2), True, "", {"1": ["harmful"]},
               (3, 3, 7), 12.5, margin=3, rationale="=2+2", guidelines=2, trace={"moves": 4})


@pytest.fixture
def judged(workspace):
    """Two groups; a full verdict, one that was revised, a skip, a test question and a quarantined labeler."""
    a, b = group(0), group(1)
    workspace.add_groups("desk", [a, b])
    workspace.add_rankings([
        FULL, Ranking("r2", a.id, "Ben", ((0,), (1,), (2,))),
        Ranking("r3", a.id, "Ben", ((1,), (0,), (2,)), revises="r2"),
        Ranking("r4", b.id, "Ben", skipped="I cannot judge this"),
        Ranking("r5", b.id, "Cid", ((0,), (1,)), purpose="gold"),
        Ranking("r6", b.id, "Dot", ((2,), (1,), (0,)))])
    team.quarantine(workspace, "Dot", "always inverted", "me")
    return workspace


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ---- our own format

def test_our_own_format_brings_everything_back(judged, tmp_path):
    made = exchange.export(judged, "desk", "tunesmith", tmp_path / "desk.jsonl")
    assert made.rows == 2 and not made.skipped
    with Workspace.open(tmp_path / "other") as other:
        assert exchange.load(other, made.path, "copy")[:2] == (2, 6)
        assert other.groups("copy") == judged.groups("desk")
        key = lambda r: r.id  # noqa: E731
        assert sorted(other.rankings("copy"), key=key) == sorted(judged.rankings("desk"), key=key)
        assert exchange.load(other, made.path, "copy")[:2] == (0, 0)  # once more changes nothing


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
tiers = st.permutations(range(4)).flatmap(lambda order: st.lists(st.integers(1, 3), max_size=2).map(
    lambda cuts: tuple(tuple(order[a:b]) for a, b in zip([0, *sorted(set(cuts))], [*sorted(set(cuts)), 4]))))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, min_size=4, max_size=4, unique=True), tiers, texts, texts, st.floats(0, 1e6))
def test_any_judgement_survives_our_own_format(tmp_path_factory, answers, order, rationale, prompt, seconds):
    root = tmp_path_factory.mktemp("trip")
    one = AnswerGroup(Prompt((Message("user", prompt),)), tuple(map(Answer, answers)))
    verdict = Ranking("id-1", one.id, "Ann", order, (3, 1, 0, 2), rationale=rationale, seconds=seconds)
    with Workspace.open(root / "a") as a, Workspace.open(root / "b") as b:
        a.add_groups("s", [one])
        a.add_ranking(verdict)
        exchange.load(b, exchange.export(a, "s", "tunesmith", root / "s.jsonl").path, "s")
        assert (b.groups("s"), b.rankings("s")) == ([one], [verdict])


def test_datasets_come_back_too(workspace, tmp_path):
    demo = Demonstration((Message("user", "Hi"), Message("assistant", "Hello")), "web", "MIT", "rejected")
    workspace.add_dataset("demos", "demonstrations", [demo])
    pair = group(k=2, tiers=((1,), (0,)), labeler="Ann")
    workspace.add_dataset("pairs", "comparisons", [pair])
    for name, kind, rows in (("demos", "demonstrations", [demo]), ("pairs", "comparisons", [pair])):
        made = exchange.export(workspace, name, "tunesmith", tmp_path / f"{name}.jsonl")
        assert formats.read(made.path, kind).rows == rows


# ---- pairs

def test_pairs_hold_what_training_sees(judged, tmp_path):
    made = exchange.export(judged, "desk", "trl", tmp_path / "pairs.jsonl")
    rows = lines(made.path)
    a = group(0)
    said = [(r["labeler"], r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in rows]
    text = [x.text for x in a.answers]
    assert said == [("labeler-1", text[2], text[0]), ("labeler-1", text[2], text[1]),
                    ("labeler-2", text[1], text[0]), ("labeler-2", text[1], text[2]), ("labeler-2", text[0], text[2])]
    assert rows[0]["prompt"] == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Question 0?"}]
    assert made.skipped == {"a verdict that was revised": 1, "a skipped group": 1,
                            "a verdict on a test question or a second look": 1,
                            "a verdict of a quarantined labeler": 1}
    found = formats.read(made.path, "comparisons").rows
    assert [(g.labeler, g.answers[0].text, g.answers[1].text, g.tiers) for g in found] == [
        (*one, ((0,), (1,))) for one in said]


def test_openai_pairs_are_read_again(judged, tmp_path):
    made = exchange.export(judged, "desk", "openai", tmp_path / "openai.jsonl")
    assert set(lines(made.path)[0]) == {"input", "preferred_output", "non_preferred_output"}
    found = formats.read(made.path, "comparisons")
    assert (found.format, len(found.rows)) == ("OpenAI preference", 5)
    assert found.rows[0].prompt.messages == group(0).prompt.messages


def test_names_are_kept_only_if_asked_for(judged, tmp_path):
    for n, (format, names) in enumerate([("trl", False), ("csv", False), ("labelstudio", False), ("argilla", False)]):
        text = exchange.export(judged, "desk", format, tmp_path / f"{n}", names=names).path.read_text("utf-8")
        assert "Ångström" not in text and "Ben" not in text
    kept = exchange.export(judged, "desk", "trl", tmp_path / "named", names=True).path.read_text("utf-8")
    assert "Ann Ångström" in kept


# ---- Argilla

def test_argilla_there_and_back(judged, tmp_path):
    made = exchange.export(judged, "desk", "argilla", tmp_path / "records.json")
    records = json.loads(made.path.read_text("utf-8"))
    assert records[0]["fields"]["response-2"] == "Answer 0.1"
    assert [r["value"] for r in records[0]["responses"]["ranking"]] == [["response-2", "response-1", "response-3"]]
    assert [r["value"] for r in records[0]["responses"]["rating-3"]] == [7]
    assert "a verdict with ties or a partial one, for which Argilla's records have no place" in made.skipped
    found = foreign.read(made.path)
    assert found.format == "argilla" and [len(g.answers) for g in found.groups.values()] == [3, 3]
    assert {(r.tiers, r.ratings) for r in found.rankings} == {(((1,), (0,), (2,)), ()), (((2,), (0, 1)), (3, 3, 7))}


def argilla(responses, **fields):
    return {"id": "1", "fields": {"prompt": "Why?", "response-1": "A", "response-2": "B", **fields},
            "suggestions": {"ranking": {"value": ["response-1", "response-2"], "score": 1.0, "agent": "m"}},
            "responses": responses, "metadata": {}, "vectors": {}}


def read(tmp_path, *rows, name="x.json", source=""):
    path = tmp_path / name
    path.write_text(json.dumps(list(rows)), "utf-8")
    return foreign.read(path, source)


@pytest.mark.parametrize(("responses", "tiers", "ratings"), [
    ({"ranking": [{"value": ["response-2", "response-1"], "user_id": "u-1"}]}, ((1,), (0,)), ()),
    ({"order": [{"value": [{"value": "response_2", "rank": 1}, {"value": "response_1", "rank": 1}],
                 "user_id": "u-1"}]}, ((0, 1),), ()),
    ({"rating-1": [{"value": 2, "user_id": "u-1"}], "rating-2": [{"value": 5, "user_id": "u-1"}]}, ((1,), (0,)),
     (2, 5)),
    ({"rating_response-1": [{"value": 10, "user_id": "u-1"}], "rating_response-2": [{"value": 0, "user_id": "u-1"}]},
     ((0,), (1,)), ()),
    ({"preference": [{"value": "response-2", "user_id": "u-1"}]}, ((1,), (0,)), ()),
    ({"preference": [{"value": "tie", "user_id": "u-1"}], "comment": [{"value": "Fine.", "user_id": "u-1"}]},
     ((0, 1),), ()),
    ([{"user_id": "u-1", "status": "submitted", "values": {"ranking": {"value": [
        {"value": "response-2", "rank": 2}, {"value": "response-1", "rank": 1}]}}}], ((0,), (1,)), ())])
def test_argilla_questions(tmp_path, responses, tiers, ratings):
    found = read(tmp_path, argilla(responses))
    assert [(r.labeler, r.tiers, r.ratings) for r in found.rankings] == [("argilla-u1", tiers, ratings)]
    assert [a.text for a in next(iter(found.groups.values())).answers] == ["A", "B"]


def test_argilla_drafts_and_comments_are_counted(tmp_path):
    found = read(tmp_path, argilla([{"user_id": "u", "status": "discarded", "values": {}}]),
                 argilla({"comment": [{"value": "Good.", "user_id": "v"}]}, prompt="How?"),
                 argilla({"ranking": [{"value": ["response-1", "response-2"], "user_id": "v"}]}, prompt="Who?"))
    assert len(found.rankings) == 1
    assert found.skipped == {"a response that is 'discarded'": 1, "a response without a ranking or rating": 1}


# ---- Label Studio

def test_label_studio_there_and_back(judged, tmp_path):
    made = exchange.export(judged, "desk", "labelstudio", tmp_path / "tasks.json")
    found = foreign.read(made.path)
    assert found.format == "labelstudio"
    assert [g.prompt.messages for g in found.groups.values()] == [group(0).prompt.messages, group(1).prompt.messages]
    assert {(r.tiers, r.seconds, bool(r.skipped)) for r in found.rankings} == {
        (((2,), (0, 1)), 12.5, False), (((1,), (0,), (2,)), 0.0, False), ((), 0.0, True)}


def task(*results, items=True, **annotation):
    data = {"prompt": "Why?", "items": [{"id": "a", "title": "", "body": "A"}, {"id": "b", "body": "B"}]} if items \
        else {"prompt": "Why?", "answer1": "A", "answer2": "B"}
    return {"id": 1, "data": data, "annotations": [
        {"id": 7, "completed_by": {"id": 3, "email": "ann@example.org"}, "lead_time": 4.5, "result": list(results),
         **annotation}], "predictions": [{"result": []}]}


def result(kind, value, to="items"):
    return {"type": kind, "from_name": kind, "to_name": to, "value": value}


@pytest.mark.parametrize(("made", "tiers", "ratings"), [
    (task(result("ranker", {"ranker": {"rank": ["b", "a"]}})), ((1,), (0,)), ()),
    (task(result("ranker", {"ranker": ["b", "a"]})), ((1,), (0,)), ()),
    (task(result("ranker", {"ranker": {"2": ["b"], "1": ["a"], "_": []}})), ((0,), (1,)), ()),
    (task(result("ranker", {"ranker": {"1": ["b", "a"]}})), ((1, 0),), ()),
    (task(result("pairwise", {"selected": "right"}, "answer1"), items=False), ((1,), (0,)), ()),
    (task(result("rating", {"rating": 2}, "answer1"), result("rating", {"rating": 4}, "answer2"), items=False),
     ((1,), (0,)), (2, 4))])
def test_label_studio_tags(tmp_path, made, tiers, ratings):
    found = read(tmp_path, made)
    assert [(r.labeler, r.tiers, r.ratings, r.seconds) for r in found.rankings] == [
        ("labelstudio-3", tiers, ratings, 4.5)]
    assert found.skipped == {"a prediction of a model": 1}


def test_label_studio_what_has_no_order_is_counted(tmp_path):
    found = read(tmp_path, task(result("ranker", {"ranker": {"good": ["a"], "bad": ["b"]}})), task(was_cancelled=True),
                 {**task(result("ranker", {"ranker": {"rank": ["a", "b"]}}))})
    assert found.skipped == {"a prediction of a model": 3, "buckets whose names are no places": 1}
    assert [r.skipped for r in found.rankings] == ["skipped in Label Studio", ""]


# ---- what is no export

@pytest.mark.parametrize(("row", "why"), [
    ({"hello": 1}, "no export of Argilla"), (argilla({}, prompt="\ud800"), "half a character"),
    ({"data": {"prompt": "Why?", "items": [{"id": 1}]}, "annotations": []}, "is missing"),
    (argilla({"ranking": "x"}), "not a row"),
    (task(result("ranker", {"ranker": {"rank": ["z"]}})), "no answer has that id"),
    (task(result("ranker", {"ranker": {"rank": ["a", "a"]}})), "twice"),
    ({"group": {"prompt": {"messages": []}, "answers": []}, "rankings": []}, "x.json:1"),
    ({"group": 5, "rankings": []}, "not a row"), ({"fields": {"foo": "x"}, "responses": {}}, "no prompt"),
    ({"group": group().to_dict(), "rankings": [{"id": "1", "group": "other", "labeler": "a"}]}, "stands beside")])
def test_bad_rows_are_named_and_nothing_is_stored(workspace, tmp_path, row, why):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([row]), "utf-8")
    with pytest.raises(DataError, match=why):
        exchange.load(workspace, path, "new")
    assert workspace.group_sets() == []


def test_a_missing_file_and_one_without_judgements(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        foreign.read(tmp_path / "nothing.json")
    with pytest.raises(DataError, match=r"no answers to rank left \(1 x 1 answer to rank\)"):
        read(tmp_path, {"fields": {"prompt": "Why?", "response-1": "A"}, "responses": {}})


@pytest.mark.parametrize(("row", "name"), [(argilla({}), "argilla"), (task(), "labelstudio"), ({"prompt": "x"}, "")])
def test_an_export_is_known_by_its_first_row(tmp_path, row, name):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row), "utf-8")
    assert foreign.detect_file(path) == name


# ---- tables

def test_parquet_with_its_card(judged, tmp_path):
    made = exchange.export(judged, "desk", "parquet", tmp_path / "out", licence="CC-BY-4.0")
    assert made.rows == 6
    train = pq.read_table(made.path / "data" / "train-00000-of-00001.parquet").to_pylist()
    assert len(train) == 3 and train[0]["ranking"] == [[2], [0, 1]] and train[0]["labeler"] == "labeler-1"
    assert train[0]["prompt"][1] == {"role": "user", "content": "Question 0?"}
    assert json.loads(train[0]["flags"]) == {"1": ["harmful"]}
    dev = pq.read_table(made.path / "data" / "dev-00000-of-00001.parquet").to_pylist()
    assert [r["quarantined"] for r in dev] == [False, False, True]
    card = (made.path / "README.md").read_text("utf-8")
    assert 'license: "CC-BY-4.0"' in card and "4 labelers judged" in card and "| train | 3 |" in card
    assert "path: \"data/dev-*\"" in card and "Ångström" not in card


def test_the_hubs_reader_takes_the_folder(judged, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    made = exchange.export(judged, "desk", "parquet", tmp_path / "out")
    found = datasets.load_dataset(str(made.path), cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in found.items()} == {"train": 3, "dev": 3}


def test_demonstrations_and_prompts_as_parquet(workspace, tmp_path):
    workspace.add_dataset("demos", "demonstrations",
                          [Demonstration((Message("user", "Hi"), Message("assistant", "Hello")), licence="MIT")])
    workspace.add_dataset("asks", "prompts", [Prompt((Message("user", "Hi"),), split="test")], licence="MIT")
    demos = exchange.export(workspace, "demos", "parquet", tmp_path / "demos").path
    found = formats.read(demos / "data" / "train-00000-of-00001.parquet", "demonstrations").rows
    assert found[0].messages[1].content == "Hello" and found[0].licence == "MIT"
    asks = exchange.export(workspace, "asks", "parquet", tmp_path / "asks").path
    assert formats.read(asks / "data" / "test-00000-of-00001.parquet", "prompts").rows[0].split == "test"
    assert 'license: "MIT"' in (asks / "README.md").read_text("utf-8")


@pytest.mark.parametrize("evil", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1",
                                  "＝1", "=HYPERLINK(\"http://x\",\"y\")"])
def test_no_cell_of_a_csv_starts_a_formula(workspace, tmp_path, evil):
    one = AnswerGroup(Prompt((Message("user", evil),), domain=evil), (Answer(evil, evil), Answer("B")))
    workspace.add_groups("s", [one])
    workspace.add_ranking(Ranking("1", one.id, "Ann", ((0,), (1,)), rationale=evil))
    workspace.add_ranking(Ranking("2", one.id, "Ben", skipped=evil))
    path = exchange.export(workspace, "s", "csv", tmp_path / "x.csv", names=True).path
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.reader(f))
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.lstrip(" ").startswith(exchange.FORMULA)]
    assert f"'{evil}" in cells


# ---- refusals

def test_refusals(judged, tmp_path):
    with pytest.raises(SettingsError, match='did you mean "trl"'):
        exchange.export(judged, "desk", "tlr", tmp_path / "x")
    with pytest.raises(NotFound, match='did you mean "desk"'):
        exchange.export(judged, "dask", "trl", tmp_path / "x")
    (tmp_path / "there").touch()
    with pytest.raises(UserError, match="exists already"):
        exchange.export(judged, "desk", "trl", tmp_path / "there")
    judged.add_dataset("demos", "demonstrations", [Demonstration((Message("user", "a"), Message("assistant", "b")))])
    with pytest.raises(UserError, match="holds no comparisons"):
        exchange.export(judged, "demos", "trl", tmp_path / "x")
    judged.add_groups("unjudged", [group(9)])
    with pytest.raises(UserError, match=r"nothing to write as trl \(1 x a group without a verdict\)"):
        exchange.export(judged, "unjudged", "trl", tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there", "ws"]  # nothing is left behind
