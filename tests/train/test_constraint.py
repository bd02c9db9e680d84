"""Bounds on what is learned: the multipliers end where a hand-made problem says they must, and a run goes on with them
to the bit."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from lab import weights
from scipy.optimize import minimize
from test_resume import Killed, kill_at, newest

from tunesmith import rounds
from tunesmith.errors import DataError, NotFound, SettingsError, UserError
from tunesmith.settings.objective import Also, SubjectTo, also, subject_to
from tunesmith.shop import Shop
from tunesmith.train import ppo
from tunesmith.train.constraint import NOTHING, Bound, Objective, Signal
from tunesmith.train.rollouts import Rollouts

# ---- a problem that can be solved by hand: one prompt, four answers, KL against uniform

REWARD = torch.tensor([1.0, 0.6, 0.3, 0.0], dtype=torch.float64)
COST = torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64)
BETA = 0.3


def bound(sense, value):
    return Bound(Signal("cost", lambda rows, texts: [], ""), SubjectTo("cost", sense, value), unit=1.0)


def ascend(objective, said_A, steps=600, answers=20_000):
    """The policy's exact best response to the multipliers, then a step of the multipliers on answers drawn from it in
    exact proportion; the last policy."""
    for _ in range(steps):
        policy_A = (objective.combine(REWARD, {"cost": said_A}) / BETA).softmax(0)
        counts = (policy_A * answers).round().long()
        objective.learn({"cost": said_A.repeat_interleave(counts)})
    return policy_A


def solved(most):
    """The same problem given to a solver that knows nothing of multipliers."""
    def loss(p):
        return -(p @ REWARD.numpy() - BETA * (p * np.log(p * 4)).sum())

    found = minimize(loss, np.full(4, 0.25), bounds=[(1e-9, 1)] * 4, options={"ftol": 1e-12}, constraints=[
        {"type": "eq", "fun": lambda p: p.sum() - 1}, {"type": "ineq", "fun": lambda p: most - p @ COST.numpy()}])
    assert found.success
    return found.x


@pytest.mark.parametrize("sense", ["<=", ">="])
def test_dual_ascent_ends_at_the_constrained_optimum(sense):
    objective = Objective(bounds=(bound(sense, 0.3 if sense == "<=" else -0.3),), rate=0.2)
    policy_A = ascend(objective, COST if sense == "<=" else -COST)
    best = solved(0.3)
    assert policy_A.numpy() == pytest.approx(best, abs=2e-3)
    assert float(policy_A @ COST) == pytest.approx(0.3, abs=1e-3)
    price = (REWARD[0] - BETA * np.log(best[0]) - (REWARD[3] - BETA * np.log(best[3]))) / (COST[0] - COST[3])
    assert objective.bounds[0].multiplier == pytest.approx(float(price), abs=0.02)  # stationarity, from the solution


def test_a_bound_that_holds_by_itself_costs_nothing():
    objective = Objective(bounds=(bound("<=", 0.9),), rate=0.2)
    objective.bounds[0].multiplier = 3.0
    policy_A = ascend(objective, COST)
    assert objective.bounds[0].multiplier == 0
    assert policy_A.numpy() == pytest.approx((REWARD / BETA).softmax(0).numpy(), abs=1e-6)
    assert policy_A.numpy() == pytest.approx(solved(0.9), abs=2e-3)


def test_the_unit_makes_the_multipliers_move_alike_on_any_scale():
    one, big = (Objective(bounds=(replace(bound("<=", 0.2 * k), unit=0.0),)) for k in (1, 50))
    moved = [o.learn({"cost": torch.tensor([0.0, 1.0, 1.0, float("nan")]) * k})["multiplier_cost"]
             for o, k in ((one, 1), (big, 50))]
    assert moved[0] == pytest.approx(moved[1], rel=1e-5)
    assert moved[0] == pytest.approx(0.5 * (2 / 3 - 0.2) / (2 / 9) ** 0.5, rel=1e-5)


def test_where_nothing_is_said_nothing_is_paid():
    objective = Objective(also=((Signal("tone", lambda rows, texts: [], ""), 0.5),), bounds=(bound(">=", 1.0),))
    objective.bounds[0].multiplier = 2.0
    nan = float("nan")
    said = {"tone": torch.tensor([1.0, nan, 0.0]), "cost": torch.tensor([nan, 0.25, 1.5])}
    assert objective.combine(torch.zeros(3), said).tolist() == pytest.approx([0.5, -1.5, 1.0])
    figures = objective.learn({"tone": said["tone"], "cost": torch.full((2,), nan)})
    assert objective.bounds[0].multiplier == 2.0 and figures["signal_tone"] == 0.5


def test_dividing_by_the_scale_leaves_the_advantages_alone(lab):
    """Rewards and KL coefficient shrink together: what is whitened afterwards is the same."""
    rng = torch.Generator().manual_seed(0)
    table = torch.rand(6, 5, generator=rng)
    mask = torch.arange(5) < torch.tensor([[5], [3], [4], [5], [2], [1]])
    rolled = Rollouts((), torch.ones(6, dtype=torch.bool), 0, mask, -table, -table.flip(0), torch.zeros(6, 5),
                      torch.rand(6, generator=rng))
    said = {"cost": torch.rand(6, generator=rng)}
    priced = Objective(bounds=(replace(bound("<=", 0.1), multiplier=1.5),))
    by_hand = replace(rolled, scores_B=rolled.scores_B - 1.5 * (said["cost"] - 0.1))
    settings = lab.ppo(gamma=1.0, lam=0.9)
    found, _ = ppo.credit(rolled, 0.2, settings, priced, said)
    expected, _ = ppo.credit(by_hand, 0.2, settings)
    assert torch.allclose(found.advantages_BT, expected.advantages_BT, atol=1e-5)
    assert torch.allclose(found.returns_BT * 2.5, expected.returns_BT, atol=1e-5)


@pytest.mark.parametrize("mean,kept", [(0.99, "yes"), (0.5, "no"), (0.905, "unclear")])
def test_the_summary_says_whether_a_bound_is_kept_at_the_end(mean, kept):
    lines = [{"signal_cost": 0.0}] * 5 + [{"signal_cost": mean + 0.02 * (-1) ** n} for n in range(10)]
    found = Objective(bounds=(bound(">=", 0.9),)).summary(lines)["bounds"]["cost"]
    assert found["kept"] == kept and found["found"]["value"] == pytest.approx(mean) and found["bound"] == ">= 0.9"
    mirrored = [{"signal_cost": -line["signal_cost"]} for line in lines]
    assert Objective(bounds=(bound("<=", -0.9),)).summary(mirrored)["bounds"]["cost"]["kept"] == kept
    assert NOTHING.summary(lines) == {}


# ---- whole runs

@pytest.fixture
def bounded(lab, tmp_path):
    """`bounded(command, **changes)`: a run that likes the letter a and must not write two of them in a row."""
    file = tmp_path / "spaced.toml"
    file.write_text('name = "Spaced"\n[[item]]\nnot_contains = "aa"\n')
    shop, first = Shop(lab.workspace, lambda _: nullcontext(None)), lab.workspace.adapter("likes-a")
    files = [f for f in first.path.iterdir() if f.name != "manifest.json"]

    def again(folder):
        for f in files:
            (folder / f.name).write_bytes(f.read_bytes())

    lab.workspace.publish_adapter("likes-b", "reward", first.base, again, {})  # the same taste by another name

    def run(command, progress=None, resume=None, **changes):
        told = replace(shop, progress=lambda _: nullcontext(progress))
        if resume:
            return rounds.resume(told, resume)
        settings = lab.ppo if command == "ppo" else lambda **known: lab.prefer("grpo", **known)
        changes = {"subject_to": (f"{file}>=0.95",), **changes}
        return getattr(rounds, "ppo" if command == "ppo" else "prefer")(told, settings(**changes))

    run.name, run.file = str(file), file
    return run


def lines(lab, adapter):
    return lab.workspace.run(adapter.lineage["run"]).metrics()


@pytest.mark.parametrize("command", ["ppo", "grpo"])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(lab, bounded, command):
    whole = bounded(command, also=("likes-b=0.5",) if command == "ppo" else ())
    prices = [line["multiplier_spaced"] for line in lines(lab, whole)]
    assert max(prices) > 0 and len(set(prices)) > 2
    with pytest.raises(Killed):
        bounded(command, also=("likes-b=0.5",) if command == "ppo" else (), progress=kill_at(3))
    broken = newest(lab)
    again = bounded(command, resume=broken)
    assert weights(again) == weights(whole) and lines(lab, again) == lines(lab, whole)
    summary = lab.workspace.run(broken.id).summary["bounds"]["spaced"]
    assert summary["bound"] == ">= 0.95" and summary["multiplier"] == pytest.approx(prices[-1], abs=1e-4)
    assert again.lineage["parents"].get("signal likes-b") == ("likes-b@1" if command == "ppo" else None)


def test_a_rubric_that_changed_meanwhile_ends_a_resumed_run(lab, bounded):
    with pytest.raises(Killed):
        bounded("grpo", progress=kill_at(3))
    bounded.file.write_text('[[item]]\nnot_contains = "b"\n')
    with pytest.raises(UserError, match="signal spaced has changed"):
        bounded("grpo", resume=newest(lab))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ppo", "grpo"])
def test_the_bound_holds_where_the_reward_alone_breaks_it(lab, bounded, command):
    usual = {"updates": 40, "lr": 1e-2, "warmup": 0.0, "no_eos": "ignore", "kl": 0.02, "checkpoint_every": 100,
             **({"episodes": 48} if command == "ppo" else {"batch": 12, "samples": 6})}
    free = lines(lab, bounded(command, subject_to=(), also=(f"{bounded.name}=0",), **usual))
    held = lines(lab, bounded(command, **usual))
    last = [np.mean([line["signal_spaced"] for line in run[-10:]]) for run in (free, held)]
    assert last[0] < 0.6 and last[1] > 0.9
    reward = [np.mean([line["reward"] for line in run]) for run in (held[:3], held[-10:], free[-10:])]
    assert reward[0] < reward[1] < reward[2]


def test_a_rubric_is_a_reward_of_its_own(lab, bounded):
    adapter = bounded("grpo", subject_to=(), reward="", grader=bounded.name, updates=2)
    assert all(0 <= line["reward"] <= 1 for line in lines(lab, adapter))
    assert adapter.lineage["grader"]["name"] == "Spaced"


@pytest.mark.parametrize("name,error,what", [
    ("nobody", NotFound, r"nobody.*such as nobody\.toml"), ("sft", UserError, "is a policy, not a reward model"),
    ("nowhere.toml", DataError, "no such rubric")])
def test_names_that_say_nothing_of_answers(bounded, name, error, what):
    with pytest.raises(error, match=what):
        bounded("ppo", subject_to=(f"{name}>=0",))


def test_the_judge_of_the_report_does_not_train(lab):
    shop = Shop(lab.workspace, lambda _: nullcontext(None), judges={"loan-desk": lambda: None})
    with pytest.raises(UserError, match="training must not read it"):
        rounds.ppo(shop, lab.ppo(also=("loan-desk=1",)))


# ---- how they are written

def test_weights_and_bounds_are_read():
    assert also(["tone.toml=0.3", "brief = -1e-2"]) == (Also("tone.toml", 0.3), Also("brief", -0.01))
    assert subject_to(["a/b.toml>=.95", "cost@2 <= -3"]) == (SubjectTo("a/b.toml", ">=", 0.95),
                                                             SubjectTo("cost@2", "<=", -3.0))


@pytest.mark.parametrize("changes,what", [
    ({"also": ("tone.toml",)}, "NAME=WEIGHT"), ({"subject_to": ("tone.toml>0.9",)}, "NAME>=BOUND"),
    ({"subject_to": ("tone.toml>=much",)}, "NAME>=BOUND"), ({"also": ("x=1",), "subject_to": ("x>=0",)}, "twice"),
    ({"also": ("likes-a=1",)}, "what training maximises"), ({"asks": "endpoint:big"}, "questions of a rubric")])
def test_what_cannot_be_meant_is_refused(lab, changes, what):
    for settings in (lab.ppo, lambda **known: lab.prefer("grpo", **known)):
        with pytest.raises(SettingsError, match=what):
            settings(**changes)


@pytest.mark.parametrize("share", [1 / 3, 0.5, 0.6, 0.9])
def test_answers_that_are_all_alike_set_no_price_and_no_unit(share):
    objective = Objective(bounds=(replace(bound(">=", 0.95), unit=0.0),))
    for _ in range(3):
        assert objective.learn({"cost": torch.full((64,), share)})["multiplier_cost"] == 0
    said = torch.full((64,), share)
    said[0] = 1.0
    assert 0 < objective.learn({"cost": said})["multiplier_cost"] < 10 and objective.bounds[0].unit > 0.01
