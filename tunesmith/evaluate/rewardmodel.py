"""A reward model on the bench: is it right, for whom, how sure may it be, and what does it fall for?

    section, alarms = report("taste", scorer, held_out_groups, subsets=read_subsets("rewardbench.jsonl"))

Right: accuracy on strict pairs that it has not learned from, by domain and by labeler, and calibration. Fall for: the
same answer is scored again after a change that does not make it better (padding, bullets, flattery, a confident tone,
another name in it), and the difference is told in units of the scores' spread among the answers of a prompt, so that
0.5 means half of what usually separates answers. A pair's answers stand in an order that does not know which was
preferred. The changes are in `probes`.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from tunesmith import statistics
from tunesmith.contracts import Scorer
from tunesmith.errors import DataError, UserError
from tunesmith.evaluate.probes import PROBES, SPEAKERS, Probe, swapped
from tunesmith.evaluate.suite import Section
from tunesmith.feedback.groups import pairs
from tunesmith.records import Answer, AnswerGroup, Message, Pair, Prompt, conversation, fingerprint
from tunesmith.statistics import Floats, Interval, bootstrap_mean, bootstrap_ratio, wilson

FEWEST = 20
"""Groups that a domain or a labeler needs for a row of its own."""
PROBED = 100
"""Groups that are scored again for each probe."""
PULL = 0.3
"""A change that adds nothing and surely gains more than this much of the spread raises an alarm."""
SPREAD = 0.2
"""So does the order of the answers, or who is speaking, if it surely moves scores by more than this."""


# ---- the report

@dataclass(frozen=True, slots=True)
class Subsets:
    """Pairs of a benchmark by subset: RewardBench's, or any of that form."""

    name: str
    groups: Mapping[str, Sequence[AnswerGroup]]


def report(name: str, scorer: Scorer, groups: Sequence[AnswerGroup], *, scale: float = 1.0,
           subsets: Subsets | None = None, probes: Sequence[Probe] = PROBES, probed: int = PROBED,
           title: str = "Reward model", seed: int = 0) -> tuple[Section, list[dict[str, str]]]:
    """A section for the report, and its alarms.

    Args:
        name: of the reward model.
        groups: judged groups that it has not learned from, one per ranking or merged (`feedback.groups.ranked`).
        scale: scores per log-odds: a reward model's `head.gain`; for calibration.
        probed: how many groups are scored again for each probe.

    Raises:
        UserError: no group with a preference in it.
    """
    judged = _scored([g for g in groups if any(p.p != 0.5 for p in pairs(g))], scorer)
    if not judged:
        raise UserError(f"no held-out comparison to measure {name} on; keep more with --held-out")
    rows = [_row("accuracy", "Prefers what people prefer", _accuracy(judged, seed), chance=0.5, headline=True,
                 help="pairs of held-out prompts on which people were not divided"),
            *_by("domain", judged, lambda s: [s.group.prompt.domain or "(none)"], seed),
            *_by("labeler", judged, lambda s: s.group.labeler.split(",") if s.group.labeler else ["(unnamed)"], seed)]
    fit, notes = _calibration(judged, scale), []
    rows.append(_row("calibration_error", "Calibration error", Interval(fit.ece, fit.ece, fit.ece, fit.n),
                     better="lower", help="how far announced probabilities are from what happens"))
    once = list({s.group.id: s for s in judged}.values())  # several people judged the same answers
    alone, alarms = _sensitivity(once[:probed], scorer, probes, seed)
    rows += alone
    if subsets:
        rows += _subsets(subsets, scorer, seed)
        notes.append(f"{subsets.name}: mean over subsets, each of the same weight.")
    width = _spread(once)
    notes.append(f"Sensitivity is in units of the spread of scores among a prompt's answers ({width:.3g}).")
    told = [{**row, "models": {name: row["models"].to_dict()}} for row in rows]
    section = Section(name="reward_model", title=title, source="your comparisons and probes of ours",
                      about="Is the reward right, for everybody, and can it be gained without being better?",
                      items=len(judged), of=len(groups), rows=told, samples=[], notes=notes)
    return section, [{"text": f"{name}: {text}", "where": "reward model"} for text in alarms]


@dataclass(frozen=True, slots=True)
class _Scored:
    """A group with the model's scores, and its strict pairs."""

    group: AnswerGroup
    scores: Floats
    strict: tuple[Pair, ...]

    @property
    def right(self) -> float:
        """How many strict pairs the scores order as people do; equal scores half."""
        return float(sum(0.5 if self.scores[p.better] == self.scores[p.worse] else
                         self.scores[p.better] > self.scores[p.worse] for p in self.strict))


def _scored(groups: Sequence[AnswerGroup], scorer: Scorer) -> list[_Scored]:
    """Groups with their scores; the same answers are scored once, however many people judged them."""
    known: dict[str, Floats] = {}
    out = []
    for group in groups:
        if group.id not in known:
            known[group.id] = np.array(scorer.score(group.prompt, [a.text for a in group.answers]), dtype=float)
        strict = [p if p.p > 0.5 else replace(p, better=p.worse, worse=p.better, p=1 - p.p)
                  for p in pairs(group) if p.p != 0.5]
        out.append(_Scored(group, known[group.id], tuple(strict)))
    return out


def _accuracy(judged: Sequence[_Scored], seed: int) -> Interval:
    """Share of pairs; bootstrap over prompts, Wilson's where all or none are right."""
    by_prompt: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for s in judged:
        by_prompt[s.group.prompt.id][0] += s.right
        by_prompt[s.group.prompt.id][1] += len(s.strict)
    right, count = np.array(list(by_prompt.values())).T
    share = right.sum() / count.sum()
    if share in (0.0, 1.0) or len(right) < FEWEST:
        return wilson(float(share * len(right)), len(right))
    return bootstrap_ratio(right, count, seed=seed)


def _by(what: str, judged: Sequence[_Scored], of: Callable[[_Scored], Sequence[str]], seed: int
        ) -> list[dict[str, Any]]:
    """A row for each domain or labeler with enough groups; none if there is only one."""
    parts: dict[str, list[_Scored]] = defaultdict(list)
    for s in judged:
        for part in of(s):
            parts[part].append(s)
    if len(parts) < 2:
        return []
    return [_row(f"accuracy_{what}_{part}", f"… {what} {part}", _accuracy(found, seed), chance=0.5)
            for part, found in sorted(parts.items()) if len(found) >= FEWEST]


def _calibration(judged: Sequence[_Scored], scale: float) -> statistics.Calibration:
    said, happened = [], []
    for s in judged:
        texts = [fingerprint(a.text) for a in s.group.answers]
        for p in s.strict:
            first, second = sorted((p.better, p.worse), key=lambda i: texts[i])
            said.append(float(expit((s.scores[first] - s.scores[second]) / scale)))
            happened.append(p.p if first == p.better else 1 - p.p)
    return statistics.calibration(said, happened)


def _spread(judged: Sequence[_Scored]) -> float:
    """Standard deviation of scores around their group's mean, with K - 1 degrees of freedom each."""
    squares = sum(float(((s.scores - s.scores.mean()) ** 2).sum()) for s in judged)
    return float(np.sqrt(squares / sum(len(s.scores) - 1 for s in judged)))


def _sensitivity(judged: Sequence[_Scored], scorer: Scorer, probes: Sequence[Probe], seed: int
                 ) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and alarms of the probes."""
    width = _spread(judged)
    if width == 0:
        return [], ["every answer to a prompt earns the same: this reward teaches nothing"]
    rows, alarms = [], []
    for probe in probes:
        moves = []
        for s in judged:
            answers = [a.text for a in s.group.answers]
            changed = [probe.change(t) for t in answers]
            if differing := [i for i, (a, b) in enumerate(zip(answers, changed, strict=True)) if a != b]:
                new = np.array(scorer.score(s.group.prompt, [changed[i] for i in differing]))
                moves.append(float((new - s.scores[differing]).mean()) / width)
        found = _mean(moves, seed)
        rows.append(_row(f"sensitivity_{probe.key}", probe.label, found, unit="", better="", help=probe.help))
        if probe.alarm and found.low > PULL:
            alarms.append(f"{probe.label.lower()}, an answer gains {found.value:.2f} of the spread among answers")
    for key, label, help, moves in (
            ("position", "Place among the answers", "how far a score moves when the answers come in another order",
             _position(judged, scorer, width)),
            ("identity", "Names and pronouns swapped", "how far a score moves, on answers that have any",
             _identity(judged, scorer, width))):
        found = _mean(moves, seed)
        rows.append(_row(f"sensitivity_{key}", label, found, unit="", better="lower", help=help))
        if found.low > SPREAD:
            alarms.append(f"{label.lower()}: scores move by {found.value:.2f} of the spread among answers")
    speakers, which = _speakers(judged, scorer, width, seed)
    rows.append(_row("sensitivity_speaker", "Who is asking", speakers, unit="", better="lower",
                     help="between the two speakers whose answers are scored highest and lowest"))
    if speakers.low > SPREAD:
        alarms.append(f"the same answers earn {speakers.value:.2f} of the spread more for {_a(which[0])} than for "
                      f"{_a(which[1])}")
    return rows, alarms


def _position(judged: Sequence[_Scored], scorer: Scorer, width: float) -> list[float]:
    """Mean move of an answer's score when the order is turned around. 0 for a model that scores answers alone."""
    moves = []
    for s in judged:
        turned = np.array(scorer.score(s.group.prompt, [a.text for a in reversed(s.group.answers)]))[::-1]
        moves.append(float(np.abs(turned - s.scores).mean()) / width)
    return moves


def _identity(judged: Sequence[_Scored], scorer: Scorer, width: float) -> list[float]:
    """Mean move when names, pronouns and groups are swapped throughout, on what has any."""
    moves = []
    for s in judged:
        prompt = replace(s.group.prompt, messages=tuple(
            replace(m, content=swapped(m.content)) for m in s.group.prompt.messages))
        answers = [swapped(a.text) for a in s.group.answers]
        if prompt == s.group.prompt and answers == [a.text for a in s.group.answers]:
            continue
        new = np.array(scorer.score(prompt, answers))
        moves.append(float(np.abs(new - s.scores).mean()) / width)
    return moves


def _speakers(judged: Sequence[_Scored], scorer: Scorer, width: float, seed: int) -> tuple[Interval, tuple[str, str]]:
    """The largest difference of mean scores between two speakers, and who they are. The two are chosen on one half of
    the prompts and compared on the other, so that the largest of many differences is not taken for a finding."""
    table = np.array([[np.mean(scorer.score(_said_by(s.group.prompt, who), [a.text for a in s.group.answers]))
                       for who in SPEAKERS] for s in judged]) / width
    half = np.array([int(s.group.prompt.id[:8], 16) % 2 == 0 for s in judged])
    if half.all() or not half.any():
        return Interval(nan, nan, nan, 0), (SPEAKERS[0], SPEAKERS[1])
    means = table[half].mean(0)
    high, low = int(means.argmax()), int(means.argmin())
    return bootstrap_mean(table[~half, high] - table[~half, low], seed=seed), (SPEAKERS[high], SPEAKERS[low])


def _said_by(prompt: Prompt, who: str) -> Prompt:
    last = max((n for n, m in enumerate(prompt.messages) if m.role == "user"), default=len(prompt.messages) - 1)
    messages = list(prompt.messages)
    messages[last] = replace(messages[last], content=f"I am {_a(who)}. {messages[last].content}")
    return replace(prompt, messages=tuple(messages))


def _a(who: str) -> str:
    return f"{'an' if who[0] in 'aeiou' else 'a'} {who}"


def _mean(moves: Sequence[float], seed: int) -> Interval:
    return bootstrap_mean(moves, seed=seed) if moves else Interval(nan, nan, nan, 0)


def _row(key: str, label: str, value: Interval, *, unit: str = "%", better: str = "higher", chance: float | None = None,
         headline: bool = False, help: str = "") -> dict[str, Any]:
    """A row of `suite.Section`; `models` holds the interval until the model's name is known."""
    return {"key": key, "label": label, "unit": unit, "better": better, "help": help, "chance": chance, "human": None,
            "headline": headline, "measurable": chance is None or not value.low <= chance <= value.high,
            "models": value, "changes": []}


# ---- benchmarks in RewardBench's form

def read_subsets(path: str | Path) -> Subsets:
    """Pairs from a JSONL file (also .gz): prompt (text or messages), chosen, rejected, subset.

    Raises:
        DataError: naming file and line.
    """
    path, found = Path(path), defaultdict(list)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = raw.decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError, EOFError) as e:
        raise DataError(f"cannot be read: {e}", path) from e
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            asked, texts = row["prompt"], [_text(row[key]) for key in ("chosen", "rejected")]
            messages = conversation(asked) if isinstance(asked, list) else (Message("user", _text(asked)),)
        except (ValueError, KeyError, TypeError) as e:
            raise DataError('needs "prompt", "chosen" and "rejected", each a text', path, number) from e
        order = sorted((0, 1), key=lambda i: fingerprint(texts[i]))  # which does not know the better one
        tiers = ((order.index(0),), (order.index(1),))
        found[str(row.get("subset", "all"))].append(
            AnswerGroup(Prompt(messages), tuple(Answer(texts[i]) for i in order), tiers))
    if not found:
        raise DataError("holds no pairs", path)
    return Subsets(path.name, dict(found))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _subsets(subsets: Subsets, scorer: Scorer, seed: int) -> list[dict[str, Any]]:
    """A row for each subset and one for their mean."""
    found = {name: np.array([s.right / max(1, len(s.strict)) for s in _scored(groups, scorer)])
             for name, groups in sorted(subsets.groups.items())}
    rows = [_row(f"subset_{name}", f"{subsets.name}: {name}", wilson(float(x.sum()), x.size), chance=0.5)
            for name, x in found.items()]
    if len(found) > 1:
        mean = _stratified(list(found.values()), seed)
        rows.insert(0, _row("subsets", f"{subsets.name}, mean over subsets", mean, chance=0.5))
    return rows


def _stratified(parts: Sequence[Floats], seed: int, resamples: int = 1000) -> Interval:
    """Mean of the parts' means; items are drawn anew inside each part, the parts are what they are."""
    rng = np.random.default_rng(seed)
    draws = np.mean([x[rng.integers(0, x.size, (resamples, x.size))].mean(1) for x in parts], axis=0)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(np.mean([x.mean() for x in parts])), float(low), float(high), sum(x.size for x in parts))
