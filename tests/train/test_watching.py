"""Runs with the monitors that their settings ask for: what they log, keep and refuse, also after a kill."""

from contextlib import contextmanager, nullcontext

import pytest
from lab import ask, ranked_groups, weights

from tunesmith import rounds
from tunesmith.errors import NotFound, SettingsError, UserError
from tunesmith.evaluate.canaries import CANARIES
from tunesmith.records import Prompt
from tunesmith.shop import Judge, Shop
from tunesmith.watching import check_independent, monitor


class LikesB:
    """A judge from outside: the share of the letter b."""

    def score(self, prompt, answers):
        return [a.count("b") / max(1, len(a)) for a in answers]


class Killed(Exception):
    pass


@pytest.fixture
def shop(lab):
    lab.workspace.add_dataset("held", "prompts", [Prompt(ask(i)) for i in range(30, 60)])  # 30 to 39 train too
    return Shop(lab.workspace, lambda title: nullcontext(lambda *_: None), {}, {"b": lambda: Judge("b", LikesB())})


def killing(shop, step):
    @contextmanager
    def progress(title):
        def told(done, total, metrics):
            if done == step:
                raise Killed
        yield told

    return Shop(shop.workspace, progress, shop.bases, shop.judges)


def run_of(shop, adapter):
    return shop.workspace.run(adapter.lineage["run"])


GOLD = {"gold": "b", "gold_prompts": "held", "gold_every": 2}


@pytest.mark.parametrize("command", ["ppo", "prefer"])
def test_a_watched_run_logs_every_canary_and_gold_and_resumes_to_the_same_bits(lab, shop, command):
    settings = lab.ppo(lr=2e-2, **GOLD) if command == "ppo" else lab.prefer("grpo", lr=2e-2, **GOLD)
    step = getattr(rounds, command)
    whole = step(shop, settings)
    lines, summary = run_of(shop, whole).metrics(), run_of(shop, whole).summary
    assert {f"watch_{c.name}" for c in CANARIES} <= set(lines[0]) and "disagreement_ratio" not in lines[0]
    assert [m["step"] for m in lines if "gold" in m] == [2, 4] and all(m["alarms"] >= 0 for m in lines)
    looks = [summary["start"]["gold"], *(m["gold"] for m in lines if "gold" in m)]
    assert summary["best_step"] == 2 * looks.index(max(looks)) == lines[-1]["gold_best_step"]
    with pytest.raises(Killed):
        step(killing(shop, 3), settings)
    broken = max(shop.workspace.runs(), key=lambda r: r.created)
    again = rounds.resume(shop, broken)
    assert weights(again) == weights(whole) and run_of(shop, again).metrics() == lines
    assert {k: run_of(shop, again).summary[k] for k in ("alarms", "start", "best_step")} == {
        k: summary[k] for k in ("alarms", "start", "best_step")}


def test_gold_must_be_independent_of_the_reward(lab, shop):
    """One set of verdicts split between two reward models is fine; a shared one is not, and neither is the reward."""
    rows = [[*ranked_groups(12, seed=s)] for s in (5, 6)]
    for name, part in (("one", rows[0]), ("two", rows[1]), ("both", [*rows[0], *rows[1][:2]])):
        lab.workspace.add_dataset(name, "comparisons", part)
        rounds.reward(shop, lab.reward(comparisons=name, name=f"rm-{name}", epochs=0.4))
    one, two, both = (lab.workspace.adapter(f"rm-{n}") for n in ("one", "two", "both"))
    check_independent(lab.workspace, one, two)
    with pytest.raises(UserError, match="learned from 12 of the same verdicts"):
        check_independent(lab.workspace, both, one)
    with pytest.raises(UserError, match="what training maximises"):
        check_independent(lab.workspace, one, one)
    base = lab.base()
    assert monitor(shop, base, lab.ppo(reward="rm-one", **{**GOLD, "gold": "rm-two"}))
    with pytest.raises(UserError, match="of the same verdicts"):
        rounds.ppo(shop, lab.ppo(reward="rm-one", **{**GOLD, "gold": "rm-both"}))
    with pytest.raises(NotFound, match='no gold judge "rm-three"'):
        monitor(shop, base, lab.ppo(**{**GOLD, "gold": "rm-three"}))


def test_a_reward_model_as_gold_lives_beside_the_run_and_changes_no_bit_of_it(lab, shop):
    lab.workspace.add_dataset("other", "comparisons", ranked_groups(12, seed=8))
    rounds.reward(shop, lab.reward(comparisons="other", name="rm-other", epochs=0.4))
    seen = rounds.ppo(shop, lab.ppo(**{**GOLD, "gold": "rm-other"}))
    unseen = rounds.ppo(shop, lab.ppo(watch=False))
    lines = [[{k: m[k] for k in ("reward", "kl", "loss", "value_loss", "grad_norm") if k in m} for m in
              run_of(shop, a).metrics()] for a in (seen, unseen)]
    assert lines[0] == lines[1] and len(lines[0][0]) >= 3
    assert "alarms" not in run_of(shop, unseen).summary
    assert monitor(shop, lab.base(), lab.ppo(watch=False)) is None


def test_settings_that_cannot_be_meant_are_refused(lab):
    for changes, says in (({"gold": "b"}, "go together"), ({"gold_prompts": "held"}, "go together"),
                          ({"gold": "likes-a", "gold_prompts": "held"}, "is what training maximises")):
        with pytest.raises(SettingsError, match=says):
            lab.ppo(**changes)
        with pytest.raises(SettingsError, match=says):
            lab.prefer("grpo", **changes)
    with pytest.raises(SettingsError, match="no KL to measure"):
        lab.prefer("grpo", kl=0.0, max_kl=1.0)
    with pytest.raises(SettingsError, match="--gold is for"):
        lab.prefer("dpo", gold="b", gold_prompts="held")


def test_too_much_kl_stops_the_group_methods_too(lab, shop):
    made = rounds.prefer(shop, lab.prefer("rloo", lr=3e-2, kl=0.01, max_kl=0.05))
    summary = run_of(shop, made).summary
    assert summary["stopped_by"].endswith("passed max_kl") and summary["alarms"][-1]["text"] == summary["stopped_by"]
