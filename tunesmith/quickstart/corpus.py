"""What the base is pretrained on: simulated desk dialogues and open, real English.

Only `train` phrasings and `train` splits are read, and no evaluation set. A document
is a list of messages; running text is one message with the role `text`.
"""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tunesmith.quickstart import desk
from tunesmith.quickstart.customers import Scenario, sample
from tunesmith.quickstart.replies import population, write

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = (PAD, BEGIN, END, *(f"<|{role}|>" for role in ROLES))
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SYSTEM = f"You answer for the support desk of {desk.LENDER}."
# name of the set -> licence, as the model card lists them
SOURCES = {
    "customer_service/sgd_dialogues": "CC BY-SA 4.0",
    "customer_service/tm4_coffee_dialogues": "CC BY 4.0",
    "customer_service/multiwoz": "MIT",
    "customer_service/banking77": "CC BY 4.0",
    "corpus/english_text": "public domain and CC BY-SA",
}

Document = list[dict]


def render(document: Document) -> str:
    """The text the tokenizer sees: the chat template's result, or plain text between marks."""
    if document[0]["role"] == "text":
        return BEGIN + document[0]["content"] + END
    return BEGIN + "".join(f"<|{m['role']}|>{m['content']}{END}" for m in document)


def desk_dialogues(n: int, seed: int) -> Iterator[Document]:
    """`n` desk dialogues, each answered by another agent out of a wide population."""
    for scenario in sample("train", n, seed):
        yield _answered(scenario, random.Random(f"corpus/{seed}/{scenario.id}"))


def _answered(scenario: Scenario, rng: random.Random) -> Document:
    reply = {"role": "assistant", "content": write(scenario, population(rng), rng)}
    system = [{"role": "system", "content": SYSTEM}] if rng.random() < 0.05 else []
    return [*system, *scenario.messages, reply]


def real_documents(data: Path, seed: int) -> list[Document]:
    """The `train` splits of `SOURCES`, in random order. Raises FileNotFoundError if one is missing."""
    documents = [d for source in SOURCES for row in _rows(data, source) if (d := _READERS[source](row))]
    random.Random(seed).shuffle(documents)
    return documents


def _rows(data: Path, source: str) -> Iterator[dict]:
    with gzip.open(data / f"{source}.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from (row for line in lines if (row := json.loads(line))["split"] == "train")


def _turns(row: dict) -> Document:
    names = {"user": "user", "system": "assistant"}
    return [{"role": names[who], "content": _untokenized(text)} for who, text in row["turns"]]


def _untokenized(text: str) -> str:
    """MultiWOZ writes ' .' and " n't"; everyday writing does not."""
    for mark in (".", ",", "?", "!", "n't", "'s", "'d", "'m", "'ll", "'re", "'ve"):
        text = text.replace(f" {mark}", mark)
    return " ".join(text.split())


def _spoken(row: dict) -> Document:
    """The words of a dialogue without the agent's calls of its tools."""
    names = {"user": "user", "agent": "assistant"}
    return [{"role": names[m["role"]], "content": m["text"]} for m in row["messages"] if m.get("text")]


def _question(row: dict) -> Document:
    return [{"role": "user", "content": row["text"]}]


def _text(row: dict) -> Document:
    return [{"role": "text", "content": row["text"].replace("<unk>", "").strip()}]


_READERS = {
    "customer_service/sgd_dialogues": _turns,
    "customer_service/tm4_coffee_dialogues": _spoken,
    "customer_service/multiwoz": _turns,
    "customer_service/banking77": _question,
    "corpus/english_text": _text,
}
