"""What a policy is trained for beside its reward: more rewards, weighed, and bounds that must hold meanwhile."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from tunesmith.errors import SettingsError

ALSO = "more rewards, weighed, as NAME=WEIGHT: a reward model on the same base, or a written rubric's FILE.toml"
SUBJECT_TO = ("what must hold on average while the reward rises, as 'NAME>=BOUND' or 'NAME<=BOUND': a reward model, or "
              "a written rubric's FILE.toml (docs/ai_help.md)")
MULTIPLIER_RATE = ("with --subject-to: how fast the price of missing a bound moves, per standard deviation of what is "
                   "bounded and per update")
ASKS = "model:NAME or endpoint:NAME that answers the questions of written rubrics"

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_WEIGHED = re.compile(rf"\s*([^<>=]+?)\s*=\s*({_NUMBER})\s*")
_BOUNDED = re.compile(rf"\s*([^<>=]+?)\s*(>=|<=)\s*({_NUMBER})\s*")


class Also(NamedTuple):
    """One more reward: who judges, and what its word weighs beside the reward's."""

    name: str
    weight: float


class SubjectTo(NamedTuple):
    """A bound on what somebody says of the answers, on average."""

    name: str
    sense: Literal[">=", "<="]
    bound: float


def also(texts: Sequence[str]) -> tuple[Also, ...]:
    """`tone.toml=0.3` and the like.

    Raises:
        SettingsError: naming the text that is none.
    """
    found = [(t, _WEIGHED.fullmatch(t)) for t in texts]
    if bad := [t for t, match in found if match is None]:
        raise SettingsError(f'--also "{bad[0]}": write NAME=WEIGHT, such as tone.toml=0.3')
    return tuple(Also(m[1], float(m[2])) for _, m in found if m)


def subject_to(texts: Sequence[str]) -> tuple[SubjectTo, ...]:
    """`courtesy>=0.95` and the like.

    Raises:
        SettingsError: naming the text that is none.
    """
    found = [(t, _BOUNDED.fullmatch(t)) for t in texts]
    if bad := [t for t, match in found if match is None]:
        raise SettingsError(f"--subject-to \"{bad[0]}\": write 'NAME>=BOUND' or 'NAME<=BOUND', such as "
                            "'courtesy.toml>=0.95' (in quotes, for the shell)")
    return tuple(SubjectTo(m[1], m[2], float(m[3])) for _, m in found if m)  # type: ignore[arg-type]


def check_objective(more: Sequence[str], bounds: Sequence[str], asks: str, reward: str) -> None:
    """
    Raises:
        SettingsError: what is no weight or bound, is the reward itself, or is asked of nobody.
    """
    names = [a.name for a in also(more)] + [b.name for b in subject_to(bounds)]
    if twice := [n for n in names if names.count(n) > 1]:
        raise SettingsError(f"{twice[0]} is given twice in --also and --subject-to")
    if reward and reward in names:
        raise SettingsError(f"--reward {reward} is what training maximises; name something else in --also and "
                            "--subject-to")
    if asks and not any(n.endswith(".toml") for n in (*names, reward)):
        raise SettingsError("--asks is for the questions of a rubric: name its FILE.toml in --also, --subject-to or "
                            "--grader")
