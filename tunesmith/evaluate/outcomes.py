"""Who was preferred, prompt by prompt and pair by pair of models, whoever judged: what rates and ladders are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tunesmith import statistics
from tunesmith.errors import NotFound, nearest
from tunesmith.evaluate.compare import Checks, Comparison, Judged
from tunesmith.records import Answer, Prompt
from tunesmith.statistics import Floats, Preference

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """For each pair of models and each prompt 1 (the first was preferred), 0.5 (a tie), 0, or a share of several
    people's votes; nan where nobody said. A pair that nobody compared is not in the table; each is there once.
    """

    models: tuple[str, ...]
    table: Mapping[Pair, Floats]

    def of(self, model: str, baseline: str) -> Floats:
        """Per prompt whether the model was preferred over the baseline; nan throughout for a pair not compared.

        Raises:
            NotFound: naming the nearest model.
        """
        for name in (model, baseline):
            if name not in self.models:
                raise NotFound(f'nobody judged "{name}"{nearest(name, self.models)}')
        if (model, baseline) in self.table:
            return self.table[model, baseline]
        if (baseline, model) in self.table:
            return 1 - self.table[baseline, model]
        return np.full(max((x.size for x in self.table.values()), default=0), np.nan)

    def preference(self, model: str, baseline: str, seed: int = 0) -> Preference:
        """How often the model was preferred, of the prompts with a verdict; bootstrap over prompts."""
        x = self.of(model, baseline)
        return statistics.preference_rate(x[~np.isnan(x)], seed=seed)


def of_scores(scores: Mapping[str, Sequence[float] | Floats], tie_within: float = 0.0) -> Outcomes:
    """Outcomes of a judge that gives every model's answer to every prompt a score."""
    table = {(a, b): statistics.outcomes(scores[a], scores[b], tie_within) for a, b in combinations(scores, 2)}
    return Outcomes(tuple(scores), table)


def of_comparison(comparison: Comparison) -> Outcomes:
    """What the judge of a comparison preferred."""
    return Outcomes(comparison.models, {(a, b): comparison.outcomes(a, b)
                                        for a, b in combinations(comparison.models, 2)})


def comparison(prompts: Sequence[Prompt], answers_by_model: Mapping[str, Sequence[Answer]], outcomes: Outcomes,
               checks: Checks | None = None) -> Comparison:
    """What a judge of pairs, or people, said of these answers, as the report takes it.

    An answer's score is its share of wins against the other models' answers to the same prompt, ties half; nan where
    nobody said anything about it.
    """
    judged = {}
    for model, answers in answers_by_model.items():
        against = np.array([outcomes.of(model, other) for other in answers_by_model if other != model])
        known = ~np.isnan(against)
        share = np.divide(np.nansum(against, 0), known.sum(0), out=np.full(len(prompts), np.nan), where=known.any(0))
        judged[model] = tuple(Judged(a, float(s), checks(p, a.text) if checks else {})
                              for p, a, s in zip(prompts, answers, share, strict=True))
    return Comparison(tuple(prompts), judged, verdicts={pair: tuple(x.tolist()) for pair, x in outcomes.table.items()})
