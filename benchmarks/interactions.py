"""What the interaction log costs, and what its scrubber finds.

    python -m benchmarks.interactions [--quick] [--data FOLDER] [--out docs/results/interactions.json]

Serving: one server logs every second block of requests (the others decline by header), 16 clients at a time, the
bundled base with an adapter; seconds per request and processor seconds of the server per request, until all is stored.
Storing: exchanges per second into a new workspace. Scrubbing: personal data made here by the rules of their issuers, in
sentences of people, and how much of it is found; with --data, how often texts of public sets are altered.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import os
import random
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.machine import describe
from benchmarks.serving import CLIENTS, NEW, engine, publish
from tunesmith.records import Answer, Interaction, Message
from tunesmith.statistics import wilson
from tunesmith.store import pii, privacy
from tunesmith.store.interactions import add, interactions
from tunesmith.store.workspace import Workspace

STORY = ("I would like to know what the monthly payment on a loan of 240,000 over 30 years is at 7.25 percent, and "
         "whether my e-mail address jo{0}@example.com is still the one that you write to. ") * 3


# ---- serving

class Logging:
    """A server process that logs whatever does not decline."""

    def __init__(self, workspace: Path):
        self.process = subprocess.Popen([sys.executable, "-m", "benchmarks.interactions", "--serve", str(workspace)],
                                        stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.client = httpx.Client(base_url=self.process.stdout.readline().strip(), timeout=600,
                                   limits=httpx.Limits(max_connections=64))

    def ask(self, number: int, logged: bool) -> float:
        """Seconds until the whole answer is there."""
        begun = time.perf_counter()
        body = {"model": "desk0", "messages": [{"role": "user", "content": STORY.format(number)}], "max_tokens": NEW,
                "seed": number, "user": f"u{number % 50}"}
        reply = self.client.post("v1/chat/completions", json=body, headers={} if logged else {"tunesmith-log": "off"})
        assert reply.status_code == 200, reply.text
        return time.perf_counter() - begun

    def block(self, requests: int, logged: bool) -> tuple[float, float, float]:
        """Seconds per request, median seconds that a client waited, processor seconds of the server per request."""
        begun, busy = time.perf_counter(), self.busy()
        with ThreadPoolExecutor(CLIENTS) as pool:
            waited = list(pool.map(lambda n: self.ask(n, logged), range(requests)))
        took = time.perf_counter() - begun
        nobody = {"completion": "chatcmpl-x", "type": "thumb", "value": 1, "id": "1"}
        assert self.client.post("v1/feedback", json={"events": [nobody]}).status_code == 200  # waits for the log
        return took / requests, median(waited), (self.busy() - busy) / requests

    def busy(self) -> float:
        """Processor seconds that the server has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def serve(folder: str) -> None:
    """The child: a server on a free port, whose address is the first line of its output."""
    from tunesmith.service import create_app, run_server
    from tunesmith.service.interactions import Log

    with Workspace.open(Path(folder)) as workspace:
        app = create_app(workspace, engine, base="loan-desk", keeper=Log(workspace))
        run_server(app, announce=lambda url: print(url, flush=True))


def serving(folder: Path, repeats: int, requests: int) -> dict[str, Any]:
    """With the log against without, in turn."""
    with Workspace.open(folder) as workspace:
        publish(workspace, 1)
    server = Logging(folder)
    try:
        server.block(CLIENTS, True)
        pairs = [(server.block(requests, True), server.block(requests, False)) for _ in range(repeats)]
    finally:
        server.close()
    found: dict[str, Any] = {"requests": requests, "repeats": repeats}
    for at, name in enumerate(("seconds_per_request", "median_wait", "processor_seconds_per_request")):
        ratios = [with_log[at] / without[at] for with_log, without in pairs]
        found[name] = {"logged": median(p[0][at] for p in pairs), "not_logged": median(p[1][at] for p in pairs),
                       "ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return found


def storing(folder: Path, count: int) -> dict[str, float]:
    """Exchanges per second of processor time into the log and out of it."""
    made = [Interaction(f"c{n}", (Message("user", STORY.format(n)),), Answer(STORY.format(n)), user=f"u{n % 500}")
            for n in range(count)]
    with Workspace.open(folder) as workspace:
        begun = time.process_time()
        add(workspace, made)
        stored = time.process_time()
        assert sum(1 for _ in interactions(workspace)) == count
        read = time.process_time()
    characters = sum(len(i.messages[0].content) + len(i.answer.text) for i in made)
    return {"exchanges": count, "characters_each": characters / count, "stored_per_second": count / (stored - begun),
            "read_per_second": count / (read - stored)}


# ---- scrubbing

def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _until(holds: Callable[[str], bool], make: Callable[[], str]) -> str:
    while not holds(found := make()):
        pass
    return found


def _spaced(text: str, size: int, by: str = " ") -> str:
    return by.join(text[i:i + size] for i in range(0, len(text), size))


def _iban(rng: random.Random) -> str:
    country = rng.choice(sorted(pii.IBAN_LENGTHS))
    text = _until(pii.mod97, lambda: country + _digits(rng, pii.IBAN_LENGTHS[country] - 2))
    return rng.choice([text, _spaced(text, 4), text.lower()])


def _card(rng: random.Random) -> str:
    first, length = rng.choice([("4", 16), ("51", 16), ("55", 16), ("37", 15), ("6011", 16)])
    text = _until(pii.luhn, lambda: first + _digits(rng, length - len(first)))
    return rng.choice([text, _spaced(text, 4), _spaced(text, 4, "-")])


def _phone(rng: random.Random) -> str:
    area = rng.randint(201, 989)
    return rng.choice([f"+49 {rng.randint(30, 999)} {_digits(rng, 7)}", f"+1-{area}-555-{_digits(rng, 4)}",
                       f"({area}) 555-{_digits(rng, 4)}", f"0{rng.randint(11, 99)}1 {_digits(rng, 7)}",
                       f"+44 20 {_digits(rng, 4)} {_digits(rng, 4)}", f"06 {_spaced(_digits(rng, 8), 2)}",
                       f"01{rng.randint(50, 79)}{_digits(rng, 8)}"])


def _email(rng: random.Random) -> str:
    name = "".join(rng.choices(string.ascii_lowercase, k=6))
    more = rng.choice(["", f".{name[::-1]}", "+x", str(rng.randint(1, 99))])
    return f"{name}{more}@{name[:4]}.example.{rng.choice(['com', 'de', 'co.uk'])}"


def _key(rng: random.Random) -> str:
    made = "".join(rng.choices(string.ascii_letters + string.digits, k=40))
    return rng.choice(["sk-", "ghp_", "hf_", "sk_live_", "", ""]) + made


def _ip(rng: random.Random) -> str:
    groups = [f"{rng.randint(1, 65535):x}" for _ in range(8)]
    return rng.choice([".".join(str(rng.randint(11, 250)) for _ in range(4)), ":".join(groups)])


def _national(rng: random.Random) -> str:
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    number = rng.randint(10_000_000, 99_999_999)
    nir = f"1{rng.randint(50, 99)}{rng.randint(1, 12):02}{rng.randint(10, 95)}{_digits(rng, 6)}"
    aadhaar = _until(pii.verhoeff, lambda: rng.choice("23456789") + _digits(rng, 11))
    sin = _until(pii.luhn, lambda: _digits(rng, 9))
    return rng.choice([f"{rng.randint(1, 665):03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}",
                       f"{number}{letters[number % 23]}", f"{nir}{97 - int(nir) % 97:02}", _spaced(aadhaar, 4),
                       _spaced(sin, 3, "-"), f"AB {_spaced(_digits(rng, 6), 2)} C"])


KINDS = {"email": _email, "phone": _phone, "iban": _iban, "card": _card, "ip": _ip, "key": _key,
         "national_id": _national}
SENTENCES = ("{}", "It is {}.", "please use {} thanks", "({}) is mine, not 17 or 2024-03-01", "Mine: {}\nBye",
             "x {} 12 y", "call about {}, order 4711")


def recall(each: int, seed: int = 0) -> dict[str, Any]:
    """Of personal data in sentences: how many are found whole, by kind, with 95% Wilson intervals."""
    rng, found = random.Random(seed), {}
    for kind, make in KINDS.items():
        hits = 0
        for _ in range(each):
            item, sentence = make(rng), rng.choice(SENTENCES)
            at = sentence.index("{}")
            hits += any(f.start <= at and f.end >= at + len(item) for f in privacy.find(sentence.format(item)))
        found[kind] = dataclasses.asdict(wilson(hits, each))
    return found


def altered(data: Path, most: int = 2000) -> dict[str, Any]:
    """Of texts of public sets: how many have a finding, and how many findings of each kind."""
    out = {}
    for name in ("demonstrations/dolly_part", "evaluations/gsm8k_part", "corpus/english_text",
                 "customer_service/multidogo_customer_turns"):
        texts = [text for text, _ in zip(_texts(data / f"{name}.jsonl.gz"), range(most))]
        begun = time.process_time()
        found = [privacy.find(text) for text in texts]
        seconds, size = time.process_time() - begun, sum(map(len, texts))
        out[name] = {"texts": len(texts), "with_findings": sum(map(bool, found)),
                     "kinds": Counter(f.kind for fs in found for f in fs), "seconds_per_mb": seconds / size * 1e6}
    return out


def _texts(path: Path) -> Iterator[str]:
    def strings(value: Any) -> Iterator[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        yield from [value] if isinstance(value, str) else (text for one in inner for text in strings(one))

    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield "\n".join(strings(json.loads(line)))[:4000]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--data", default="", help="a folder of public data sets")
    parser.add_argument("--out", default="", help="write the figures to this JSON file")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        return serve(chosen.serve)
    found: dict[str, Any] = {"machine": describe(), "load": os.getloadavg()[0], "recall": recall(1000)}
    if chosen.data:
        found["altered"] = altered(Path(chosen.data))
    with tempfile.TemporaryDirectory() as folder:
        found["storing"] = storing(Path(folder) / "log", 1000 if chosen.quick else 5000)
        found["serving"] = serving(Path(folder) / "ws", 3 if chosen.quick else 7, 32 if chosen.quick else 64)
    print(json.dumps(found, indent=1))
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
