"""Language models that help people: they revise drafts by written principles, and judge answers beside people.

Nothing of it is believed unseen. A revision waits on the review desk, the old text beside it; a judge's preferences
are a dataset of their own, held against what people said of the same answers (`feedback.reliability`), and
`reward --judged` gives them the weight that they have earned there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import judging
from tunesmith.contracts import Sampling
from tunesmith.errors import UserError
from tunesmith.evaluate.checklist import RubricJudge
from tunesmith.evaluate.constitution import Constitution, parse
from tunesmith.evaluate.judges import PairJudge, Told, Verdict, about, play
from tunesmith.evaluate.ledger import Ledger
from tunesmith.evaluate.oversight import AgainstPeople, against_people
from tunesmith.evaluate.revision import REVISION, Revised, Reviser
from tunesmith.evaluate.rubric import parse as parse_rubric
from tunesmith.feedback.groups import merge, pairs, ranked
from tunesmith.feedback.reliability import Reliability, reliability
from tunesmith.records import AnswerGroup, Demonstration, Labeler, Message, Pair, Prompt, fingerprint
from tunesmith.settings.aihelp import JudgeSettings, ReviseSettings
from tunesmith.shop import Shop, counted
from tunesmith.statistics import Interval, wilson
from tunesmith.store import desk
from tunesmith.store.checks import LONGEST, valid_name
from tunesmith.store.project import gold
from tunesmith.store.team import quarantined
from tunesmith.store.verdicts import enlist
from tunesmith.store.workspace import Dataset

ROLE = "judge"


# ---- revisions

@dataclass(frozen=True, slots=True)
class Revisions:
    """What became of some drafts: how many were new on the desk, of each principle how often it was found broken, of
    the revisions why some were not taken, and of critiques how many held no verdict. `unfinished` drafts ran into the
    token limit and are left out."""

    desk: str
    drafts: int
    changed: int
    new: int
    broken: Mapping[str, Interval]
    refused: Mapping[str, int]
    unreadable: Interval
    unfinished: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {"desk": self.desk, "drafts": self.drafts, "changed": self.changed, "new": self.new,
                "unfinished": self.unfinished,
                "broken": {name: found.to_dict() for name, found in self.broken.items()}, "refused": dict(self.refused),
                "unreadable": self.unreadable.to_dict()}


def revise(shop: Shop, settings: ReviseSettings) -> Revisions:
    """Drafts -> those that break a principle written anew, waiting on the desk beside what they were.

    Raises:
        DataError: no constitution, or no rubric.
        NotFound: no such dataset, model or endpoint.
        UserError: a bad name, prompts without a writer, or a rubric that asks questions.
    """
    valid_name(settings.name, "name of a desk")
    constitution = parse(settings.constitution)
    engine, model, made = judging.asked(shop, settings.by)
    rules = RubricJudge(parse_rubric(settings.rules)) if settings.rules else None
    reviser = Reviser(engine, constitution, model, passes=settings.passes, check=settings.check, rules=rules,
                      revision=replace(REVISION, max_tokens=settings.max_tokens))
    drafts = _Drafts(shop, settings)
    header = {"by": made, "constitution": constitution.fingerprint, "passes": settings.passes, "check": settings.check,
              "max_tokens": settings.max_tokens,
              "rules": fingerprint(Path(settings.rules).read_text(encoding="utf-8") if rules else "")}
    ledger = Ledger(shop.workspace.root / "reports" / settings.name / "revisions.jsonl", header)
    known = {row["key"]: Revised.from_dict(row) for row in ledger.rows}
    rows: list[Row] = []
    new = 0
    with shop.progress("revise") as progress:
        for start in range(0, len(drafts.of), settings.batch):
            part = drafts.rows(drafts.of[start:start + settings.batch])
            rows += part
            missing = [row for row in part if row.key not in known]
            found = reviser.revise([row.prompt for row in missing], [row.text for row in missing])
            known |= {row.key: revised for row, revised in zip(missing, found, strict=True)}
            ledger.add({"key": row.key, **known[row.key].to_dict()} for row in missing)
            new += sum(_to_desk(shop, settings, row.draft, known[row.key], constitution, made) for row in part)
            progress(min(start + settings.batch, len(drafts.of)), len(drafts.of), {})
    found = [known[row.key] for row in rows]
    return replace(_summed(settings.name, found, constitution, new), unfinished=drafts.unfinished)


@dataclass(frozen=True, slots=True)
class Row:
    """A draft and what it answers; only prompts know their domain."""

    prompt: Prompt
    draft: Demonstration

    @property
    def text(self) -> str:
        return self.draft.messages[-1].content

    @property
    def key(self) -> str:
        return fingerprint([self.prompt.id, self.prompt.domain, self.text])


class _Drafts:
    """A dataset's demonstrations, or its prompts with an answer by the writer, kept in drafts.jsonl."""

    def __init__(self, shop: Shop, settings: ReviseSettings):
        self.dataset = shop.workspace.dataset(settings.data)
        self.of: list[Any] = list(self.dataset.rows())[:settings.limit or None]
        self.unfinished = 0
        if self.dataset.kind == "demonstrations":
            if settings.writer:
                raise UserError(f"{self.dataset.name} holds demonstrations: their answers are the drafts, without "
                                "--writer")
            return
        if self.dataset.kind != "prompts":
            raise UserError(f"{self.dataset.name} holds {self.dataset.kind}, not demonstrations or prompts")
        if not settings.writer:
            raise UserError(f"{self.dataset.name} holds prompts: name who drafts the answers, such as --writer "
                            f"{settings.by}")
        self.engine, self.model, self.made = judging.asked(shop, settings.writer)
        self.sampling = Sampling(settings.max_tokens, seed=settings.seed)
        self.ledger = Ledger(shop.workspace.root / "reports" / settings.name / "drafts.jsonl", {
            "writer": self.made, "max_tokens": settings.max_tokens, "seed": settings.seed})
        self.known = {row["key"]: row for row in self.ledger.rows}

    def rows(self, part: Sequence[Any]) -> list[Row]:
        """The drafts of some records; those that are empty or unfinished are left out."""
        if self.dataset.kind == "demonstrations":
            return [Row(Prompt(d.messages[:-1]), d) for d in part]
        missing = {p.id: p for p in part if p.id not in self.known}
        written = self.engine.sample([p.messages for p in missing.values()], self.sampling, model=self.model
                                     ) if missing else []
        fresh = [{"key": id, "text": answer.text, "finished": answer.finished}
                 for id, (answer,) in zip(missing, written, strict=True)]
        self.ledger.add(fresh)
        self.known |= {row["key"]: row for row in fresh}
        self.unfinished += sum(not self.known[p.id]["finished"] for p in part)
        return [Row(p, Demonstration((*p.messages, Message("assistant", said["text"])), f"drafted by {self.made}",
                                     self.dataset.licence))
                for p in part if (said := self.known[p.id])["finished"] and said["text"].strip()]


def _to_desk(shop: Shop, settings: ReviseSettings, draft: Demonstration, found: Revised, constitution: Constitution,
             made: str) -> bool:
    """Whether the desk has one more draft."""
    by = made[:LONGEST]
    if found.text == found.draft:
        wanted = settings.unchanged or settings.writer
        return bool(wanted and desk.add(shop.workspace, settings.name, [draft], origin="generated", author=by))
    source = (f"{draft.source + '; ' if draft.source else ''}revised by {made} for {constitution.name} "
              f"{constitution.fingerprint[:8]}: {', '.join(found.principles)}")
    edited = replace(draft, messages=(*draft.messages[:-1], replace(draft.messages[-1], content=found.text)),
                     source=source)
    return desk.suggest(shop.workspace, settings.name, draft, edited, by=by, note=found.note)


def _summed(name: str, found: Sequence[Revised], constitution: Constitution, new: int) -> Revisions:
    steps = [s for r in found for s in r.steps]
    said = {p.name: [s.broken for s in steps if s.principle == p.name and s.broken is not None]
            for p in constitution.principles}
    return Revisions(name, len(found), sum(r.text != r.draft for r in found), new,
                     {name: wilson(sum(map(bool, each)), len(each)) for name, each in said.items() if each},
                     Counter(s.refused for s in steps if s.refused),
                     wilson(sum(s.broken is None for s in steps), len(steps)))


# ---- preferences

@dataclass(frozen=True, slots=True)
class Preferences:
    """A judge's preferences as a dataset, how the judge behaved, and how it stands against people (None where nobody
    judged the same answers)."""

    dataset: Dataset
    judge: str
    groups: int
    behaviour: Mapping[str, Any]
    people: AgainstPeople | None
    reliability: Reliability | None

    def to_dict(self) -> dict[str, Any]:
        return {"dataset": self.dataset.name, "judge": self.judge, "groups": self.groups, "behaviour": self.behaviour,
                "people": self.people.to_dict() if self.people else None,
                "reliability": self.reliability.to_dict() if self.reliability else None}


def judge(shop: Shop, settings: JudgeSettings) -> Preferences:
    """A set's answers -> a language model's preferences among them, every pair in both orders, as a dataset of
    comparisons; and how far people agree with it.

    Raises:
        NotFound: no such set, model or endpoint.
        DataError: no constitution, no rubric, or the judge's name is a labeler's.
        UserError: a judge that gives scores; a bad name, or one that is taken; nothing to judge; no verdict that can
            be read.
    """
    guidelines = parse(settings.constitution).text() if settings.constitution else ""
    who = judging.find(shop, settings.by, asks=settings.asks, guidelines=guidelines)
    if who is None or who.judge is None:
        raise UserError(f'"{settings.by}" is no judge of pairs: give --by model:NAME, endpoint:NAME, checklist: before '
                        "one of them, or a rubric's FILE.toml")
    name = valid_name(settings.name or f"{settings.groups}-judged", "dataset name")
    known = gold(shop.workspace, settings.groups)
    groups = [g for g in shop.workspace.groups(settings.groups) if g.id not in known and len(g.answers) > 1]
    groups = groups[:settings.limit or None]
    places = [(g, i, j) for g in groups for i, j in combinations(range(len(g.answers)), 2)]
    if not places:
        raise UserError(f"{settings.groups} has no group of two or more answers to judge (test questions do not count)")
    labeler = Labeler(who.label[:LONGEST], simulated=True, role=ROLE)
    shop.workspace.database.write(lambda c: enlist(c, labeler))
    reports = shop.workspace.root / "reports"
    # of the set and the judge, not of the name: what was judged once is never asked again
    kept = reports / f"{settings.groups}-judged" / f"verdicts-{fingerprint([who.judge.name, who.of])[:8]}.jsonl"
    taken = (shop.workspace.root / "data" / name).exists()
    asked: PairJudge = _Spent(who.judge.name, name) if taken else who.judge
    with shop.progress("judge") as told:
        verdicts = play([g.prompt for g, _, _ in places], {
            "first": [g.answers[i].text for g, i, _ in places], "second": [g.answers[j].text for g, _, j in places]},
            asked, kept=kept, of=who.of, progress=counted(told, len(places))).all()
    judged = _judged(places, verdicts, labeler.name)
    if not judged:
        said = next((look.reply for v in verdicts for look in v.looks), "")
        raise UserError(f"{who.label} gave no verdict that can be read, but: {said[:160]!r}; use a model that keeps to "
                        "the form asked for")
    dataset = shop.workspace.add_dataset(name, "comparisons", judged, source=f"judged by {who.label}",
                                         skipped={"no verdict that can be read": len(groups) - len(judged)})
    made = _against(shop, settings, dataset, labeler.name, judged, places, verdicts)
    (reports / name).mkdir(exist_ok=True)
    (reports / name / "judge.json").write_text(json.dumps(made.to_dict(), indent=1), encoding="utf-8")
    return made


@dataclass(frozen=True, slots=True)
class _Spent:
    """Stands in for a judge whose dataset is there: what it said may be read again, more cannot become part of it."""

    name: str
    dataset: str

    def compare(self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str],
                progress: Told | None = None) -> list[Verdict]:
        raise UserError(f"there is already a dataset named {self.dataset}, and {self.name} has not judged all of these "
                        "answers; datasets never change, choose another --name (what was judged is not asked again)")


def _judged(places: Sequence[tuple[AnswerGroup, int, int]], verdicts: Sequence[Verdict], labeler: str
            ) -> list[AnswerGroup]:
    """One group per item, with a soft pair for each verdict that could be read."""
    found: dict[str, list[Pair]] = {}
    groups = {g.id: g for g, _, _ in places}
    for (g, i, j), v in zip(places, verdicts, strict=True):
        if v.outcome is not None:
            p = v.outcome if v.p is None else v.p
            found.setdefault(g.id, []).append(Pair(i, j, p) if p >= 0.5 else Pair(j, i, 1 - p))
    out = []
    for id, soft in found.items():
        group = replace(groups[id], tiers=(), pairs=tuple(soft), labels=(), labeler=labeler, shown=(), source="judge",
                        weight=1.0)
        tiers = merge([group])
        out.append(replace(group, tiers=tiers.tiers if tiers else ()))
    return out


def _against(shop: Shop, settings: JudgeSettings, dataset: Dataset, labeler: str, judged: Sequence[AnswerGroup],
             places: Sequence[tuple[AnswerGroup, int, int]], verdicts: Sequence[Verdict]) -> Preferences:
    """The judge beside the people who judged the same set."""
    behaviour = about(verdicts).to_dict()
    people = ranked(shop.workspace.groups(settings.groups), shop.workspace.rankings(settings.groups),
                    without=quarantined(shop.workspace), merged=False)
    if not people:
        return Preferences(dataset, labeler, len(judged), behaviour, None, None)
    shares = _shares(people)
    votes = [shares.get((g.id, i, j), np.nan) for g, i, j in places]
    beside = against_people(verdicts, votes, [g.answers[i].text for g, i, _ in places],
                            [g.answers[j].text for g, _, j in places])
    return Preferences(dataset, labeler, len(judged), behaviour, beside, reliability(people, judged).get(labeler))


def _shares(people: Sequence[AnswerGroup]) -> dict[tuple[str, int, int], float]:
    """The share of votes for answer i over j, of every pair that people compared."""
    cast: dict[tuple[str, int, int], list[float]] = {}
    for g in people:
        for p in pairs(g, "half"):
            i, j, share = (p.better, p.worse, p.p) if p.better < p.worse else (p.worse, p.better, 1 - p.p)
            cast.setdefault((g.id, i, j), []).append(share)
    return {place: float(np.mean(votes)) for place, votes in cast.items()}
