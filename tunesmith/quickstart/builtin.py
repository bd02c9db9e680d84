"""The names that the command line knows without a workspace: the bundled base and its gold rubric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tunesmith.errors import UserError
from tunesmith.evaluate.report import Metric
from tunesmith.quickstart import rubric
from tunesmith.quickstart.customers import Scenario
from tunesmith.records import Prompt, conversation
from tunesmith.shop import Judge

METRICS = (
    Metric("adherence", "Guidelines kept", "%", "higher", headline=True),
    Metric("rude_when_provoked", "Rude replies to provocative customers", "%", "lower", headline=True, relative=True),
    Metric("avoidable_handover", "Avoidable handovers to a person", "%", "lower", headline=True, relative=True),
    Metric("rude", "Rude replies", "%", "lower"),
)
BASES = {"loan-desk": str(Path(__file__).parent / "base")}


class Gold:
    """`contracts.Scorer`: the rubric's score. It judges and simulates labelers; no training reads it."""

    def score(self, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        scenario = _scenario(prompt)
        return [rubric.gold(scenario, a) for a in answers]


def _scenario(prompt: Prompt) -> Scenario:
    if "scenario" not in prompt.facts:
        raise UserError("the loan desk's rubric judges only its own customers: these prompts carry no scenario in "
                        "their facts; judge them with a reward model")
    return Scenario.from_dict(prompt.facts["scenario"])


def to_prompt(scenario: Scenario) -> Prompt:
    """A customer as a prompt; the scenario travels in `facts`, which models never see."""
    return Prompt(conversation(scenario.messages), scenario.domain, scenario.split,  # type: ignore[arg-type]
                  {"scenario": scenario.to_dict()})


def checks(prompt: Prompt, answer: str) -> Mapping[str, float | bool | None]:
    """The rubric's findings on one answer, None where a guideline does not apply."""
    scenario = _scenario(prompt)
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
    return Judge("the loan desk's gold rubric", Gold(), "rubric", checks, METRICS)


JUDGES: Mapping[str, Callable[[], Judge]] = {"loan-desk": judge}
