"""Models against baselines on the same prompts: answers, judge's scores, checks, preference rates.

Nothing here loads a model: an engine answers, a scorer judges. A `Comparison` holds every judged answer, so that any
figure can be computed again later, and several seeds can be put together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import statistics
from tunesmith.contracts import Engine, Sampling, Scorer
from tunesmith.errors import DataError, NotFound, nearest
from tunesmith.evaluate import text
from tunesmith.records import Answer, Prompt
from tunesmith.statistics import Floats, Interval, Preference

Check = Mapping[str, float | bool | None]
"""Figures of one answer by name; None where a figure does not apply to the prompt."""
Checks = Callable[[Prompt, str], Check]
SCORE = "score"


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer to one prompt, with the judge's score and the checks' figures."""

    answer: Answer
    score: float
    checks: Check = field(default_factory=dict)

    def value(self, key: str) -> float | bool | None:
        """The score, a check, or a figure of the text; a check goes before a text figure of the same name."""
        if key == SCORE:
            return self.score
        return self.checks.get(key) if key in self.checks or key not in text.PER_ANSWER else text.PER_ANSWER[key](
            self.answer)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every model's judged answer to every prompt: `judged[model][n]` answers `prompts[n]`.

    Models are in the order in which they were trained, the plainest first: `preferences` compares each with all
    before it. Scores closer than `tie_within` are ties. Judges that compare answers two at a time leave `verdicts`: of
    two models per prompt 1, 0.5, 0, or nan where they said nothing; these go before scores.
    """

    prompts: tuple[Prompt, ...]
    judged: Mapping[str, tuple[Judged, ...]]
    tie_within: float = 0.0
    verdicts: Mapping[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.judged)

    def scores(self, model: str) -> Floats:
        """The judge's score of each answer."""
        return self.values(model, SCORE)

    def values(self, model: str, key: str) -> Floats:
        """One figure of each answer: "score", one of `text.PER_ANSWER`, or a check; nan where it does not apply."""
        return np.array([np.nan if (v := j.value(key)) is None else float(v) for j in self._of(model)])

    def outcomes(self, model: str, baseline: str) -> Floats:
        """Per prompt 1 if the judge prefers the model, 0.5 for a tie, 0 if the baseline; nan without a verdict."""
        if (model, baseline) in self.verdicts:
            return np.array(self.verdicts[model, baseline])
        if (baseline, model) in self.verdicts:
            return 1 - np.array(self.verdicts[baseline, model])
        return statistics.outcomes(self.scores(model), self.scores(baseline), self.tie_within)

    def preference(self, model: str, baseline: str, seed: int = 0) -> Preference:
        """How often the model is preferred over the baseline, of the prompts with a verdict; bootstrap over prompts."""
        x = self.outcomes(model, baseline)
        return statistics.preference_rate(x[~np.isnan(x)], seed=seed)

    def preferences(self, seed: int = 0) -> dict[tuple[str, str], Preference]:
        """Each model against all before it, the newest first."""
        m = self.models
        return {(m[i], m[j]): self.preference(m[i], m[j], seed) for i in reversed(range(len(m)))
                for j in reversed(range(i))}

    def metrics(self, model: str, seed: int = 0) -> dict[str, Interval]:
        """Mean of each figure over the prompts it applies to; and the figures of the whole set, without interval."""
        means = {key: statistics.mean_interval(x[~np.isnan(x)], seed=seed) for key in self.keys(model)
                 for x in [self.values(model, key)]}
        samples = [text.common_sample([self._texts(m) for m in self.models], n) for n in (1, 2, 3)]
        whole = text.of_all(self._texts(model), samples, seed=seed)
        return {**means, **{key: Interval(x, x, x, len(self.prompts)) for key, x in whole.items()}}

    def keys(self, model: str) -> list[str]:
        """The figures that apply to at least one of the model's answers: score, checks in their order, text."""
        checks = dict.fromkeys(name for j in self._of(model) for name, v in j.checks.items() if v is not None)
        return [key for key in (SCORE, *checks, *text.PER_ANSWER) if any(j.value(key) is not None
                                                                         for j in self._of(model))]

    def change(self, model: str, baseline: str, key: str, seed: int = 0) -> Interval:
        """Relative change of a figure's mean against the baseline, over the prompts it applies to: -0.5 is halved."""
        return statistics.relative_change(*self.both(model, baseline, key), seed=seed)

    def difference(self, model: str, baseline: str, key: str = "score", seed: int = 0) -> Interval:
        """Paired difference of a figure's mean, over the prompts it applies to."""
        return statistics.paired_difference(*self.both(model, baseline, key), seed=seed)

    def both(self, model: str, baseline: str, key: str) -> tuple[Floats, Floats]:
        """A figure of two models, on the prompts where it applies to both."""
        a, b = self.values(model, key), self.values(baseline, key)
        applies = ~(np.isnan(a) | np.isnan(b))
        return a[applies], b[applies]

    def where(self, keep: Callable[[Prompt], bool]) -> Comparison:
        """The same comparison on some of the prompts."""
        kept = [n for n, p in enumerate(self.prompts) if keep(p)]
        return Comparison(tuple(self.prompts[n] for n in kept),
                          {m: tuple(js[n] for n in kept) for m, js in self.judged.items()}, self.tie_within,
                          {pair: tuple(x[n] for n in kept) for pair, x in self.verdicts.items()})

    def _of(self, model: str) -> tuple[Judged, ...]:
        if model not in self.judged:
            raise NotFound(f'no answers of "{model}"{nearest(model, self.judged)}')
        return self.judged[model]

    def _texts(self, model: str) -> list[str]:
        return [j.answer.text for j in self._of(model)]


def answer_all(engine: Engine, prompts: Sequence[Prompt], models: Mapping[str, str], sampling: Sampling,
               progress: Callable[[int], None] | None = None) -> dict[str, list[Answer]]:
    """One answer of every model to every prompt.

    Args:
        models: name in the report -> adapter as the engine knows it ("" is the bare base).
        progress: called with the number of prompts answered since the last call, over all models.
    """
    conversations = [p.messages for p in prompts]
    return {name: [answers[0] for answers in engine.sample(conversations, sampling, model=adapter, progress=progress)]
            for name, adapter in models.items()}


def compare(prompts: Sequence[Prompt], answers_by_model: Mapping[str, Sequence[Answer]], scorer: Scorer, *,
            checks: Checks | None = None, tie_within: float = 0.0,
            progress: Callable[[int], None] | None = None) -> Comparison:
    """Every answer judged by the scorer and the checks.

    All models' answers to a prompt are scored in one call, so that a judge may compare them. `progress` is called
    with 1 after each prompt.

    Raises:
        DataError: no prompts, or a model with too many or too few answers.
    """
    if not prompts:
        raise DataError("there are no prompts to compare on")
    for model, answers in answers_by_model.items():
        if len(answers) != len(prompts):
            raise DataError(f'"{model}" gave {len(answers)} answers to {len(prompts)} prompts')
    judged: dict[str, list[Judged]] = {model: [] for model in answers_by_model}
    for n, prompt in enumerate(prompts):
        row = {model: answers[n] for model, answers in answers_by_model.items()}
        scores = scorer.score(prompt, [a.text for a in row.values()])
        for (model, answer), score in zip(row.items(), scores, strict=True):
            judged[model].append(Judged(answer, float(score), checks(prompt, answer.text) if checks else {}))
        if progress:
            progress(1)
    return Comparison(tuple(prompts), {m: tuple(js) for m, js in judged.items()}, tie_within)


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """A figure over several training seeds: hierarchical bootstrap, mean ± t, and each seed's own value."""

    bootstrap: Interval
    t: Interval
    each: tuple[float, ...]


def preference_over_seeds(comparisons: Sequence[Comparison], model: str, baseline: str, seed: int = 0) -> OverSeeds:
    """The preference rate over comparisons of different training seeds; they may share their prompts."""
    return _over_seeds([c.outcomes(model, baseline) for c in comparisons], comparisons, seed)


def metric_over_seeds(comparisons: Sequence[Comparison], model: str, key: str = SCORE, seed: int = 0) -> OverSeeds:
    """The mean of a figure over comparisons of different training seeds."""
    return _over_seeds([c.values(model, key) for c in comparisons], comparisons, seed)


def difference_over_seeds(comparisons: Sequence[Comparison], model: str, baseline: str, key: str = SCORE,
                          seed: int = 0) -> Interval:
    """The paired difference of a figure over comparisons of different training seeds."""
    columns = [c.values(model, key) - c.values(baseline, key) for c in comparisons]
    return _over_seeds(columns, comparisons, seed).bootstrap


def change_over_seeds(comparisons: Sequence[Comparison], model: str, baseline: str, key: str, seed: int = 0
                      ) -> Interval:
    """The relative change of a figure's mean over comparisons of different training seeds.

    The interval is that of the ratio's linearisation, (a - r·b) / mean(b) per prompt (the delta method).
    """
    pairs = [c.both(model, baseline, key) for c in comparisons]
    top, bottom = (float(np.mean([p[side].mean() for p in pairs])) for side in (0, 1))
    if not bottom:
        return Interval(np.nan, np.nan, np.nan, 0)
    ratio = top / bottom
    columns = [(c.values(model, key) - ratio * c.values(baseline, key)) / bottom for c in comparisons]
    i = _over_seeds(columns, comparisons, seed).bootstrap
    return Interval(ratio - 1, ratio - 1 + i.low, ratio - 1 + i.high, i.n)


def save(path: str | Path, comparison: Comparison) -> None:
    """One line per prompt with all judged answers: what every figure of the report was computed from."""
    with open(path, "w", encoding="utf-8") as f:
        for n, prompt in enumerate(comparison.prompts):
            row = {"prompt": prompt.to_dict(), "tie_within": comparison.tie_within,
                   "judged": {m: _judged_to_dict(js[n]) for m, js in comparison.judged.items()},
                   **({"verdicts": [[a, b, _or_none(x[n])] for (a, b), x in comparison.verdicts.items()]}
                      if comparison.verdicts else {})}
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def load(path: str | Path) -> Comparison:
    """The comparison back from `save`'s file.

    Raises:
        DataError: the file does not hold a comparison; with file and line.
    """
    prompts, tie_within = [], 0.0
    judged: dict[str, list[Judged]] = {}
    verdicts: dict[tuple[str, str], list[float]] = {}
    for line, written in enumerate(Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n"), 1):
        try:
            row = json.loads(written)
            prompts.append(Prompt.from_dict(row["prompt"]))
            tie_within = row["tie_within"]
            for model, j in row["judged"].items():
                judged.setdefault(model, []).append(
                    Judged(Answer.from_dict(j["answer"]), _or_nan(j["score"]), j.get("checks", {})))
            for a, b, outcome in row.get("verdicts", ()):
                verdicts.setdefault((a, b), []).append(_or_nan(outcome))
        except (ValueError, KeyError, TypeError) as e:
            raise DataError("not a line of a saved comparison", path, line) from e
    return Comparison(tuple(prompts), {m: tuple(js) for m, js in judged.items()}, tie_within,
                      {pair: tuple(x) for pair, x in verdicts.items()})


def _judged_to_dict(j: Judged) -> dict[str, Any]:
    return {"answer": j.answer.to_dict(), "score": _or_none(j.score), "checks": dict(j.checks)}


def _or_none(x: float) -> float | None:
    """JSON has no nan."""
    return None if np.isnan(x) else x


def _or_nan(x: float | None) -> float:
    return np.nan if x is None else x


def _over_seeds(columns: Sequence[Floats], comparisons: Sequence[Comparison], seed: int) -> OverSeeds:
    """Prompts are shared if all seeds judged the same ones in the same order."""
    first = [p.messages for p in comparisons[0].prompts]
    shared = all([p.messages for p in c.prompts] == first for c in comparisons)
    if shared:
        applies = ~np.isnan(np.stack(columns)).any(0)
        columns = [c[applies] for c in columns]
    else:
        columns = [c[~np.isnan(c)] for c in columns]
    each = tuple(float(c.mean()) for c in columns)
    return OverSeeds(statistics.over_seeds(columns, crossed=shared, seed=seed), statistics.t_interval(each), each)
