"""What `tunesmith serve` does with many adapters and many clients, on the bundled base of 4.5M parameters.

    python -m benchmarks.serving [--quick] [--out docs/results/serving.json]

Measures, each the median of alternating repetitions: tokens/s of a batch over 8 adapters against one adapter; tokens/s
of requests over HTTP with 1,000 adapters registered against 8, and with requests spread over all 1,000; loading an
adapter from disk; time to the first token with 16 clients at a time, whose prompts share a beginning or not. Answers
always have full length. The server is a process of its own; clients are threads of this one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx

import tunesmith.quickstart
from benchmarks.machine import describe
from tunesmith.contracts import Sampling
from tunesmith.records import Message
from tunesmith.store.workspace import Workspace

BASE = str(Path(tunesmith.quickstart.__file__).parent / "base")
RANK, ROWS, NEW, CLIENTS = 16, 32, 64, 16
QUESTION = "What does the loan desk say about the rate of a loan over {} months?"
SYSTEM = "You answer customers of the loan desk, politely and briefly, and you never promise what is not written. " * 6


def engine() -> Any:
    """The engine as `serve` has it, but for answers that never end early."""
    from tunesmith.model import base as bases
    from tunesmith.model.engine import LocalEngine
    from tunesmith.model.known import Known
    from tunesmith.model.serving import Serving

    bases.keep_memory()
    base = bases.load(BASE, "loan-desk")
    base.chat.end = -1
    known = None if os.environ.get("NO_KNOWN") else Known()
    return Serving(LocalEngine(base, 64, known=known))


def publish(workspace: Workspace, count: int) -> None:
    """desk0, desk1, ...: adapters of the bundled base, eight different files under so many names."""
    import torch

    from tunesmith.model import adapters
    from tunesmith.model import base as bases

    base = bases.load(BASE, "loan-desk")
    sources = []
    for seed in range(8):
        adapters.attach(base, "made", adapters.Method(rank=RANK, alpha=2 * RANK), seed)
        for p in adapters.parameters(base, "made").values():
            torch.nn.init.normal_(p.data, std=0.02)
        sources.append(workspace.root / f"source{seed}")
        sources[-1].mkdir()
        adapters.save(base, "made", sources[-1])

    for i in range(count):
        def write(folder: Path, source: Path = sources[i % 8]) -> None:
            for file in source.iterdir():
                os.link(file, folder / file.name)

        workspace.publish_adapter(f"desk{i}", "policy", base.describe(), write, {})


def batches(workspace: Workspace, repeats: int) -> dict[str, Any]:
    """Tokens/s of 32 answers of 64 tokens, of 8 adapters and of one, in turn; and per second of processor time, which
    is what other programs on the machine leave alone."""
    serving = engine()
    for i in range(8):
        serving.load(f"desk{i}", workspace.adapter(f"desk{i}").path)
    tokens = serving.encode((Message("user", QUESTION.format(12)),))

    def rate(adapters: int) -> tuple[float, float]:
        begun, busy = time.perf_counter(), time.process_time()
        for row in range(ROWS):
            serving.submit(tokens, Sampling(NEW, seed=row), 1, f"desk{row % adapters}")
        while serving.busy:
            serving.step()
        return ROWS * NEW / (time.perf_counter() - begun), ROWS * NEW / (time.process_time() - busy)

    rate(8), rate(1)
    pairs = [(rate(8), rate(1)) for _ in range(repeats)]
    return {name: _compared([(eight[i], one[i]) for eight, one in pairs])
            for i, name in enumerate(("wall", "processor"))}


def _compared(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    ratios = [a / b for a, b in pairs]
    return {"first": median(a for a, _ in pairs), "second": median(b for _, b in pairs), "ratio": median(ratios),
            "lowest": min(ratios), "highest": max(ratios)}


class Server:
    """A server process on a workspace."""

    def __init__(self, workspace: Path, known: bool = True):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving", "--serve", str(workspace)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, **({} if known else {"NO_KNOWN": "1"})})
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()
        self.client = httpx.Client(base_url=self.url, timeout=600, limits=httpx.Limits(max_connections=64))

    def ask(self, model: str, months: int, system: str = "", new: int = NEW) -> float:
        """Seconds until the first text of a streamed answer, which is read to its end."""
        messages = [*([{"role": "system", "content": system}] if system else []),
                    {"role": "user", "content": QUESTION.format(months)}]
        begun, first = time.perf_counter(), 0.0
        body = {"model": model, "messages": messages, "max_tokens": new, "seed": months, "stream": True}
        with self.client.stream("POST", "v1/chat/completions", json=body) as reply:
            assert reply.status_code == 200, reply.read()
            for line in reply.iter_lines():
                if not first and '"content":"' in line and '"content":""' not in line:
                    first = time.perf_counter() - begun
        return first

    def rate(self, models: Sequence[str]) -> float:
        """Tokens/s of one request to each of the models, CLIENTS at a time."""
        begun = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda m: self.ask(m[1], m[0]), enumerate(models)))
        return len(models) * NEW / (time.perf_counter() - begun)

    def first(self, rounds: int, system: str) -> list[float]:
        """Seconds to the first token with CLIENTS clients that ask over and over."""
        found: list[float] = []
        barrier = threading.Barrier(CLIENTS)

        def client(number: int) -> None:
            barrier.wait()
            found.extend(self.ask(f"desk{number % 8}", 100 * number + i, system, 32) for i in range(rounds))

        threads = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def metric(self, name: str) -> float:
        """One value of /metrics."""
        lines = self.client.get("metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def serve(folder: str) -> None:
    """The child: a server on a free port, whose address is the first line of its output."""
    from tunesmith.service import create_app, run_server

    with Workspace.open(Path(folder)) as workspace:
        run_server(create_app(workspace, engine, base="loan-desk"), announce=lambda url: print(url, flush=True))


def registered(few: Path, many: Path, repeats: int, requests: int) -> dict[str, Any]:
    """Tokens/s over HTTP with 8 and with 1,000 adapters registered, and with traffic over all of them."""
    eight = [f"desk{i % 8}" for i in range(requests)]
    servers = Server(few), Server(many)
    try:
        for server in servers:
            server.rate(eight)
        pairs = [(servers[1].rate(eight), servers[0].rate(eight)) for _ in range(repeats)]
        before = [servers[1].metric(f"tunesmith_adapter_load_seconds_{x}") for x in ("sum", "count")]
        spread = [servers[1].rate([f"desk{8 + (r * requests + i) % 992}" for i in range(requests)])
                  for r in range(repeats)]
        after = [servers[1].metric(f"tunesmith_adapter_load_seconds_{x}") for x in ("sum", "count")]
    finally:
        for server in servers:
            server.close()
    return {"1000_against_8": _compared(pairs), "all_1000_in_turn": median(spread),
            "load_ms": 1000 * (after[0] - before[0]) / (after[1] - before[1]), "loads": after[1] - before[1]}


def waits(few: Path, rounds: int) -> dict[str, Any]:
    """Time to the first token with 16 clients: short prompts; long ones that share a beginning, with and without what
    is known of it."""
    out: dict[str, Any] = {}
    for name, known, system in (("short", True, ""), ("shared", True, SYSTEM), ("shared_not_known", False, SYSTEM)):
        server = Server(few, known)
        try:
            server.first(1, system)
            found = server.first(rounds, system)
        finally:
            server.close()
        out[name] = {"median_ms": 1000 * median(found), "p95_ms": 1000 * quantiles(found, n=20)[18], "n": len(found)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--out", default="", help="write the figures to this JSON file")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve)
        return
    repeats = 3 if chosen.quick else 7
    with tempfile.TemporaryDirectory() as folder:
        places = Path(folder) / "few", Path(folder) / "many"
        found: dict[str, Any] = {"machine": describe(), "load": os.getloadavg()[0]}
        for place, count in zip(places, (8, 1000)):
            with Workspace.open(place) as workspace:
                publish(workspace, count)
                if count == 8:
                    found["batch"] = batches(workspace, repeats)
        found["registered"] = registered(*places, repeats, 32 if chosen.quick else 64)
        found["first_token"] = waits(places[0], 3 if chosen.quick else 6)
    print(json.dumps(found, indent=1))
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
