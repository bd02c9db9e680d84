"""Invented e-mail threads of a small office, and what was decided in two sentences.

    python examples/cases/email_summaries.py emails

Half of the threads first name a day that is then given up: who copies the first day of a thread gets those wrong.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from writing import Files, Row, demonstration, prompt, run, unlike

from tunesmith.quickstart.grammar import expand

PEOPLE = ("Ana", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Kate", "Liam", "Mona",
          "Nils", "Olga", "Paul")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
EVENTS = ("budget meeting", "team workshop", "sales call", "project review", "office lunch", "safety training",
          "job interview", "product demo", "board meeting", "phone conference", "kick-off", "site visit")
TASKS = ("book the room", "send the agenda", "print the papers", "invite the guests", "order the food",
         "write the minutes", "check the figures", "call the hotel", "prepare the slides", "reserve a car",
         "collect the questions", "sign the contract")
ASKS = ("[can|could|shall] we [have|hold] the {event} on {first}?", "I [suggest|propose] {first} for the {event}.",
        "how about {first} for the {event}?", "does {first} suit you for the {event}?")
NOES = ("{first} does not work for me, I am [travelling|away|at the dentist]. [How about|Could we take] {day}?",
        "Sorry, on {first} I am [out|busy all day]. {day} would be [fine|better].",
        "Not {first}, please. [I could do|Let us take] {day}.")
YESES = ("{day} is fine[ with me|].", "{day} works[ for me|].", "Good, {day} it is.")
WISHES = ("{who}, [can|could] you {task} by {due}?", "{who}, please {task} by {due}.",
          "{who}, would you {task}? I need it by {due}.")
PROMISES = ("[Will do|Sure|Yes, of course][, no problem|].", "I will[, thanks|].", "OK[, you will have it in time|].")
CHATTER = ("Thanks for the [quick|kind] answer.", "[I hope|Hope] you had a good [weekend|week].",
           "The [printer|coffee machine|lift] is broken again, by the way.", "It is [so cold|very hot] in here today.",
           "See you [soon|later].", "")


def thread(rng: random.Random) -> tuple[str, tuple[str, Row]]:
    """The mails; the summary, and what a rubric must know."""
    asker, other, who = rng.sample(PEOPLE, 3)
    first, day, due = rng.sample(DAYS, 3)
    moved = rng.random() < 0.5
    day = day if moved else first
    facts = {"event": rng.choice(EVENTS), "first": first, "day": day, "due": due, "who": who,
             "task": rng.choice(TASKS)}

    def mail(sender: str, to: str, text: str) -> str:
        parts = [text, rng.choice(CHATTER)]
        if rng.random() < 0.5:
            parts.reverse()
        return f"{sender} to {to}: {expand(' '.join(filter(None, parts)), facts, rng)}"

    mails = [mail(asker, other, rng.choice(ASKS)), mail(other, asker, rng.choice(NOES if moved else YESES)),
             mail(asker, f"{other}, {who}", " ".join(([rng.choice(YESES)] if moved else []) + [rng.choice(WISHES)])),
             mail(who, asker, rng.choice(PROMISES))]
    summary = f"{asker} and {other} will hold the {facts['event']} on {day}. {who} will {facts['task']} by {due}."
    found = {"day": day, "duty": [who, facts["task"]], "due": f"by {due}", "event": facts["event"],
             "given_up": first if moved else ""}
    return "\n".join(mails), (summary, {"domain": "moved" if moved else "kept", **found})


RUBRIC = r"""name = "Two sentences"

[[item]]
name = "two sentences"
regex = '^[^.!?]+[.!?]\s+[^.!?]+[.!?]\s*$'

[[item]]
name = "the right event"
contains_fact = "event"

[[item]]
name = "the day that was agreed"
contains_fact = "day"

[[item]]
name = "not the day that was given up"
not_contains_fact = "given_up"

[[item]]
name = "who does what"
contains_fact = "duty"

[[item]]
name = "by when"
contains_fact = "due"
"""
GRADER = {"type": "text_similarity", "name": "words", "evaluation_metric": "rouge_1",
          "input": "{{sample.output_text}}", "reference": "{{item.summary}}"}
ASK = "Summarise this thread in two sentences.\n\n"


def make(rng: random.Random, size: Callable[[int], int]) -> Files:
    rows = unlike(lambda: thread(rng), size(200) + size(100) + size(100), set())
    known, practice, held_out = rows[:size(200)], rows[size(200):-size(100)], rows[-size(100):]
    return {"summaries.jsonl": [demonstration(ASK + mails, summary) for mails, (summary, _) in known],
            "practice.jsonl": [prompt(ASK + mails, "practice", summary=summary) for mails, (summary, _) in practice],
            "held_out.jsonl": [prompt(ASK + mails, **facts) for mails, (_, facts) in held_out],
            "rubric.toml": RUBRIC, "grader.json": json.dumps(GRADER, indent=1) + "\n"}


if __name__ == "__main__":
    run(__doc__, make)
