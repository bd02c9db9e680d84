"""Learning from a mixture: its tokens are those of the plain way, its draws those of the sampler, its resume exact."""

import json
from collections import Counter

import pytest
from lab import weights

from tunesmith import cli, mixing
from tunesmith.data import mixture
from tunesmith.data.sampler import positions
from tunesmith.errors import UserError
from tunesmith.records import fingerprint
from tunesmith.settings import MixSettings
from tunesmith.shop import Shop
from tunesmith.terminal import Terminal
from tunesmith.train import material, sft

RECIPE = """
cap = 40
held_out = ["numbers"]
held_out_rows = 5
views = {zero_shot = 2, few_shot = 1}
shots = 2
tasks.letters = {file = "letters.jsonl", direct = [["write {n}", "{a}"], ["{n}?", "{a}"]]}
tasks.reversed = {file = "letters.jsonl", direct = [["back {a}", "{n}"]], weight = 2}
tasks.numbers = {file = "letters.jsonl", direct = [["count {a}", "{n}"]]}
tasks.demos = {data = "demos"}
"""


@pytest.fixture
def mixed(lab, tmp_path):
    """The lab with a mixture `mix`."""
    (tmp_path / "letters.jsonl").write_text("".join(
        json.dumps({"n": i, "a": "abcd"[i % 4] * (i % 5 + 1)}) + "\n" for i in range(60)))
    (tmp_path / "mix.toml").write_text(RECIPE)
    lab.shop = Shop(lab.workspace, Terminal(True).progress)
    lab.made = mixing.mix(lab.shop, MixSettings(recipe=str(tmp_path / "mix.toml")))
    return lab


def drawn(lab, base, longest=256, seed=0):
    tokens = material.cut(lab.workspace, base, lab.made.dataset, lab.made.mixture, longest)
    return material.Mixed(lab.made.mixture, tokens, seed)


def test_its_tokens_are_those_of_the_plain_way(mixed):
    """Every row of every source, against the encoder of plain datasets."""
    base = mixed.base()
    rows = list(mixed.made.dataset.rows())
    want, skipped = sft.encode(base, rows, 256)
    found = drawn(mixed, base).tokens
    assert not skipped and len(found) == len(rows) == 60 * 4 + 96
    for number, source in enumerate(found.sources):
        own = [tree for tree, row in zip(want, rows) if row.source == source]
        assert len(own) == found.counts_S[number] > 0
        for i, tree in enumerate(own):
            prompt, answer, learned = found.row(number, i)
            assert (tuple(prompt), (tuple(answer),), (tuple(learned),)) == (tree.prompt, tree.answers, tree.weights)


def test_what_is_too_long_is_left_out_and_counted_and_a_source_may_vanish(mixed):
    base = mixed.base()
    everything, few = drawn(mixed, base), drawn(mixed, base, longest=30)
    lost = len(everything.tokens) - len(few.tokens)
    assert few.tokens.skipped == {"too long": lost} and lost > 0
    assert "letters/few_shot" in everything.names and "letters/few_shot" not in few.names
    assert {len(t.prompt) + len(t.answers[0]) for t in few.take(0, 200)} <= set(range(31))
    with pytest.raises(UserError, match=r"no demonstration is left to learn from: \{'too long'"):
        drawn(mixed, base, longest=3)


def test_any_step_is_drawn_without_the_ones_before_and_by_all_ranks_together(mixed):
    base = mixed.base()
    one, other = drawn(mixed, base), drawn(mixed, base)
    trees = one.take(0, 4000)
    assert [other.take(step * 16, 16) for step in (249, 3, 77)] == [trees[s * 16:s * 16 + 16] for s in (249, 3, 77)]
    parts = {int(p): tree for rank in range(3) for p in positions(5, 16, rank, 3) for tree in other.take(int(p), 1)}
    assert [parts[p] for p in sorted(parts)] == trees[80:96]
    assert drawn(mixed, base, seed=1).take(0, 16) != trees[:16]


def test_the_draws_follow_the_rates(mixed):
    found = drawn(mixed, mixed.base())
    rates = {s.name: s.rate for s in mixed.made.mixture.sources}
    assert sum(rates.values()) == pytest.approx(1) and not any("numbers" in name for name in rates)
    assert {name: n for name, n in found.drawn(6000).items()} == {
        name: pytest.approx(rate * 6000, abs=3) for name, rate in rates.items()}
    assert mixed.made.held_out.count == 5 and len(found) == mixed.made.mixture.size == 40 * 3


def test_tokens_are_cut_once_and_again_where_they_are_damaged(mixed, monkeypatch):
    base, calls = mixed.base(), []
    render = type(base.chat).render_all
    monkeypatch.setattr(type(base.chat), "render_all", lambda *a: calls.append(1) or render(*a))
    first = drawn(mixed, base).take(0, 50)
    count = len(calls)
    assert drawn(mixed, base).take(0, 50) == first and len(calls) == count > 0
    folder, = (mixed.workspace.root / "tokens").iterdir()
    (folder / "tokens.bin").write_bytes(b"\0" * (folder / "tokens.bin").stat().st_size)
    assert drawn(mixed, base).take(0, 50) == first and len(calls) == 2 * count


class Killed(Exception):
    pass


def test_sft_from_a_mixture_resumes_bit_for_bit_and_says_what_it_saw(mixed):
    base, settings = mixed.base(), mixed.sft(data="mix", epochs=0.2, replay=("demos",), replay_share=0.25)
    whole = sft.train(mixed.workspace, base, settings)
    run = mixed.workspace.run(whole.lineage["run"])
    assert len(run.metrics()) == 8 == 120 * 0.2 / 3
    assert Counter(run.summary["drawn"]).total() == 24 and whole.lineage["drawn"] == run.summary["drawn"]
    assert run.inputs["data"] == mixed.made.dataset.fingerprint

    def kill(done, total, metrics):
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        sft.train(mixed.workspace, mixed.base(), settings, progress=kill)
    broken = max(mixed.workspace.runs(), key=lambda r: r.created)
    assert broken.latest()[0] == 4
    again = sft.train(mixed.workspace, mixed.base(), settings, resume=broken)
    assert weights(again) == weights(whole) and mixed.workspace.run(broken.id).metrics() == run.metrics()


def test_the_command_mixes_cuts_and_is_the_same_again(mixed, tmp_path, capsys):
    argv = ["--workspace", str(mixed.root), "data", "mix", str(tmp_path / "mix.toml"), "--name", "two"]
    assert cli.main([*argv, "--base", str(mixed.model), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["rows"] == 336 and shown["size"] == 120 and shown["held_out"] == "two-held-out"
    assert [t["task"] for t in shown["tasks"]] == ["letters", "reversed", "demos"]
    assert len(list((mixed.root / "tokens").iterdir())) == 1
    assert cli.main(argv) == 0
    assert "one pass is 120 draws; learn from it: tunesmith sft --data two" in capsys.readouterr().out
    (tmp_path / "mix.toml").write_text(RECIPE.replace("cap = 40", "cap = 41"))
    assert cli.main(argv) == 2
    assert "already another dataset named two" in capsys.readouterr().err
    with pytest.raises(UserError, match="demos is a plain dataset"):
        mixing.cut(mixed.shop, "demos", str(mixed.model))


def test_rates_are_part_of_what_a_dataset_is(mixed):
    assert mixed.made.dataset.fingerprint != mixed.workspace.dataset("demos").fingerprint
    found = json.loads((mixed.made.dataset.path / mixture.FILE).read_text())
    assert found["recipe"]["cap"] == 40 and found["recipe"]["tasks"]["letters"]["file"] == "letters.jsonl"
    assert len(fingerprint(found)) == 16
