"""Stages of fine-tuning: frozen ranks stay, replay is mixed in, the pull towards the start is the exact KL."""

import random

import pytest
import torch
from lab import ask, weights

from tunesmith.errors import ModelError, SettingsError
from tunesmith.model import adapters, merging
from tunesmith.model.batch import build, hidden
from tunesmith.ops import logprobs
from tunesmith.records import Demonstration, Message
from tunesmith.settings import SftSettings
from tunesmith.train import sft, stages, transfer
from tunesmith.train.material import Shuffled


def teach(lab, data, letters, **changes):
    rng = random.Random(3)
    rows = [Demonstration((*ask(i), Message("assistant", "".join(rng.choice(letters) for _ in range(6)))))
            for i in range(32)]
    if data not in {d.name for d in lab.workspace.datasets()}:
        lab.workspace.add_dataset(data, "demonstrations", rows)
    settings = lab.sft(**{"name": data, "data": data, "batch": 16, "epochs": 4, "checkpoint_every": 1000, **changes})
    return sft.train(lab.workspace, lab.base(), settings)


@pytest.fixture
def first(lab):
    teach(lab, "ab", "ab")
    return lab


def read(base, name, adapter):
    adapters.load(base, name, adapter.path)
    return merging.change(base, name)


def test_stacked_ranks_stay_bit_for_bit_and_new_ones_learn(first):
    stacked = teach(first, "xy", "xy", after="ab", stack=True, rank=3, alpha=9)
    base = first.base()
    old, new = read(base, "old", first.workspace.adapter("ab")), read(base, "new", stacked)
    for key, f in old.items():
        assert torch.equal(new[key].a[:4], f.a) and len(new[key].a) == 4 + 3
        torch.testing.assert_close(new[key].b[:, :4], f.b, atol=1e-7, rtol=1e-6)
        assert new[key].b[:, 4:].abs().sum() > 0
    assert stacked.lineage["parents"] == {"after": "ab@1"}


def test_a_fresh_stack_computes_what_it_stands_on(first):
    base = first.base()
    below = read(base, "below", first.workspace.adapter("ab"))
    stages.stack(base, "stacked", below, adapters.Method(rank=3, alpha=9), 0)
    ids, logits = torch.arange(5, 40)[None], {}
    with torch.no_grad():
        for name in ("below", "stacked"):
            with adapters.active(base, name):
                logits[name] = base.model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(logits["stacked"], logits["below"], atol=1e-5, rtol=1e-5)


def test_the_penalty_is_the_squared_inner_products_and_lowers_them(first):
    base = first.base()
    below = read(base, "below", first.workspace.adapter("ab"))
    stages.stack(base, "stacked", below, adapters.Method(rank=2, alpha=4), 0)
    by_hand = 0.0
    for key, factors in merging.change(base, "stacked").items():
        new = factors.a[4:]
        by_hand += sum(float(x @ y) ** 2 for x in new for y in below[key].a)
    assert float(stages.overlap(base, "stacked", 4)) == pytest.approx(by_hand, rel=1e-4)
    runs = {}
    for weight in (0.0, 1.0):
        made = teach(first, "xy", "xy", name=f"o{weight:.0f}", after="ab", stack=True, orthogonal=weight)
        base = first.base()
        adapters.load(base, "made", made.path)
        runs[weight] = float(stages.overlap(base, "made", 4))
    assert runs[1.0] < 0.5 * runs[0.0]


def test_kl_is_the_full_sum_over_the_vocabulary(first):
    base = first.base()
    adapters.load(base, "ab", first.workspace.adapter("ab").path)
    trees = sft.encode(base, list(first.workspace.dataset("demos").rows())[:3], base.context)[0]
    batch = build(trees)
    with torch.no_grad():
        before = hidden(base, batch, "tree", batch.source_N)
        with adapters.active(base, "ab"):
            now = hidden(base, batch, "tree", batch.source_N)
    found = logprobs.kl_from_hidden(before, now, base.head, chunk=3)
    p, q = (torch.softmax(base.logits(h).double(), -1) for h in (before, now))
    torch.testing.assert_close(found.double(), (p * (p / q).log()).sum(-1), atol=1e-5, rtol=1e-4)
    slope = now.clone().requires_grad_(True)
    logprobs.kl_from_hidden(before, slope, base.head, chunk=3).sum().backward()
    matrix = base.model.get_output_embeddings().weight.double()
    torch.testing.assert_close(slope.grad.double(), (q - p) @ matrix, atol=1e-4, rtol=1e-3)


def test_the_pull_and_replay_each_forget_less(first):
    trees = {}
    base = first.base()
    for name in ("ab",):
        trees[name] = sft.encode(base, list(first.workspace.dataset(name).rows()), base.context)[0]
    loss = {}
    for name, changes in {"plain": {}, "pulled": {"kl_to_start": 3.0}, "replayed": {"replay": ("ab",),
                          "replay_share": 0.5}}.items():
        made = teach(first, "xy", "xy", name=name, after="ab", **changes)
        adapters.load(base, name, made.path)
        sums, tokens = transfer.nats(base, name, trees["ab"])
        loss[name] = sums.sum() / tokens.sum()
    assert loss["pulled"] < loss["plain"] - 0.1 and loss["replayed"] < loss["plain"] - 0.1


def test_a_step_mixes_the_share_it_says():
    settings = SftSettings(data="d", name="n", batch=8, replay=("old",), replay_share=0.25)
    new, old = Shuffled(range(30), settings.seed), Shuffled(range(100, 110), settings.seed + 1)
    seen = [stages.mixed(new, old, step, settings) for step in range(5)]
    assert [sum(x >= 100 for x in step) for step in seen] == [2] * 5
    assert sorted(x for step in seen for x in step if x < 100) == list(range(30))
    assert sorted(x for step in seen for x in step if x >= 100) == list(range(100, 110))
    assert stages.replayed(SftSettings(data="d", name="n", batch=2, replay=("o",), replay_share=0.01)) == 1


@pytest.mark.parametrize("changes", [{"stack": True, "orthogonal": 0.5}, {"kl_to_start": 0.5, "replay": ("ab",)}])
def test_a_stage_resumes_bit_for_bit(first, changes):
    whole = teach(first, "xy", "xy", name="whole", after="ab", **changes)

    class Stop(Exception):
        pass

    def stop(done, total, metrics):
        if done == 5:
            raise Stop

    settings = first.sft(name="cut", data="xy", batch=16, epochs=4, checkpoint_every=2, after="ab", **changes)
    with pytest.raises(Stop):
        sft.train(first.workspace, first.base(), settings, progress=stop)
    run = next(r for r in first.workspace.runs() if r.status == "failed")
    assert weights(sft.train(first.workspace, first.base(), settings, resume=run)) == weights(whole)


def test_the_lineage_names_the_stages_and_own_text_is_the_bases(first):
    teach(first, "xy", "xy", after="ab")
    assert [str(a) for a in stages.lineage(first.workspace, first.workspace.adapter("xy"))] == ["ab@1", "xy@1"]
    base = first.base()
    text = stages.own_text(base, count=4, tokens=12)
    assert text == stages.own_text(base, count=4, tokens=12) and len(text) == 4
    adapters.load(base, "xy", first.workspace.adapter("xy").path)
    bare, now = (transfer.nats(base, slot, stages.own_text(base, count=32))[0].sum() for slot in ("", "xy"))
    assert now > bare


@pytest.mark.parametrize(("changes", "message"), [
    ({"stack": True}, "--after"), ({"stack": True, "after": "a", "adapter": "dora"}, "--adapter lora"),
    ({"orthogonal": 1.0}, "--stack"), ({"kl_to_start": 1.0, "adapter": "full"}, "--adapter full"),
    ({"replay": ("a",), "batch": 1}, "--batch 2")])
def test_options_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        SftSettings(data="d", name="n", **changes)


def test_stacking_upon_more_than_plain_lora_is_refused(first):
    teach(first, "xy", "xy", name="ia", adapter="ia3", rank=16, alpha=32)
    with pytest.raises(ModelError, match="LoRA"):
        teach(first, "xy", "xy", name="x", after="ia", stack=True)


def test_the_matrix_of_stages_shows_what_was_forgotten(first):
    model = teach(first, "xy", "xy", after="ab")
    rows = transfer.retention(first.workspace, first.base(), model)
    assert [r.data for r in rows] == ["ab", "xy", transfer.OWN]
    assert all(list(r.loss) == ["base", "ab@1", "xy@1"] for r in rows)
    ab, xy, own = ({name: i.value for name, i in r.loss.items()} for r in rows)
    assert ab["ab@1"] < ab["xy@1"] and xy["xy@1"] < xy["ab@1"] < xy["base"]
    assert own["base"] < own["ab@1"]
