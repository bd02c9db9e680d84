"""Personal data that tests plant, and a look for it wherever it may have gone. All of it is invented."""

import re

from tunesmith.records import Answer, Interaction, Message

CANARIES = ["canary.jones@example.com", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "078-05-1120",
            "+49 30 90182077", "sk-proj-Zk3nQ8vB1xT7wL5rAb", "203.0.113.77"]
PLAIN = [re.sub(r"\W", "", c).lower() for c in CANARIES]


def planted(n):
    """A chat in which every text carries a canary: question, answer, edit, complaint, user and conversation."""
    canary = CANARIES[n]
    events = ({"type": "edit", "value": f"Noted: {canary}", "id": "1"},
              {"type": "complaint", "value": f"not {canary}!", "id": "2"})
    return Interaction(f"c{n}", (Message("user", f"Please note {canary} for me"),), Answer(
        f"I noted {canary}", sampling={"stop": canary}), events, user=canary, conversation=canary, source="serve")


def spilled(text):
    """The canaries in a text, however they are spaced."""
    plain = re.sub(r"\W", "", text).lower()
    return [canary for canary, found in zip(CANARIES, PLAIN) if found in plain]


def spilled_on_disk(folder):
    return {p.name: found for p in folder.rglob("*") if p.is_file()
            and (found := spilled(p.read_bytes().decode("latin-1")))}
