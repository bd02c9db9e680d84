"""Which served answers people should rank, so that their rankings say what users' reactions are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.feedback.signals import Evidence
from tunesmith.records import Answer, AnswerGroup

DOUBLE = 1 / 3
"""The share of choices among what is ranked; each is a single comparison, and quick to make."""


def choose(found: Sequence[Evidence], count: int, seed: int = 0) -> list[Evidence]:
    """`count` pieces of evidence on different prompts, choices between two among them as far as there are any.

    Rare reactions come first: answers are taken in turn from each kind of reaction, for and against.
    """
    double = _spread([e for e in found if len(e.answers) == 2], int(count * DOUBLE), seed)
    taken = {e.prompt.id for e in double}
    single = [e for e in found if len(e.answers) == 1 and e.prompt.id not in taken]
    return [*double, *_spread(single, count - len(double), seed)]


def group(e: Evidence, fresh: Sequence[Answer], count: int, pairs_alone: bool = True) -> AnswerGroup:
    """Logged answers among fresh ones, those with the same text once; with `pairs_alone` two that a user chose between
    stay by themselves."""
    texts = {a.text: a for a in (e.answers if pairs_alone and len(e.answers) == 2 else (*e.answers, *fresh))}
    return AnswerGroup(e.prompt, tuple(texts.values())[:count])


def _spread(found: Sequence[Evidence], count: int, seed: int) -> list[Evidence]:
    """`count` pieces of evidence on different prompts, taken in turn from each kind of reaction and its direction."""
    kinds: dict[tuple[str, bool], list[Evidence]] = {}
    for n in np.random.default_rng(seed).permutation(len(found)):
        for name, value in found[n].signals.items():
            kinds.setdefault((name, value > 0), []).append(found[n])
    waiting = {kind: iter(those) for kind, those in sorted(kinds.items(), key=lambda k: len(k[1]))}
    chosen: dict[str, Evidence] = {}
    while waiting and len(chosen) < count:
        for kind, those in list(waiting.items()):
            one = next((e for e in those if e.prompt.id not in chosen), None)
            if one is None:
                del waiting[kind]
            elif len(chosen) < count:
                chosen[one.prompt.id] = one
    return list(chosen.values())
