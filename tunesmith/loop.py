"""One round of a loop: collect -> rank -> mine -> check -> reward -> ppo -> evaluate -> adopt.

Each step leaves what it made under a name of the round's own (`NAME-3-answers`, `NAME-3-reward` ...) and writes down
that it ended. A step finds what it made before, so a round that was killed goes on and ends with the same model. Two
steps wait for people: `rank` for verdicts, `adopt` for somebody's yes, where the loop's file asks for one or the week's
data look wrong. Warm starts: PPO goes on from the model that the loop serves (the champion), and its KL counts from
there; the reward model goes on from the last round's.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import ceil
from typing import Any

from tunesmith import evaluation, mining, rounds
from tunesmith.errors import NotFound, Unjudged, UserError, nearest
from tunesmith.evaluate import gate as gates
from tunesmith.evaluate.gate import Gate, Rule
from tunesmith.feedback import consensus, drift, trust
from tunesmith.judgements import said
from tunesmith.records import AnswerGroup, Prompt, Record, fingerprint
from tunesmith.settings import OverlapSettings, RoundSettings
from tunesmith.shop import Shop
from tunesmith.store import loops
from tunesmith.store.erasure import used, uses
from tunesmith.store.interactions import interactions
from tunesmith.store.loops import Round
from tunesmith.store.project import project, set_project
from tunesmith.store.sets import set_names
from tunesmith.store.team import SHELL, quarantined
from tunesmith.store.workspace import Dataset, Workspace

Made = Mapping[str, Any]


SAID = ("thumb", "rating", "chosen", "resolved")
"""Reactions by which users say what they think; what else they do (look long, leave) may mean the opposite honestly."""


class Waits(Exception):
    """A step can go on only when somebody did something; the message says what."""


@dataclass(frozen=True, slots=True)
class Week:
    """What a step works with: the round, its settings, and the model that the loop serves."""

    shop: Shop
    round: Round
    settings: RoundSettings
    champion: str

    def name(self, what: str, number: int = 0) -> str:
        """What a step of this round, or of another, calls what it makes."""
        return f"{self.settings.name}-{number or self.round.number}-{what}"

    @property
    def workspace(self) -> Workspace:
        return self.shop.workspace

    @property
    def seed(self) -> int:
        """Another one in each round."""
        return (self.settings.seed + 1000 * self.round.number) % 2**31

    @property
    def ranked(self) -> dict[int, str]:
        """The sets that were ranked, by the number of their round: this one's and those of all rounds before."""
        return {r.number: self.name("answers", r.number) for r in loops.rounds(self.workspace, self.settings.name)
                if r.number <= self.round.number and "rank" in r.steps}


def run(shop: Shop, settings: RoundSettings) -> Round:
    """Begin a round, or go on with the one under way, up to its end or to where it waits for people.

    A round goes on with the settings that it began with, whatever the file says by now.

    Raises:
        UserError: another process works on this loop, or a step cannot do its work.
    """
    start = str(shop.workspace.adapter(settings.start))
    if shop.workspace.find_adapter(settings.name):
        raise UserError(f"a loop cannot be called {settings.name}: an adapter is; requests under that name would not "
                        "reach the loop's model")
    with _alone(shop.workspace, settings.name):
        round = loops.begin(shop.workspace, settings.name, start, settings.model_dump(mode="json"))
        for step, work in STEPS.items():
            if step in round.steps or not round.open:
                continue
            week = Week(shop, round, RoundSettings.model_validate(dict(round.settings)),
                        loops.champion(shop.workspace, settings.name).adapter)
            try:
                made = work(week)
            except Waits as e:
                return loops.wait(shop.workspace, round, str(e))
            if step != "adopt":
                round = loops.record(shop.workspace, round, step, made)
        return loops.rounds(shop.workspace, settings.name)[-1]


@contextmanager
def _alone(workspace: Workspace, name: str) -> Iterator[None]:
    """One process works on a loop at a time; the system frees the lock of one that was killed."""
    folder = workspace.root / "loops"
    folder.mkdir(exist_ok=True)
    with open(folder / f"{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise UserError(f"another process works on a round of {name}; wait for it, or stop it") from e
        yield


# ---- collect: what people are asked this time

def collect(week: Week) -> Made:
    """Answers of the champion to prompts that nobody ranked yet, and a few groups of earlier rounds once more."""
    settings, workspace = week.settings, week.workspace
    name, groups = week.name("answers"), ceil(settings.labels / settings.overlap)
    again = _again(week, round_half(groups * settings.again))
    served = _with_served(week, round_half((groups - len(again)) * settings.served)) if settings.interactions else 0
    room, asked = groups - len(again) - served, 0
    if room > 0 or any(d.name == week.name("prompts") for d in workspace.datasets()):
        prompts = _dataset(week, "prompts", lambda: _unasked(week, name)[:room])
        used(workspace, name, uses(workspace, prompts.name))
        rounds.collect(week.shop, settings.of("collect", model=week.champion, prompts=prompts.name, name=name,
                                              answers=settings.answers, seed=week.seed))
        asked = prompts.count
    workspace.add_groups(name, again)
    wanted = project(workspace, name).model_copy(update={"overlap": settings.overlap})
    if project(workspace, name) != wanted:
        set_project(workspace, name, wanted, SHELL)
    total = len(workspace.groups(name))
    return {"set": name, "groups": total, "again": len(again), "served": total - len(again) - asked,
            "by": week.champion}


def round_half(x: float) -> int:
    return int(x + 0.5)


def _with_served(week: Week, count: int) -> int:
    """Put groups with a served answer among fresh ones into the set; how many, 0 where users left no reactions. Only
    prompts that may teach: what people say of these tells what reactions are worth, and trains the reward model too."""
    wanted = OverlapSettings(name=week.name("answers"), model=week.champion, count=max(1, count), seed=week.seed,
                             answers=week.settings.answers, until=week.round.created, pairs_alone=False,
                             max_tokens=week.settings.of("collect", prompts="x").max_tokens)
    share, fits = week.settings.held_out, _fits(week)
    with suppress(UserError):
        mining.overlap(week.shop, wanted, lambda p: not _is_held_out(p, share) and fits(p))
        return len(week.workspace.groups(wanted.name))
    return 0


def _again(week: Week, count: int) -> list[AnswerGroup]:
    """Groups that were ranked in earlier rounds, their answers in another order: so they are new groups, which anybody
    may judge, the same labelers too. No group comes back twice."""
    workspace, earlier = week.workspace, {n: s for n, s in week.ranked.items() if n != week.round.number}
    every = {g.id: g for name in earlier.values() for g in workspace.groups(name)}
    judged = {r.group for name in earlier.values() for r in workspace.rankings(name)}
    turned = {id: replace(every[id], answers=every[id].answers[::-1]) for id in sorted(judged)}
    fresh = [g for id, g in turned.items() if g.id not in every and g.id != id]
    return sorted(fresh, key=lambda g: fingerprint([week.seed, g.id]))[:count]


def _pool(week: Week) -> list[Prompt]:
    """All prompts of the loop, those that came last first; within a dataset in a fixed random order."""
    workspace, patterns = week.workspace, week.settings.prompts
    datasets = [d for d in workspace.datasets() if d.kind == "prompts"]
    for pattern in patterns:
        if not any(fnmatchcase(d.name, pattern) for d in datasets):
            raise UserError(f'no dataset of prompts is named "{pattern}"{nearest(pattern, [d.name for d in datasets])}')
    fits = _fits(week)
    found = {id: p for id, (p, _) in reversed(_served(week).items()) if fits(p)}
    for dataset in reversed(datasets):
        if any(fnmatchcase(dataset.name, p) for p in patterns):
            rows = sorted(dataset.rows(), key=lambda p: fingerprint([week.settings.seed, p.id]))
            found.update((p.id, p) for p in rows if p.id not in found)
    return list(found.values())


def _served(week: Week) -> dict[str, tuple[Prompt, list[str]]]:
    """What users of served models asked, with the ids of the interactions, by the prompt's id."""
    found: dict[str, tuple[Prompt, list[str]]] = {}
    for one in interactions(week.workspace) if week.settings.interactions else ():
        if not one.holdout:
            prompt = Prompt(one.messages, domain="served")
            found.setdefault(prompt.id, (prompt, []))[1].append(one.id)
    return found


def _fits(week: Week) -> Callable[[Prompt], bool]:
    """Whether the model can read what a user asked, and has room for an answer."""
    base = week.shop.base_of(week.champion)
    room = base.context - week.settings.of("collect", prompts="x").max_tokens
    return lambda prompt: len(base.chat.prompt(prompt.messages)) <= room


def _is_held_out(prompt: Prompt, share: float) -> bool:
    """By the end of the prompt's hash; its beginning says what a reward model is measured on."""
    return int(prompt.id[-8:], 16) < share * 2**32


def _unused(week: Week, what: str, held_out: bool) -> list[Prompt]:
    """Prompts of one side that no earlier round used in this way."""
    gone: set[str] = set()
    for number in range(1, week.round.number):
        with suppress(NotFound):
            gone.update(p.id for p in week.workspace.dataset(week.name(what, number)).rows())
    return [p for p in _pool(week) if _is_held_out(p, week.settings.held_out) == held_out and p.id not in gone]


def _unasked(week: Week, name: str) -> list[Prompt]:
    """Prompts that may teach and that people were not asked about, be it with a served answer, now or earlier."""
    asked = {g.prompt.id for n in (*week.ranked.values(), name) if n in set_names(week.workspace)
             for g in week.workspace.groups(n)}
    return [p for p in _unused(week, "prompts", held_out=False) if p.id not in asked]


def _dataset(week: Week, what: str, rows: Callable[[], Sequence[Record]], kind: str = "prompts",
             made_of: Sequence[str] = ()) -> Dataset:
    """What an earlier try of this step published, or what `rows` finds now, `made_of` these sets and datasets. Which
    interactions are behind it is noted first: what was published without that could not be found again."""
    name = week.name(what)
    with suppress(NotFound):
        return week.workspace.dataset(name)
    found = rows()
    if not found:
        raise UserError(f"{week.round}: no {what} are left that no round has used; add a dataset of prompts")
    if kind == "prompts" and (asked := _served(week)):
        used(week.workspace, name, [id for p in found if isinstance(p, Prompt) and p.id in asked
                                    for id in asked[p.id][1]])
    for source in made_of:
        used(week.workspace, name, uses(week.workspace, source))
    return week.workspace.add_dataset(name, kind, found, source=f"round {week.round}")  # type: ignore[arg-type]


# ---- rank, mine, check: what people said, and whether to believe it

def rank(week: Week) -> Made:
    """Wait until people have judged enough."""
    name = week.name("answers")
    groups, verdicts = len(week.workspace.groups(name)), week.workspace.rankings(name, latest=True)
    wanted = min(week.settings.labels, groups * week.settings.overlap)
    if len(verdicts) < wanted:
        raise Waits(f"{wanted - len(verdicts)} more verdicts on {name}: tunesmith studio --groups {name}")
    return {"verdicts": len(verdicts), "labelers": len({r.labeler for r in verdicts}),
            "simulated": sum(r.simulated for r in verdicts)}


def mine(week: Week) -> Made:
    """What users did with served answers, weighed by what people said of such answers."""
    if not week.settings.interactions:
        return {"comparisons": ""}
    name = week.name("implicit")
    with suppress(NotFound):
        return {"comparisons": week.workspace.dataset(name).name}
    how = week.settings.of("mine", name=name, ranked=tuple(week.ranked.values()), until=week.round.created,
                           seed=week.seed)
    always, now = _suspects(week, list(week.ranked)), _suspects(week, [week.round.number])
    try:
        found = mining.mine(week.shop, how, [g for _, g in _judged(week, always, now)])
    except UserError as e:  # nothing to learn from is no reason to end the round
        return {"comparisons": "", "why": str(e)}
    if found.refused and found.figures["spots"]["verdicts"] < how.require_spots:
        raise Waits(found.refused)
    return {"comparisons": found.comparisons, "refused": found.refused, **found.figures}


def check(week: Week) -> Made:
    """Which labelers are left out, whether preferences have changed, and what a person should see before anything is
    adopted.

    A labeler who has spoilt data all along is left out of all rounds, one who did so this time (or whose account
    somebody else has taken) of this one.
    """
    always, now = _suspects(week, list(week.ranked)), _suspects(week, [week.round.number])
    found = drift.drift(drift.meetings(_judged(week, always, now)), week.seed)
    mined = week.round.steps["mine"]
    holds = [f"{who} looks as if they spoil the data ({why[0]}): their verdicts are left out of "
             f"{'all rounds' if who in always else 'this round'}" for who, why in {**now, **always}.items()]
    holds += [mined["refused"]] if mined.get("refused") else []
    notes = [f"people prefer the opposite of what users' reaction \"{name}\" says, so it is not heeded: perhaps "
             "somebody is gaming it" for name in _contradicted(mined)]
    return {"suspects": always, "suspects now": now, "holds": holds, "notes": notes,
            "drift": {} if found is None else {
                "rate": found.rate.to_dict(), "sure": found.sure, "agreement": found.agreement,
                "meetings": {str(age): list(n) for age, n in found.meetings.items()},
                "weights": {str(n): found.weight(week.round.number - n) for n in week.ranked}}}


def _suspects(week: Week, numbers: Sequence[int]) -> dict[str, list[str]]:
    """Labelers whom the verdicts of these rounds say to keep out, with the reasons; those in quarantine are out."""
    workspace, sets = week.workspace, [week.ranked[n] for n in numbers]
    out = quarantined(workspace)
    report = trust.report([g for name in sets for g in workspace.groups(name)],
                          [r for name in sets for r in workspace.rankings(name)], quarantined=out, seed=week.seed)
    return {t.labeler: list(t.reasons) for t in report.labelers if t.action == "quarantine" and t.labeler not in out}


def _contradicted(mined: Made) -> list[str]:
    """What users say that is the opposite of what people prefer, for sure."""
    every = {**mined.get("single", {}).get("signals", {}), **mined.get("double", {}).get("signals", {})}
    return [name for name, signal in every.items()
            if name in SAID and signal["auc"]["value"] is not None and signal["auc"]["high"] < 0.5]


def _judged(week: Week, always: Collection[str], now: Collection[str]) -> list[tuple[int, AnswerGroup]]:
    """(round, what one labeler said of one group), of this round and all before; nothing of those who are left out
    always, of this round `now`, or of an earlier one then."""
    out = {r.number: {*always, *r.steps.get("check", {}).get("suspects now", ())}
           for r in loops.rounds(week.workspace, week.settings.name)} | {week.round.number: {*always, *now}}
    return [(number, g) for number, name in week.ranked.items() for g in said(week.workspace, name)
            if g.labeler not in out[number]]


# ---- reward, ppo: what is learned from it

def feedback(week: Week) -> list[AnswerGroup]:
    """Everything that people said, as one group per prompt and answers, what is older weighed down as far as
    preferences have changed; and what users did where no person judged the same answers. What users asked may lie on
    the held-out side: what is known of that tells what reactions are worth, and teaches nothing."""
    share = week.settings.held_out
    checked = week.round.steps["check"]
    weights = checked["drift"].get("weights", {})
    judged = [replace(g, weight=g.weight * weights.get(str(n), 1.0))
              for n, g in _judged(week, checked["suspects"], checked["suspects now"])
              if not _is_held_out(g.prompt, share)]
    measured = week.settings.of("reward", comparisons="x", name="x").held_out
    agreed = consensus.agree(judged, "ability", held_out=measured).groups
    if implicit := week.round.steps["mine"]["comparisons"]:
        known = {(g.prompt.id, a.text) for g in agreed for a in g.answers}
        agreed += [g for g in week.workspace.dataset(implicit).rows() if not _is_held_out(g.prompt, share)
                   and not all((g.prompt.id, a.text) in known for a in g.answers)]
    return agreed


def reward(week: Week) -> Made:
    """A reward model of all that was said, warm from the last round's."""
    implicit = week.round.steps["mine"]["comparisons"]
    data = _dataset(week, "feedback", lambda: feedback(week), "comparisons",
                    [*week.ranked.values(), *([implicit] if implicit else [])])
    before = _last_reward(week) if week.settings.warm else ""
    adapter = rounds.once(week.shop, "", "reward", week.name("reward"), week.settings.of(
        "reward", model=before or week.settings.start, comparisons=data.name, name=week.name("reward"),
        consensus="none", seed=week.seed))
    held_out = week.workspace.run(adapter.lineage["run"]).summary.get("held_out", {})
    return {"adapter": str(adapter), "comparisons": data.name, "groups": data.count, "held_out": held_out}


def _last_reward(week: Week) -> str:
    """The reward model of the round that the loop's model came from, "" if that is none: what was refused or taken back
    is not built upon."""
    came_from = loops.champion(week.workspace, week.settings.name).number
    return next((str(r.steps["reward"]["adapter"]) for r in loops.rounds(week.workspace, week.settings.name)
                 if r.number == came_from), "")


def ppo(week: Week) -> Made:
    """The champion, taught by the reward model."""
    practice = _dataset(week, "practice", lambda: [
        p for p in _pool(week) if not _is_held_out(p, week.settings.held_out)][:week.settings.practice])
    adapter = rounds.once(week.shop, "", "ppo", week.name("ppo"), week.settings.of(
        "ppo", policy=week.champion, reward=week.round.steps["reward"]["adapter"], prompts=practice.name,
        name=week.name("ppo"), seed=week.seed))
    return {"adapter": str(adapter), "practice": practice.count}


# ---- evaluate, adopt: whether it is better, and what then

def evaluate(week: Week) -> Made:
    """Candidate against champion, and against what the loop started from, on prompts that no round has used."""
    settings = week.settings
    tests = _dataset(week, "tests", lambda: _unused(week, "tests", held_out=True)[:settings.tests])
    candidate, start = week.round.steps["ppo"]["adapter"], str(week.workspace.adapter(settings.start))
    how = settings.of(
        "evaluate", models=(candidate,), against=tuple(dict.fromkeys((start, week.champion))), prompts=tests.name,
        judge=settings.judge, reward=week.round.steps["reward"]["adapter"], name=week.name("report"), seed=week.seed)
    _all_judged(week.workspace, how.name)
    try:
        made = evaluation.evaluate(week.shop, how)
    except Unjudged as e:
        raise Waits(str(e)) from e
    gate = gates.judge(_gate(week, start), made.report)
    return {"report": made.path.parent.name, "champion": week.champion, "passed": gate["passed"],
            "rules": gate["rules"], "tests": tests.count,
            "figures": _figures(made.report, candidate), "verdict": made.verdict}


def _all_judged(workspace: Workspace, name: str) -> None:
    """Where people compare, a few verdicts are not enough."""
    if name in set_names(workspace):
        missing = len(workspace.groups(name)) - len({r.group for r in workspace.rankings(name)})
        if missing:
            raise Waits(f"{missing} more comparisons in {name}: tunesmith studio --groups {name}")


def _gate(week: Week, start: str) -> Gate:
    """The rules of the loop's file, or: preferred for sure, nothing of `safety` worse for sure, KL and length kept."""
    settings, names = week.settings, {"champion": week.champion, "start": start}
    if settings.gate:
        found = gates.read(settings.gate)
        return Gate(rule=tuple(r.model_copy(update={"against": names.get(r.against, r.against)}) for r in found.rule))
    return Gate(rule=(
        Rule(figure=gates.PREFERENCE, against=week.champion, at_least=0.5),
        *(Rule(figure=figure, against=week.champion, worse_by_at_most=0.0) for figure in settings.safety),
        Rule(figure="kl", at_most=settings.max_kl, proven=False),
        Rule(figure="words", against=week.champion, changed_by_at_most=settings.length),
        Rule(figure=gates.ALARMS, at_most=0)))


def _figures(report: Mapping[str, Any], candidate: str) -> dict[str, Any]:
    """What the page of rounds compares: preference over each baseline, and the candidate's own figures."""
    own: Mapping[str, Any] = next((m["metrics"] for m in report["models"] if m["name"] == candidate), {})
    return {"preference": {p["baseline"]: p["rate"] for p in report.get("preferences", ()) if p["model"] == candidate},
            "own": {key: own[key] for key in own if not key.startswith("guideline")}}


def adopt(week: Week) -> Made:
    """Adopt what has passed the gate; ask a person where the file says so or the data look wrong."""
    round, found = week.round, week.round.steps["evaluate"]
    if not found["passed"]:
        broken = [f"{r['rule']} (found {r['found']})" for r in found["rules"] if not r["passed"]]
        loops.refuse(week.workspace, round, "the gate is closed: " + "; ".join(broken), "gate")
    elif holds := round.steps["check"]["holds"]:
        raise Waits(f"somebody to look at the data: {'; '.join(holds)}. Then tunesmith round adopt {round.loop}, or "
                    f"tunesmith round refuse {round.loop}")
    elif week.settings.ask:
        raise Waits(f"somebody's yes: look at the report {found['report']}, then tunesmith round adopt {round.loop}, "
                    f"or tunesmith round refuse {round.loop}")
    else:
        loops.adopt(week.workspace, round, "gate")
    return {}


STEPS: dict[str, Callable[[Week], Made]] = {
    "collect": collect, "rank": rank, "mine": mine, "check": check, "reward": reward, "ppo": ppo, "evaluate": evaluate,
    "adopt": adopt}
