# ruff: noqa: E501  (rows of phrases read better than columns)
"""Pupils' questions on the climate, answers as volunteers first wrote them, and new questions for each week.

    python examples/cases/climate_assistant.py climate

Facts are rounded school-book knowledge. Pupils and volunteers are invented; half of the first answers miss a rule.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from writing import Files, Row, demonstration, prompt, run, unlike

from tunesmith.quickstart.grammar import expand

TOPICS = {
    "why it gets warmer": ("burning coal, oil and gas", "Burning coal, oil and gas adds gases that hold heat", "walk or ride a bike for short ways"),
    "what a greenhouse gas is": ("holds heat", "It is a gas that holds heat near the ground", "look up which ones there are"),
    "why the sea rises": ("ice on land melts", "Ice on land melts and warm water takes more room", "draw a coast as it is and as it may be"),
    "why trees matter": ("take carbon dioxide", "Trees take carbon dioxide out of the air and keep the carbon", "plant one at school"),
    "what happens to the bees": ("flowers open earlier", "The flowers open earlier, and not all bees follow", "sow flowers on a balcony"),
    "where our power comes from": ("wind and sun", "More of it comes from wind and sun each year", "switch off what nobody uses"),
    "why meat matters": ("cows give off methane", "Cows give off methane and need much land", "cook beans once a week"),
    "what weather has to do with it": ("over thirty years", "Weather is today, climate is the weather over thirty years", "write down the temperature for a month"),
    "whether a warm winter proves it": ("one winter proves nothing", "One winter proves nothing, but many in a row tell something", "compare the winters of your grandparents"),
    "why the ice is white": ("throws light back", "White ice throws light back, dark water takes it up", "put black and white paper into the sun"),
    "what planes do": ("high in the air", "They burn much fuel, and what they leave high in the air warms too", "take the train for the next trip"),
    "how a house stays warm": ("good walls and windows", "Good walls and windows keep the heat inside", "feel for draughts with a wet finger"),
}
ASKS = ("[Can you|Could you|Please] [tell|explain to] [me|us] {what}[, please|]?", "[We ask ourselves|My class wants to know] {what}. [Do you know|Can you help]?",
        "[I|My sister and I|We] want to know {what}.", "{what}, [do you know that|how is that]?", "[Our teacher asks|For homework]: {what}?")
STARTS = ("", "[Hello|Hi|Good morning]!", "I am {age}.", "[Hi|Hello], {name} here.")
ENDS = ("", "Thanks!", "It is for {day}.")
OPENERS = ("[Good|Great|Nice] question!", "[Glad|Nice] that you ask.", "[Thank you|Thanks] for asking.")
GLOOM = ("We are all doomed anyway.", "It is too late for everything.", "Nobody can stop it now.", "There is no hope.")
WRONG = ("Nobody knows that.", "That is only a natural cycle.", "It has always been so.")
RAMBLE = ("There are a great many books on this and one could talk about it for hours and hours.",
          "Some people say one thing and some say another thing and it is all quite complicated.")


def question(rng: random.Random) -> tuple[str, str]:
    """What a pupil asks, and which topic it is."""
    what = rng.choice(list(TOPICS))
    facts = {"what": what, "age": rng.randint(8, 16), "name": rng.choice(("Lea", "Tom", "Mia", "Ole", "Ida", "Max")),
             "day": rng.choice(("Monday", "Tuesday", "Thursday", "Friday"))}
    return expand(" ".join(rng.choice(part) for part in (STARTS, ASKS, ENDS)), facts, rng), what


def answer(rng: random.Random, what: str, care: float) -> str:
    """An answer that keeps each of the volunteers' rules with probability `care`."""
    def keeps() -> bool:
        return rng.random() < care

    _, fact, act = TOPICS[what]
    parts = [rng.choice(OPENERS)] if keeps() else []
    parts.append(f"{fact}." if keeps() else rng.choice(WRONG))
    parts += [] if keeps() else [rng.choice(GLOOM)]
    parts += [] if keeps() else rng.sample(RAMBLE, 2)
    parts += [f"You can {act}."] if keeps() else []
    return expand(" ".join(parts), {}, rng)


RUBRIC = """name = "Volunteers' rules"

[[item]]
name = "the fact is right"
contains_fact = "fact"
weight = 2

[[item]]
name = "says what one can do"
contains = "You can"

[[item]]
name = "no gloom"
not_contains = ["doomed", "too late", "no hope", "Nobody can"]
weight = 2

[[item]]
name = "a friendly word first"
contains_any = ["question!", "that you ask", "for asking"]

[[item]]
name = "short enough for a child"
max_words = 32
"""
LOOP = """name = "climate"
start = "first"                   # the model of the first week
prompts = ["questions-*"]         # every week's questions, by the names of their datasets
held_out = 0.3                    # of them, that nothing ever trains on
labels = {labels}                      # rankings that a week may cost
tests = {tests}                       # fresh questions that decide
judge = "climate/rubric.toml"
safety = ["no gloom"]             # must not get worse
ask = false                       # true: somebody says yes in the studio first
seed = {seed}

[collect]
max_tokens = 48

[reward]
epochs = 2

[ppo]
updates = {updates}
episodes = {episodes}
epochs = 2
lr = 6e-4
kl = 0.1
max_tokens = 48

[evaluate]
max_tokens = 48
"""


def make(rng: random.Random, size: Callable[[int], int]) -> Files:
    weeks, seen = 2, set[str]()
    first = unlike(lambda: question(rng), size(240), seen)
    asked: list[Row] = [prompt(text, what, fact=TOPICS[what][0])
                        for text, what in unlike(lambda: question(rng), weeks * size(400), seen)]
    share = len(asked) // weeks
    return {"answers.jsonl": [demonstration(text, answer(rng, what, care=0.6)) for text, what in first],
            **{f"week_{n + 1}.jsonl": asked[n * share:(n + 1) * share] for n in range(weeks)},
            "rubric.toml": RUBRIC, "loop.toml": LOOP.format(labels=size(120), tests=size(100), updates=size(48) // 4,
                                                            episodes=size(48), seed=rng.randrange(1000))}


if __name__ == "__main__":
    run(__doc__, make)
