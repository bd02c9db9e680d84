"""Judgements in and out: what comes back is what went out, and what a format cannot hold is counted."""

import csv
import json

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError, NotFound, SettingsError, UserError
from tunesmith.records import Answer, AnswerGroup, Demonstration, Message, Pair, Prompt, Ranking
from tunesmith.store import exchange, foreign, formats, sheets, team
from tunesmith.store.workspace import Workspace


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

def test_our_own_format_brings_everything_back(judged, other, tmp_path):
    made = exchange.export(judged, "desk", "tunesmith", tmp_path / "desk.jsonl")
    assert made.rows == 2 and not made.skipped
    assert exchange.load(other, made.path, "copy")[:2] == (2, 6)
    assert other.groups("copy") == judged.groups("desk")
    key = lambda r: r.id  # noqa: E731
    assert sorted(other.rankings("copy"), key=key) == sorted(judged.rankings("desk"), key=key)
    assert team.quarantined(other) == {"Dot"}  # who is left out here is left out there
    assert exchange.load(other, made.path, "copy")[:2] == (0, 0)  # once more changes nothing
    assert len(team.quarantines(other)) == 1


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
    assert made.skipped["a verdict with ties or a partial one, for which Argilla's records have no place"] == 1
    assert made.skipped["a verdict that was revised"] == 1
    found = foreign.read(made.path)
    assert found.format == "argilla" and list(found.groups) == [group(0).id, group(1).id]  # turns and all
    assert {(r.tiers, r.ratings) for r in found.rankings} == {(((1,), (0,), (2,)), ())}


def test_argilla_invents_no_order_and_counts_what_it_cannot_say(workspace, tmp_path):
    """A tie with different ratings comes back as nothing, not as the order of the ratings."""
    one = group(k=4)
    workspace.add_groups("s", [one, group(1)])
    workspace.add_rankings([
        Ranking("1", one.id, "Ann", ((0, 1), (2,), (3,)), ratings=(5, 4, 3, 2)),
        Ranking("2", one.id, "Ben", ((3,), (2,), (1,), (0,)), ratings=(1, 2, 3, 3.5), all_bad=True, margin=2,
                flags={"1": ["false"]}, rationale="because"),
        Ranking("3", one.id, "Cid", ((3,), (2,), (1,), (0,)), ratings=(1, 2, 3, 4)),
        Ranking("4", group(1).id, "Ann", ((2,),))])
    made = exchange.export(workspace, "s", "argilla", tmp_path / "records.json")
    assert made.skipped == {"a verdict with ties or a partial one, for which Argilla's records have no place": 2, **{
        f'"{name}" of a verdict, for which Argilla has no place': 1
        for name in ("ratings", "all_bad", "flags", "rationale", "margin")}}
    found = foreign.read(made.path)
    assert [(r.tiers, r.ratings) for r in found.rankings] == [(((3,), (2,), (1,), (0,)), ()),
                                                              (((3,), (2,), (1,), (0,)), (1, 2, 3, 4))]
    made = exchange.export(workspace, "s", "labelstudio", tmp_path / "tasks.json")
    assert made.skipped['"ratings" of a verdict, for which Label Studio has no place'] == 3
    assert [r.tiers for r in foreign.read(made.path).rankings] == [
        ((0, 1), (2,), (3,)), ((3,), (2,), (1,), (0,)), ((3,), (2,), (1,), (0,)), ((2,),)]


def test_a_verdict_that_goes_back_to_what_it_was_is_a_change_again(workspace, tmp_path):
    """A, B, A in three imports ends with A; each import twice changes nothing more."""
    def say(best):
        order = [f"response-{best}", f"response-{3 - best}"]
        path = tmp_path / "x.json"
        path.write_text(json.dumps([argilla({"ranking": [{"value": order, "user_id": "u-1"}]})]), "utf-8")
        return [exchange.load(workspace, path, "s")[1] for _ in range(2)]
    assert [say(best) for best in (1, 2, 1, 2)] == [[1, 0]] * 4
    every = workspace.rankings("s")
    assert [r.tiers for r in every] == [((0,), (1,)), ((1,), (0,))] * 2
    assert [r.revises for r in every] == ["", *(r.id for r in every[:-1])]
    orders = ["response-1", "response-2"], ["response-2", "response-1"]
    twice = [argilla({"ranking": [{"value": order, "user_id": "u-1"}]}) for order in orders]
    (tmp_path / "y.json").write_text(json.dumps(twice), "utf-8")
    assert exchange.load(workspace, tmp_path / "y.json", "s")[1:] == (0, {"an earlier verdict of the same labeler": 1})


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
    ({"group": 5, "rankings": []}, '"group" must be an object'),
    ({"fields": {"foo": "x"}, "responses": {}}, "no prompt"),
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


@pytest.mark.parametrize(("change", "why"), [
    ({"labeler": ""}, "a labeler's name has 1 to 64"), ({"seconds": "12"}, '"seconds" of a ranking must be a number'),
    ({"flags": ["x"]}, '"flags" of a ranking'), ({"ratings": ["a", "b", "c"]}, '"ratings" of a ranking'),
    ({"trace": 3}, '"trace" of a ranking'), ({"shown": [0, 1]}, "is not an order of answers"),
    ({"id": "taken"}, 'the ranking id "taken" is taken'), ({"labeler": "sim"}, '"sim" is a simulated labeler')])
def test_a_bad_verdict_is_named_with_its_line_and_nothing_is_stored(workspace, tmp_path, change, why):
    workspace.add_groups("old", [group(5)])
    workspace.add_rankings([Ranking("taken", group(5).id, "Zoe", ((0,),)),
                            Ranking("bot", group(5).id, "sim", ((0,),), simulated=True)])
    rows = [{"group": group(n).to_dict(), "rankings": [Ranking(f"r{n}", group(n).id, "Ann", ((0,), (1,))).to_dict()]}
            for n in range(4)]
    rows[2]["rankings"][0] |= change
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(DataError, match=f"x.jsonl:3: .*{why}"):
        exchange.load(workspace, path, "new")
    assert [s["name"] for s in workspace.group_sets()] == ["old"]


BAD_GROUPS = {
    '"split" must be train, dev or test': lambda g: g["prompt"].update(split="holdout"),
    '"weight" must be a number': lambda g: g.update(weight="2"),
    '"weight" must be a number of at least 0': lambda g: g.update(weight=-1),
    '"labels" must hold numbers': lambda g: g.update(labels=["x", 1, 2]),
    '"labels" has 1 entries for 3 answers': lambda g: g.update(labels=[1.0]),
    '"p" must lie between 0 and 1': lambda g: g.update(pairs=[{"better": 0, "worse": 1, "p": 3}]),
    "answer 7 is ranked": lambda g: g.update(pairs=[{"better": 0, "worse": 7}]),
    '"source" must be one of': lambda g: g.update(source="heaven"),
    '"labeler" must be a text': lambda g: g.update(labeler=5),
    '"tiers" must hold whole numbers': lambda g: g.update(tiers=[["0"], [1]]),
    '"shown" is not an order': lambda g: g.update(shown=[0, 0, 1]),
    '"text" must be a text': lambda g: g["answers"][1].update(text=3),
    '"role" must be': lambda g: g["prompt"]["messages"][0].update(role="boss")}


@pytest.mark.parametrize("why", BAD_GROUPS)
def test_every_field_of_a_group_is_checked_on_both_roads(tmp_path, why):
    row = group().to_dict()
    BAD_GROUPS[why](row)
    for name, made in (("own.json", {"group": row, "rankings": []}), ("rows.json", row)):
        (tmp_path / name).write_text(json.dumps([made]), "utf-8")
    with pytest.raises(DataError, match=why):
        foreign.read(tmp_path / "own.json")
    with pytest.raises(DataError, match=why):
        formats.read(tmp_path / "rows.json", "comparisons")


def test_other_names_of_the_splits_are_understood(tmp_path):
    row = group().to_dict()
    row["prompt"]["split"] = "validation"
    (tmp_path / "x.json").write_text(json.dumps([{"group": row, "rankings": []}]), "utf-8")
    assert [g.prompt.split for g in foreign.read(tmp_path / "x.json").groups.values()] == ["dev"]


@pytest.mark.parametrize(("ids", "bucket", "best"), [
    (("да", "нет"), "нет", 1), (("+", "-"), "-", 1), (("A", "a"), "a", 1), (("Straße 1", "x"), "STRASSE 1", 0)])
def test_ids_in_any_script_are_told_apart(tmp_path, ids, bucket, best):
    row = task(result("ranker", {"ranker": {"1": [bucket], "2": [i for i in ids if i != bucket][:1]}}))
    if bucket not in ids:
        row = task(result("ranker", {"ranker": {"1": [bucket]}}))
    row["data"]["items"] = [{"id": id, "body": f"text {n}"} for n, id in enumerate(ids)]
    assert read(tmp_path, row).rankings[0].tiers[0] == (best,)


def test_a_group_that_is_here_with_other_details_is_counted(workspace, tmp_path):
    workspace.add_groups("s", [group(0), group(1)])
    other = AnswerGroup(Prompt(group(0).prompt.messages, "loans", "test"), group(0).answers)
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps([{"group": g.to_dict(), "rankings": []} for g in (other, group(1))]), "utf-8")
    assert exchange.load(workspace, path, "s") == (0, 0, {
        "a group that is here already with other details (it stays as it is)": 1})
    assert workspace.groups("s")[0].prompt.split == "train"


# ---- tables

def test_a_partial_ranking_is_exported_with_the_pairs_that_training_sees(workspace, tmp_path):
    """Checked against `feedback.groups.pairs`, which the reward model learns from."""
    from tunesmith.feedback.groups import apply, pairs

    one = group(k=4)
    workspace.add_groups("s", [one])
    verdicts = [Ranking("1", one.id, "Ann", ((2,),)), Ranking("2", one.id, "Ben", ((1,), (0, 3)))]
    workspace.add_rankings(verdicts)
    made = exchange.export(workspace, "s", "trl", tmp_path / "pairs.jsonl")
    said = sorted((r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in lines(made.path))
    text = [a.text for a in one.answers]
    assert said == sorted((text[p.better], text[p.worse]) for r in verdicts for p in pairs(apply(one, r)))
    assert len(said) == 3 + 5 and not made.skipped


SEEN = [("Ann Ångström", ((2,), (0, 1)), (3, 3, 7), (1, 0, 2)), ("Ben", ((1,), (0,), (2,)), (), ())]
"""What training sees of the verdicts of `judged`: all on the first group."""
UNSEEN = {"a skipped group", "a verdict of a quarantined labeler", "a verdict on a test question or a second look"}


def test_our_csv_comes_back_as_what_training_would_see(judged, tmp_path):
    made = exchange.export(judged, "desk", "csv", tmp_path / "out.csv", names=True)
    found = formats.read(made.path, "rankings")
    assert [(g.labeler, g.tiers, g.labels, g.shown) for g in found.rows] == SEEN
    assert {g.id for g in found.rows} == {group(0).id}
    assert found.skipped == {"a verdict that was revised": 1, **dict.fromkeys(UNSEEN, 1)}


def test_our_parquet_comes_back_as_what_training_would_see(judged, tmp_path):
    made = exchange.export(judged, "desk", "parquet", tmp_path / "out", names=True)
    dev, train = sorted((made.path / "data").iterdir())
    found = formats.read(train, "rankings")
    assert [(g.labeler, g.tiers, g.labels, g.shown) for g in found.rows] == SEEN
    assert found.skipped == {"a verdict that was revised": 1}
    with pytest.raises(DataError, match="no rows left") as refused:
        formats.read(dev, "rankings")
    assert all(f"1 x {why}" in str(refused.value) for why in UNSEEN)


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_thumbs_soft_pairs_and_weights_are_in_our_tables(workspace, tmp_path, format):
    thumb = AnswerGroup(Prompt((Message("user", "one"),)), (Answer("a"),), labels=(1.0,), weight=3.0)
    soft = group(3, pairs=(Pair(2, 0, 0.75, 2.0), Pair(1, 0, 0.5)), labeler="Ann")
    workspace.add_dataset("kto", "comparisons", [thumb, soft])
    path = exchange.export(workspace, "kto", format, tmp_path / "out", names=True).path
    files = sorted((path / "data").iterdir())[::-1] if format == "parquet" else [path.rename(tmp_path / "out.csv")]
    rows = [g for file in files for g in formats.read(file, "rankings").rows]
    assert [(g.labels, g.weight, g.pairs, g.id) for g in rows] == [
        ((1.0,), 3, (), thumb.id), ((), 1, soft.pairs, soft.id)]


def test_a_split_of_an_older_workspace_is_written_too(workspace, tmp_path):
    odd = AnswerGroup(Prompt((Message("user", "q"),), split="validation/1"), (Answer("a"), Answer("b")), ((0,), (1,)))
    workspace.add_dataset("old", "comparisons", [odd, group(0, tiers=((0,), (1,), (2,)))])
    made = exchange.export(workspace, "old", "parquet", tmp_path / "out")
    written = {p.name: pq.read_table(p).num_rows for p in (made.path / "data").iterdir()}
    assert sum(written.values()) == made.rows == 2
    assert set(written) == {"train-00000-of-00001.parquet", "validation_1-00000-of-00001.parquet"}


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
    assert not [cell for cell in cells if cell.lstrip(" ").startswith(sheets.FORMULA)]
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
