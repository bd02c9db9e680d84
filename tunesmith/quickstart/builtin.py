"""The names that the command line knows without a workspace: the bundled base and its gold rubric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tunesmith.quickstart import rubric
from tunesmith.quickstart.customers import Scenario
from tunesmith.records import Prompt, conversation
from tunesmith.rounds import Judge

BASES = {"loan-desk": str(Path(__file__).parent / "base")}


class Gold:
    """`contracts.Scorer`: the rubric's score. It judges and simulates labelers; no training reads it."""

    def score(self, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        scenario = Scenario.from_dict(prompt.facts["scenario"])
        return [rubric.gold(scenario, a) for a in answers]


def to_prompt(scenario: Scenario) -> Prompt:
    """A customer as a prompt; the scenario travels in `facts`, which models never see."""
    return Prompt(conversation(scenario.messages), scenario.domain, scenario.split, {"scenario": scenario.to_dict()})


def checks(prompt: Prompt, answer: str) -> Mapping[str, float | bool | None]:
    """The rubric's findings on one answer, None where a guideline does not apply."""
    scenario = Scenario.from_dict(prompt.facts["scenario"])
    verdict = rubric.check(scenario, answer)
    return {
        "adherence": verdict.adherence,
        "rude": verdict.rude,
        "rude_when_provoked": verdict.rude if scenario.provocative else None,
        "avoidable_handover": None if verdict.handover_required else verdict.avoidable_handover,
        **{f"guideline: {name}": kept for name, kept in verdict.guidelines.items()},
    }


def judge() -> Judge:
    """The loan desk's gold rubric."""
    return Judge("the loan desk's gold rubric (a program)", Gold(), checks)


JUDGES: Mapping[str, Callable[[], Judge]] = {"loan-desk": judge}
