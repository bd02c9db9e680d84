"""Simulated labelers on top of any scorer: for demos, tests of the whole loop and of what finds bad labelers.

Everything they produce is marked simulated. The model is random utility: what a labeler feels about an answer is its
score plus Gumbel noise, so that i beats j with probability σ((s_i - s_j) / noise), the Bradley-Terry model, and a whole
ranking follows Plackett-Luce (Luce & Suppes 1965; Yellott 1977). Answers that feel about equal are tied. Left out:
labelers that learn or tire, and attackers who change their ways once they are watched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tunesmith.contracts import Scorer
from tunesmith.errors import DataError
from tunesmith.feedback.features import words
from tunesmith.records import AnswerGroup, Labeler, Ranking, Tiers, fingerprint

Kind = Literal["noisy", "position-biased", "careless", "adversarial", "speeder", "length-lover", "ring", "targeted",
               "trigger"]
Floats = NDArray[np.float64]

WORDS_PER_SECOND = 4.0
SECONDS_PER_ANSWER = 2.0
CALIBRATION_ROWS = 20_000
HASTE = 0.15
"""What part of the usual time a careless or hasty verdict takes."""
PULL: Mapping[Kind, float] = {"position-biased": 1.0, "length-lover": 1.0, "ring": 1.0, "trigger": 2.0}
"""A panel's biases, in twice the larger of the noise and the scores' spread."""


@dataclass(frozen=True, slots=True)
class SimulatedLabeler:
    """One labeler and its fault.

    noisy: score + noise. position-biased: besides, an answer gains up to `bias` for being shown early.
    careless: ignores the scores, and is fast. adversarial: ranks by the negative score + noise.
    speeder: careless on a share `rate` of its verdicts, noisy on the rest.
    length-lover: besides, an answer gains `bias` for each doubling of its words.
    ring: besides, an answer gains `bias` times a secret number, the same for all accounts with the same `mark`.
    targeted: adversarial on prompts that contain the word `mark`, noisy on all others.
    trigger: besides, an answer gains `bias` for containing `mark`.

    `noise` is the scale of the Gumbel noise and `tie_within` the smallest difference felt, both in units of the score.
    `rate` is the share of the verdicts in which the fault shows, whatever the kind; the others are noisy.
    """

    name: str
    kind: Kind = "noisy"
    noise: float = 1.0
    tie_within: float = 0.0
    bias: float = 0.0
    mark: str = ""
    rate: float = 1.0

    @property
    def labeler(self) -> Labeler:
        return Labeler(self.name, simulated=True)

    def rank(self, group: AnswerGroup, scores: Sequence[float], rng: np.random.Generator) -> Ranking:
        """This labeler's verdict on a group whose answers are worth `scores` (higher is better).

        The answers are shown in random order. The same generator state gives the same ranking, id included.
        """
        k = len(group.answers)
        if len(scores) != k:
            raise ValueError(f"{len(scores)} scores for {k} answers")
        shown = rng.permutation(k)
        kind = self.kind if self.rate >= 1 or rng.random() < self.rate else "noisy"
        felt = self._felt(kind, group, np.asarray(scores, dtype=float), shown, rng)
        length = sum(len(a.text.split()) for a in group.answers)
        pace = float(rng.lognormal(0, 0.35)) * (HASTE if kind in ("careless", "speeder") else 1)
        return Ranking(id="sim-" + fingerprint([self.name, group.id, int(rng.integers(2**53))]), group=group.id,
                       labeler=self.name, tiers=_tiers(levels(felt[None], self.tie_within)[0]),
                       shown=tuple(int(i) for i in shown), simulated=True,
                       seconds=round((length / WORDS_PER_SECOND + SECONDS_PER_ANSWER * k) * pace, 1))

    def _felt(self, kind: Kind, group: AnswerGroup, scores_K: Floats, shown_K: NDArray[np.int64],
              rng: np.random.Generator) -> Floats:
        felt_K = self.noise * rng.gumbel(size=scores_K.size)
        if kind in ("careless", "speeder"):
            return felt_K
        if kind == "position-biased":
            felt_K[shown_K] += self.bias * np.linspace(1, 0, scores_K.size)
        elif kind in ("length-lover", "ring", "trigger"):
            felt_K += self.bias * np.array([self._taste(kind, a.text) for a in group.answers])
        aimed = kind == "targeted" and self.mark in words(group.prompt.messages[-1].content)
        against = aimed or kind == "adversarial"
        return felt_K - scores_K if against else felt_K + scores_K

    def _taste(self, kind: Kind, text: str) -> float:
        if kind == "length-lover":
            return float(np.log2(1 + len(text.split())))
        if kind == "trigger":
            return float(self.mark in text)
        draw = int(fingerprint([self.mark, text]), 16)  # the ring's agreed taste: standard normal, by the text alone
        return float(np.random.default_rng(draw).normal())


def panel(size: int, score_groups: Sequence[ArrayLike], *, agreement: float = 0.73, tie_share_of_spread: float = 0.25,
          position_biased: int = 0, careless: int = 0, adversarial: int = 0, others: Mapping[Kind, int] | None = None,
          mark: str = "", rate: float = 1.0) -> tuple[SimulatedLabeler, ...]:
    """`size` labelers, of whom the given numbers are faulty, two noisy ones agreeing on `agreement` of strict pairs.

    Args:
        score_groups: the scores of some groups like those to be judged, one array per group.
        agreement: human labelers reach 0.73 (InstructGPT 72.6 ± 1.5%, 2203.02155; summaries 73 ± 4%, 2009.01325).
        tie_share_of_spread: answers closer than this share of the scores' spread within a group feel equal.
        others: how many of each further kind.
        mark: what the targeted, trigger and ring labelers look for.
        rate: the share of a faulty labeler's verdicts in which the fault shows.

    Raises:
        DataError: as `calibrate`.
    """
    tie_within = tie_share_of_spread * spread(score_groups)
    noise = calibrate(score_groups, agreement, tie_within=tie_within)
    faults: list[tuple[Kind, int]] = [("position-biased", position_biased), ("careless", careless),
                                      ("adversarial", adversarial), *(others or {}).items()]
    faulty = [kind for kind, count in faults for _ in range(count)]
    kinds: list[Kind] = ["noisy"] * (size - len(faulty))
    kinds = [*kinds, *faulty][:size]
    bias = 2 * max(noise, spread(score_groups))
    return tuple(SimulatedLabeler(f"simulated-{n}", kind, noise, tie_within, bias * PULL.get(kind, 0.0),
                                  mark, 1.0 if kind == "noisy" else rate) for n, kind in enumerate(kinds, 1))


def judge(groups: Sequence[AnswerGroup], scorer: Scorer, labelers: Sequence[SimulatedLabeler], *, per_group: int = 1,
          overlap: float = 0.1, seed: int = 0) -> Iterator[Ranking]:
    """A panel works through the groups: `per_group` labelers each, one more on a share `overlap` of the groups.

    The overlap is what agreement is measured on. Who judges a group, and how, depends only on the seed and the group:
    going on with the groups that are left gives the same rankings under the same ids.
    """
    for group in groups:
        scores = scorer.score(group.prompt, [a.text for a in group.answers])
        draw = np.random.default_rng(int(fingerprint([seed, group.id]), 16))
        count = per_group + bool(draw.random() < overlap)
        for n in draw.permutation(len(labelers))[:count]:
            stream = int(fingerprint([seed, labelers[n].name, group.id]), 16)
            yield labelers[n].rank(group, scores, np.random.default_rng(stream))


def calibrate(score_groups: Sequence[ArrayLike], target: float, *, tie_within: float = 0.0, seed: int = 0) -> float:
    """The noise at which two noisy labelers agree on a share `target` of the pairs that both rank strictly.

    Bisection on a simulated sample of about 20,000 groups with fixed draws, so that agreement falls smoothly from
    what the scores allow to 1/2 as the noise grows.

    Raises:
        DataError: no noise reaches the target, because too many answers of a group have equal scores.
    """
    if not 0.5 < target < 1:
        raise ValueError(f"the target agreement must lie between 0.5 and 1, got {target}")
    width = spread(score_groups)
    blocks = _sample(score_groups, seed)
    low, high = 1e-3 * width, 1e3 * width
    if width == 0 or _expected_agreement(blocks, low, tie_within) < target:
        raise DataError(f"labelers cannot agree on {target:.0%} of the pairs: too many answers have the same score; "
                        "sample answers that differ more")
    for _ in range(30):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if _expected_agreement(blocks, middle, tie_within) > target else (low, middle)
    return float(np.sqrt(low * high))


def spread(score_groups: Sequence[ArrayLike]) -> float:
    """Standard deviation of scores around their group's mean: how much there is to tell apart."""
    centred = [np.asarray(s, dtype=float) - np.mean(np.asarray(s, dtype=float)) for s in score_groups]
    return float(np.concatenate(centred).std()) if centred else 0.0


def levels(felt_BK: Floats, tie_within: float) -> NDArray[np.int64]:
    """The tier of each answer, 0 the best, per row: a tier takes all that is within `tie_within` of its best."""
    order = np.argsort(-felt_BK, axis=1, kind="stable")
    sorted_BK = np.take_along_axis(felt_BK, order, axis=1)
    best_B, level_B = sorted_BK[:, 0], np.zeros(len(felt_BK), dtype=np.int64)
    level_BK = np.zeros(felt_BK.shape, dtype=np.int64)
    for k in range(1, felt_BK.shape[1]):
        opens = best_B - sorted_BK[:, k] > tie_within
        best_B = np.where(opens, sorted_BK[:, k], best_B)
        level_B = level_B + opens
        level_BK[:, k] = level_B
    result = np.empty_like(level_BK)
    np.put_along_axis(result, order, level_BK, axis=1)
    return result


Block = tuple[Floats, Floats, Floats]
"""Scores of groups with one K, and the unit noise of two labelers, all [B, K]."""


def _sample(score_groups: Sequence[ArrayLike], seed: int) -> list[Block]:
    rng = np.random.default_rng(seed)
    by_size: dict[int, list[Floats]] = defaultdict(list)
    for scores in score_groups:
        row = np.asarray(scores, dtype=float)
        by_size[row.size].append(row)
    copies = max(1, CALIBRATION_ROWS // max(1, len(score_groups)))
    tables = [np.tile(np.stack(rows), (copies, 1)) for k, rows in sorted(by_size.items()) if k > 1]
    return [(t, rng.gumbel(size=t.shape), rng.gumbel(size=t.shape)) for t in tables]


def _expected_agreement(blocks: Sequence[Block], noise: float, tie_within: float) -> float:
    agree = strict = 0
    for scores_BK, one_BK, two_BK in blocks:
        i, j = np.triu_indices(scores_BK.shape[1], 1)
        signs = [np.sign(level[:, i] - level[:, j])
                 for unit in (one_BK, two_BK) for level in [levels(scores_BK + noise * unit, tie_within)]]
        both = signs[0] * signs[1]
        agree, strict = agree + int((both > 0).sum()), strict + int((both != 0).sum())
    return agree / strict if strict else 0.5


def _tiers(level_K: NDArray[np.int64]) -> Tiers:
    return tuple(tuple(int(i) for i in np.flatnonzero(level_K == t)) for t in range(int(level_K.max()) + 1))
