"""Datasets, answer groups, rankings, adapters: round trips, names, refusals."""

import json
import shutil
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError, ModelError, NotFound, StorageError, UserError
from tunesmith.records import Answer, AnswerGroup, Demonstration, Labeler, Message, Pair, Prompt, Ranking
from tunesmith.store import lineage
from tunesmith.store.workspace import Workspace


def group(n=0, k=3):
    return AnswerGroup(Prompt((Message("user", f"question {n}"),)), tuple(Answer(f"answer {i}") for i in range(k)))


def verdict(id, group, labeler="ann", tiers=((0,), (1, 2)), **rest):
    return Ranking(id, group.id, labeler, tiers, **rest)


# ---- opening

def test_open_makes_a_workspace_and_finds_it_again(tmp_path):
    with Workspace.open(tmp_path / "new" / "ws") as w:
        w.add_groups("s", [group()])
    with Workspace.open(str(tmp_path / "new" / "ws")) as w:
        assert w.groups("s") == [group()]


def test_an_empty_folder_becomes_a_workspace_hidden_files_allowed(tmp_path):
    (tmp_path / ".gitkeep").touch()
    Workspace.open(tmp_path).close()


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="neither empty nor a workspace"):
        Workspace.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(UserError, match="is a file; a workspace is a folder"):
        Workspace.open(tmp_path / "f")
    with pytest.raises(StorageError):
        Workspace.open(tmp_path / "f" / "below")


def test_a_damaged_database_is_refused(tmp_path):
    with Workspace.open(tmp_path / "ws") as w:
        w.add_groups("s", [group(n) for n in range(200)])
    path = tmp_path / "ws" / "tunesmith.db"
    data = bytearray(path.read_bytes())
    data[4096 * 3:] = bytes(len(data) - 4096 * 3)
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        Workspace.open(tmp_path / "ws")
    path.write_bytes(b"This is no database at all. " * 50)
    with pytest.raises(StorageError, match="damaged"):
        Workspace.open(tmp_path / "ws")


def test_a_newer_schema_is_refused_with_the_cure(tmp_path):
    Workspace.open(tmp_path / "ws").close()
    with sqlite3.connect(tmp_path / "ws" / "tunesmith.db") as c:
        c.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(UserError, match=r"newer version .*9999.*upgrade"):
        Workspace.open(tmp_path / "ws")


def test_a_closed_workspace_says_so(tmp_path):
    w = Workspace.open(tmp_path / "ws")
    w.close()
    with pytest.raises(StorageError, match="closed"):
        w.add_groups("s", [group()])


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/home {tmp_path}/home nfs4 rw 0 0\n")
    monkeypatch.setattr("tunesmith.store.workspace._MOUNTS", mounts)
    with pytest.raises(UserError, match=r"network file system \(nfs4\)"):
        Workspace.open(tmp_path / "home" / "ws")
    assert not (tmp_path / "home").exists()
    Workspace.open(tmp_path / "homely").close()


# ---- names

@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "a b", "ä", "a\n", "m@1", "x" * 65, "a\\b", "\0"])
def test_bad_names_are_refused(workspace, name):
    demo = Demonstration((Message("user", "a"), Message("assistant", "b")))
    with pytest.raises(UserError):
        workspace.add_dataset(name, "demonstrations", [demo])
    with pytest.raises(UserError):
        workspace.add_groups(name, [group()])
    with pytest.raises(UserError):
        workspace.publish_adapter(name, "policy", {}, lambda p: None, {})
    assert workspace.datasets() == [] and workspace.group_sets() == [] and workspace.adapters() == []


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 64, "-a", "_"])
def test_good_names_are_taken(workspace, name):
    assert workspace.add_groups(name, [group()]) == 1


# ---- datasets

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
number = st.floats(-1e6, 1e6)
messages = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), text,
                              st.sampled_from([0, 1, 0.5])), min_size=1, max_size=4).map(tuple)
facts = st.dictionaries(text, st.none() | st.booleans() | st.integers() | number | text | st.lists(text), max_size=3)
prompts = st.builds(Prompt, messages, text | st.just(""), st.sampled_from(["train", "dev", "test"]), facts)
answers = st.builds(Answer, text, text | st.just(""), st.lists(st.integers(0, 10**6), max_size=3).map(tuple),
                    st.lists(number, max_size=3).map(tuple), st.booleans(), facts)
pairs = st.builds(Pair, st.integers(0, 8), st.integers(0, 8), st.floats(0, 1), st.floats(0, 9))
tiers = st.permutations(range(4)).map(lambda p: ((p[0],), (p[1], p[2])))
answer_groups = st.builds(AnswerGroup, prompts, st.lists(answers, min_size=1, max_size=4).map(tuple),
                          st.just(()) | tiers,
                          st.lists(pairs, max_size=2).map(tuple), st.lists(number, max_size=4).map(tuple), text,
                          st.just((1, 0)), st.sampled_from(["human", "judge", "simulated"]), st.floats(0, 5))
demonstrations = st.builds(Demonstration, messages, text, text, st.sampled_from(["accepted", "pending", "rejected"]))
CASES = st.one_of(st.tuples(st.just("demonstrations"), st.lists(demonstrations, min_size=1, max_size=4)),
                  st.tuples(st.just("prompts"), st.lists(prompts, min_size=1, max_size=4)),
                  st.tuples(st.just("comparisons"), st.lists(answer_groups, min_size=1, max_size=4)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CASES)
def test_any_record_comes_back_as_it_went_in(workspace, case):
    kind, rows = case
    name = f"d{len(workspace.datasets())}"
    workspace.add_dataset(name, kind, rows)
    assert list(workspace.dataset(name).rows()) == rows


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(answer_groups, min_size=1, max_size=4, unique_by=lambda g: g.id))
def test_any_group_comes_back_from_the_database(workspace, groups):
    name = f"s{len(workspace.group_sets())}"
    assert workspace.add_groups(name, groups) == len(groups)
    stored = workspace.groups(name)
    assert [g.id for g in stored] == [g.id for g in groups]
    assert all(workspace.group(g.id) in stored for g in groups)


PROMPTS = [Prompt((Message("user", "a"),)), Prompt((Message("user", "b"),), split="dev")]


def test_a_dataset_keeps_what_is_known_about_it(workspace):
    made = workspace.add_dataset("p", "prompts", iter(PROMPTS), source="web", licence="MIT", skipped={"blank line": 2})
    assert made == workspace.dataset("p") == workspace.datasets()[0]
    assert (made.name, made.kind, made.count, made.source, made.licence, made.skipped) == (
        "p", "prompts", 2, "web", "MIT", {"blank line": 2})


def test_importing_again_is_idempotent_other_rows_are_refused(workspace):
    first = workspace.add_dataset("p", "prompts", PROMPTS)
    assert workspace.add_dataset("p", "prompts", PROMPTS) == first
    with pytest.raises(UserError, match=r"already another dataset named p \(2 prompts\)"):
        workspace.add_dataset("p", "prompts", PROMPTS[:1])
    assert list(workspace.dataset("p").rows()) == PROMPTS
    assert workspace.add_dataset("q", "prompts", PROMPTS).fingerprint == first.fingerprint
    assert workspace.add_dataset("r", "prompts", PROMPTS[::-1]).fingerprint != first.fingerprint


def test_a_dataset_that_fails_leaves_nothing(workspace):
    def rows():
        yield PROMPTS[0]
        raise DataError("broken", "f.jsonl", 2)

    with pytest.raises(DataError, match=r"f\.jsonl:2: broken"):
        workspace.add_dataset("p", "prompts", rows())
    with pytest.raises(UserError, match="no rows"):
        workspace.add_dataset("p", "prompts", [])
    with pytest.raises(DataError, match="row 2 is a AnswerGroup; prompts are Prompts"):
        workspace.add_dataset("p", "prompts", [PROMPTS[0], group()])
    with pytest.raises(DataError, match="row 1 cannot be stored"):
        workspace.add_dataset("p", "prompts", [Prompt((Message("user", "\ud800"),))])
    with pytest.raises(DataError, match="row 1 cannot be stored"):
        workspace.add_dataset("p", "prompts", [Prompt((Message("user", "x"),), facts={"nan": float("nan")})])
    assert list((workspace.root / "data").iterdir()) == [] and workspace.datasets() == []


def test_a_missing_dataset_names_the_nearest(workspace):
    with pytest.raises(NotFound, match=r'no dataset "demos"; there is none yet'):
        workspace.dataset("demos")
    workspace.add_dataset("demo", "prompts", PROMPTS)
    with pytest.raises(NotFound, match='did you mean "demo"'):
        workspace.dataset("demos")


def test_an_altered_dataset_is_not_read(workspace):
    path = workspace.add_dataset("p", "prompts", PROMPTS).path / "rows.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"c"'))
    with pytest.raises(DataError, match=r"dataset p is damaged: rows.jsonl was altered"):
        list(workspace.dataset("p").rows())
    shutil.rmtree(path.parent)
    with pytest.raises(DataError, match=r"dataset p is damaged: manifest.json is missing"):
        workspace.dataset("p")


# ---- answer groups and rankings

def test_groups_join_a_set_once_in_order(workspace):
    assert workspace.add_groups("s", [group(0), group(1), group(0)]) == 2
    assert workspace.add_groups("s", [group(1), group(2)]) == 1
    assert workspace.add_groups("t", [group(2)]) == 1
    assert workspace.groups("s") == [group(0), group(1), group(2)]
    assert [(s["name"], s["count"], s["ranked"]) for s in workspace.group_sets()] == [("s", 3, 0), ("t", 1, 0)]
    with pytest.raises(NotFound, match='no set of answer groups "ss"; did you mean "s"'):
        workspace.groups("ss")
    with pytest.raises(NotFound):
        workspace.group("0" * 16)


def test_rankings_are_kept_whole_and_once(workspace):
    workspace.add_groups("s", [group(0), group(1)])
    full = verdict("id-1", group(0), tiers=((2,), (0, 1)), shown=(2, 1, 0), all_bad=True, flags={"1": ["rude"]},
                   ratings=(1.0, 2.0, 3.5), seconds=4.25)
    skip = Ranking("id-2", group(1).id, "bob", skipped="I cannot tell")
    assert workspace.add_ranking(full) and workspace.add_ranking(skip)
    assert not workspace.add_ranking(full)
    assert workspace.rankings("s") == [full, skip]
    assert workspace.group_sets()[0]["ranked"] == 2
    assert workspace.labelers() == [Labeler("ann"), Labeler("bob")]


def test_latest_rankings_supersede(workspace):
    workspace.add_groups("s", [group(0), group(1)])
    old, other, new = verdict("1", group(0)), verdict("2", group(1)), verdict("3", group(0), tiers=((2,), (1,)))
    bob = verdict("4", group(0), "bob")
    assert workspace.add_rankings([old, other, new, bob, old]) == 4
    assert workspace.rankings("s") == [old, other, new, bob]
    assert workspace.rankings("s", latest=True) == [other, new, bob]


BAD_VERDICTS = {
    "answer 3 is ranked, but there are answers 0 to 2": {"tiers": ((0,), (3,))},
    "answer -1 is ranked": {"tiers": ((0,), (-1,))},
    "answer 0 is ranked twice": {"tiers": ((0,), (1, 0))},
    "a tier is empty": {"tiers": ((0,), ())},
    "needs tiers, ratings, all_bad, or the reason": {"tiers": ()},
    "is not an order of answers 0 to 2": {"shown": (0, 1, 1)},
    "2 ratings for 3 answers": {"ratings": (1.0, 2.0)},
    "cannot be stored": {"trace": {"x": float("nan")}},
    '"seconds" of a ranking must be a number of at least 0, got \'12\'': {"seconds": "12"},
    '"seconds" of a ranking': {"seconds": float("inf")},
    '"flags" of a ranking must be lists of texts': {"flags": ["x"]},
    "answer 3 is flagged": {"flags": {"3": ["rude"]}},
    '"ratings" of a ranking must be numbers from 1 to 7': {"ratings": (1.0, 2.0, 8.0)},
    '"ratings" of a ranking': {"ratings": ("a", "b", "c")},
    '"trace" of a ranking': {"trace": 3},
    '"margin" of a ranking must be 0 to 4': {"margin": 5},
    '"purpose" of a ranking': {"purpose": "fun"},
    '"tiers" of a ranking': {"tiers": (("0",), (True,))},
    '"all_bad" of a ranking': {"all_bad": "yes"},
    "a labeler's name has 1 to 64": {"labeler": " "},
    "a labeler's name has": {"labeler": "x" * 65},
}


@pytest.mark.parametrize("message", BAD_VERDICTS)
def test_verdicts_that_do_not_fit_are_refused(workspace, message):
    workspace.add_groups("s", [group()])
    with pytest.raises(DataError, match=message):
        workspace.add_ranking(verdict("1", group(), **BAD_VERDICTS[message]))
    assert workspace.rankings("s") == [] and workspace.labelers() == []


def test_verdicts_on_nothing_or_under_a_taken_id_are_refused(workspace):
    workspace.add_groups("s", [group(0), group(1)])
    with pytest.raises(NotFound, match="no answer group"):
        workspace.add_ranking(verdict("1", group(9)))
    with pytest.raises(DataError, match="id"):
        workspace.add_ranking(verdict("", group(0)))
    assert workspace.add_ranking(verdict("1", group(0)))
    with pytest.raises(DataError, match='the ranking id "1" is taken'):
        workspace.add_ranking(verdict("1", group(1)))


def test_one_bad_verdict_among_many_stores_none(workspace):
    workspace.add_groups("s", [group()])
    with pytest.raises(DataError):
        workspace.add_rankings([verdict("1", group()), verdict("2", group(), tiers=((7,),))])
    assert workspace.rankings("s") == []


def test_a_person_and_a_simulation_never_share_a_name(workspace):
    workspace.add_groups("s", [group(0), group(1)])
    workspace.add_ranking(verdict("1", group(0), "sim", simulated=True))
    with pytest.raises(DataError, match='"sim" is a simulated labeler'):
        workspace.add_ranking(verdict("2", group(1), "sim"))
    assert workspace.labelers() == [Labeler("sim", simulated=True)]


# ---- adapters

def weights(content=b"w"):
    def write(folder):
        (folder / "adapter_model.safetensors").write_bytes(content)
        (folder / "head").mkdir()
        (folder / "head" / "adapter_config.json").write_text("{}")
    return write


BASE = {"spec": "loan-desk", "hash": "abc"}


def test_adapters_get_versions_and_keep_their_lineage(workspace):
    known = {"seed": 1, "data": {"demos": "f00"}, "parent": None}
    first = workspace.publish_adapter("m", "policy", BASE, weights(), known)
    second = workspace.publish_adapter("m", "reward", BASE, weights(b"2"), {"parent": str(first)})
    assert (str(first), str(second)) == ("m@1", "m@2")
    assert workspace.adapter("m") == second and workspace.adapter("m@1") == first
    assert workspace.adapters() == [first, second]
    assert first.base == BASE and first.role == "policy"
    assert first.lineage == {"code": lineage.code_version(), **known}
    assert (second.path / "adapter_model.safetensors").read_bytes() == b"2"
    assert second.path == workspace.root / "adapters" / "m" / "2"


def test_missing_adapters_name_the_nearest(workspace):
    workspace.publish_adapter("policy", "policy", BASE, weights(), {})
    for name, message in {"polcy": 'did you mean "policy"', "policy@7": "has no version 7; it has 1"}.items():
        with pytest.raises(NotFound, match=message):
            workspace.adapter(name)
    for name in ("policy@x", "policy@", "policy@-1", "policy@1@1", "policy@²"):
        with pytest.raises(UserError, match="must be a version number"):
            workspace.adapter(name)
    with pytest.raises(UserError, match="bare base"):
        workspace.publish_adapter("base", "policy", BASE, weights(), {})


@pytest.mark.parametrize("harm, message", [
    (lambda p: (p / "adapter_model.safetensors").write_bytes(b"x"), "adapter_model.safetensors was altered"),
    (lambda p: (p / "adapter_model.safetensors").write_bytes(b""), "has 0 bytes instead of 1"),
    (lambda p: (p / "head" / "adapter_config.json").unlink(), "head/adapter_config.json is missing"),
    (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing"),
    (lambda p: (p / "manifest.json").write_text("{"), "manifest.json is not readable"),
    (lambda p: (p / "manifest.json").write_text("[]"), "manifest.json is not readable"),
    (lambda p: (p / "manifest.json").write_text(
        (p / "manifest.json").read_text().replace("policy", "reward")), "manifest.json was altered"),
    (shutil.rmtree, "manifest.json is missing"),
])
def test_a_damaged_adapter_is_not_loaded(workspace, harm, message):
    workspace.publish_adapter("m", "policy", BASE, weights(), {})
    harm(workspace.publish_adapter("m", "policy", BASE, weights(), {}).path)
    with pytest.raises(ModelError, match=f"adapter m@2 is damaged: .*{message}"):
        workspace.adapter("m")
    assert workspace.adapter("m@1").version == 1


def test_a_writer_that_fails_publishes_nothing(workspace):
    def write(folder):
        (folder / "half").write_bytes(b"x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        workspace.publish_adapter("m", "policy", BASE, write, {})
    assert workspace.adapters() == [] and list((workspace.root / "adapters" / "m").iterdir()) == []
    assert str(workspace.publish_adapter("m", "policy", BASE, weights(), {})) == "m@1"


# ---- lineage

def test_opening_a_workspace_loads_no_heavy_library():
    code = "import sys, tunesmith.store.workspace; print({'torch', 'pyarrow', 'alembic', 'numpy'} & set(sys.modules))"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert got.stdout == "set()\n", got.stderr


def test_the_commit_is_read_from_git_without_git(tmp_path):
    assert lineage.git_commit(tmp_path) == ""
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text("# pack-refs\nbbb refs/heads/main\n")
    assert lineage.git_commit(tmp_path) == "bbb"
    (git / "refs" / "heads" / "main").write_text("aaa\n")
    assert lineage.git_commit(tmp_path) == "aaa"
    (git / "HEAD").write_text("ccc\n")
    assert lineage.git_commit(tmp_path) == "ccc"
    (git / "worktrees" / "w").mkdir(parents=True)
    (git / "worktrees" / "w" / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "worktrees" / "w" / "commondir").write_text("../..\n")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / ".git").write_text(f"gitdir: {git / 'worktrees' / 'w'}\n")
    assert lineage.git_commit(tmp_path / "w") == "aaa"


def test_the_manifest_lists_every_file_with_hash_and_size(workspace):
    path = workspace.publish_adapter("m", "policy", BASE, weights(b"abc"), {}).path
    files = json.loads((path / "manifest.json").read_text())["files"]
    assert files["adapter_model.safetensors"] == {
        "size": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert set(files) == {"adapter_model.safetensors", "head/adapter_config.json"}
