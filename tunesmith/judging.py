"""Judges of pairs by the name that `--judge` gives: people, language models, checklists, written rubrics.

    people                  blind groups in the studio; the first call puts them there, a later one reads the verdicts
    model:NAME              an adapter of the workspace, or a base, compares in both orders
    endpoint:NAME           so does an endpoint of the workspace
    checklist:model:NAME    a model writes a checklist for each prompt and goes through it (or checklist:endpoint:NAME)
    FILE.toml               a written rubric; `asks` (model:NAME, endpoint:NAME) answers its questions, if it has any

Scorers (reward models, the built-in rubric) are `shop.judge`'s business: `find` gives None for any other name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.contracts import Engine
from tunesmith.errors import NotFound, Unjudged, UserError
from tunesmith.evaluate import rubric as rubrics
from tunesmith.evaluate.checklist import ChecklistJudge, RubricJudge
from tunesmith.evaluate.judges import ModelJudge, PairJudge, about, play
from tunesmith.evaluate.outcomes import Outcomes
from tunesmith.evaluate.people import Judged, for_people, from_rankings
from tunesmith.evaluate.report import Metric
from tunesmith.records import Answer, Prompt, fingerprint
from tunesmith.service.remote import RemoteEngine
from tunesmith.shop import Shop, engine_of
from tunesmith.store.checks import valid_name
from tunesmith.store.endpoints import check_endpoint, find_endpoint
from tunesmith.store.project import gold
from tunesmith.store.team import quarantined

PEOPLE = "people"
KINDS = ("model", "endpoint", "checklist")


@dataclass(frozen=True, slots=True)
class Pairwise:
    """Who compares, and as what the report names it. `judge` is None for people; `of` is what it is made of."""

    label: str
    kind: str
    judge: PairJudge | None = None
    of: str = ""

    @property
    def simulated(self) -> bool:
        """Whether no person was involved."""
        return self.judge is not None

    def checks(self, prompt: Prompt, answer: str) -> dict[str, float | bool | None]:
        """What else it can say of one answer without asking anybody: which of a written rubric's rules are kept."""
        return {**self.judge.rubric.kept(prompt, answer)} if isinstance(self.judge, RubricJudge) else {}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What the checks mean: the more answers keep a rule the better."""
        rules = self.judge.rubric.items if isinstance(self.judge, RubricJudge) else ()
        return tuple(Metric(item.name, item.name, "%", "higher") for item in rules if item.rule)


def find(shop: Shop, spec: str, *, asks: str = "", guidelines: str = "") -> Pairwise | None:
    """The judge of pairs of that name; None where the name is that of a scorer.

    Args:
        guidelines: the text that a language model judges by.

    Raises:
        NotFound: no such model, endpoint or file.
        UserError: a rubric asks questions and nobody is named who answers.
    """
    kind, _, rest = spec.partition(":")
    if spec == PEOPLE:
        return Pairwise("people", PEOPLE)
    if spec.endswith(".toml"):
        rubric = rubrics.parse(spec)
        engine, model, made = asked(shop, asks) if rubric.questions and asks else (None, "", "")
        judge = RubricJudge(rubric, engine, model)
        return Pairwise(f"rubric {rubric.name}", "rubric", judge, fingerprint([Path(spec).read_text("utf-8"), made]))
    if kind not in KINDS:
        return None
    if kind == "checklist":
        engine, model, made = asked(shop, rest)
        return Pairwise(f"checklists by {made}", "checklist", ChecklistJudge(engine, model), made)
    engine, model, made = asked(shop, spec)
    return Pairwise(made, "language model", ModelJudge(engine, model, guidelines=guidelines, name=made),
                    fingerprint([made, guidelines]))


def asked(shop: Shop, spec: str) -> tuple[Engine, str, str]:
    """An engine, the model's name in it, and what it is in words."""
    kind, _, name = spec.partition(":")
    if kind == "endpoint" and name:
        endpoint = check_endpoint(find_endpoint(shop.workspace, name))
        return RemoteEngine(endpoint), "", f"{endpoint.model} behind {endpoint.name}"
    if kind != "model" or not name:
        raise UserError(f'"{spec}" names no model: write model:NAME or endpoint:NAME')
    try:
        adapter = shop.workspace.adapter(name)
    except NotFound as error:
        if name not in shop.bases and not Path(name).exists():
            raise NotFound(f"{error}; and no base is called so") from error
        base = shop.base(name)
        return engine_of(base, shop.workspace, []), "", f"base {base.spec} {base.hash[:8]}"
    return engine_of(shop.base_of(name), shop.workspace, [name]), name, str(adapter)


def outcomes(shop: Shop, who: Pairwise, prompts: Sequence[Prompt], drawn: Mapping[str, Sequence[Answer]], *, name: str,
             folder: Path, seed: int = 0, progress: Callable[[int], None] | None = None) -> tuple[Outcomes, list[str]]:
    """Who was preferred, and what a reader must know of how it was judged.

    Args:
        name: of the evaluation; people find the answers in a set of this name.
        folder: keeps what a language model said, so that a stopped run goes on.
        progress: hears how many pairs are done.

    Raises:
        Unjudged: people have not judged yet; says where the answers wait.
    """
    if who.judge is None:
        return _by_people(shop, prompts, drawn, name, seed)
    bouts = play(prompts, drawn, who.judge, kept=folder / "verdicts.jsonl", of=who.of, progress=progress)
    found = about(bouts.all())
    notes = [f"{who.label} gave no verdict that can be read on {found.unreadable} of the pairs; they are left out."
             ] if found.unreadable.value > 0 else []
    if found.swayed.n:
        notes.append(f"{who.label} saw each pair in both orders. Its verdict turned with the order on {found.swayed} "
                     f"of them (they count as ties); it chose what came first {found.first} of the time.")
    return bouts.outcomes(), notes


def _by_people(shop: Shop, prompts: Sequence[Prompt], drawn: Mapping[str, Sequence[Answer]], name: str,
               seed: int) -> tuple[Outcomes, list[str]]:
    blind = for_people(prompts, drawn, seed)
    if not blind.groups:
        raise UserError("all models wrote the same to every prompt: there is nothing for people to judge")
    new = shop.workspace.add_groups(valid_name(name, "name of a set"), blind.groups)
    try:
        judged = from_rankings(blind, shop.workspace.rankings(name), without=sorted(quarantined(shop.workspace)),
                               known=gold(shop.workspace, name))
    except UserError as error:
        raise Unjudged(f"{len(blind.groups)} groups of answers wait in the studio ({new} of them new): run tunesmith "
                       f"studio --groups {name}, judge, and give this command again") from error
    return judged.outcomes, _told(judged)


def _told(judged: Judged) -> list[str]:
    notes = [f"People judged {judged.groups} of {judged.of} groups of answers, blind and in an order of their own each "
             f"time ({judged.verdicts} verdicts)."]
    if judged.alike:
        notes.append(f"On {judged.alike} prompts all models wrote the same: a tie.")
    if judged.agreement.percent.n:
        notes.append(f"Two people agreed on {judged.agreement.percent} of the pairs that both ranked.")
    return notes

