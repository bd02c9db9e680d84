"""Duplicates among synthetic rows, some of them planted: what is found, and in how much memory.

    python -m benchmarks.duplicates 200000
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data import duplicates
from tunesmith.statistics import wilson

THRESHOLD = 0.8


def synthetic(count: int, seed: int = 0) -> Iterator[tuple[str, float]]:
    """(text, its similarity to the earlier row that it was made of, 0 if it is new): 40 to 120 words of a Zipf
    vocabulary; 5% are copies and 10% copies with one word in 60 exchanged, each of one of the last thousand rows."""
    draw = random.Random(seed)
    words = [f"{chr(97 + n % 26)}{n}" for n in range(20_000)]
    pool = draw.choices(words, [1 / (n + 10) for n in range(20_000)], k=400_000)
    recent: list[list[str]] = []
    for _ in range(count):
        kind = draw.random()
        if recent and kind < 0.15:
            old = draw.choice(recent)
            said = list(old)
            for _ in range(0 if kind < 0.05 else max(1, len(said) // 60)):
                said[draw.randrange(len(said))] = draw.choice(pool)
            yield " ".join(said), duplicates.jaccard(*(duplicates.shingles(" ".join(x)) for x in (old, said)))
            continue
        start = draw.randrange(len(pool) - 120)
        said = pool[start:start + draw.randint(40, 120)]
        draw.shuffle(said)
        recent = [*recent[-999:], said]
        yield " ".join(said), 0.0


def peak() -> float:
    """The most memory that this process has had, in MB. Not `ru_maxrss`, which a child has from its parent."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return round(int(found[1]) / 1024, 1) if found else float("nan")


def measure(count: int) -> dict[str, Any]:
    before = peak()
    similar = np.zeros(count, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        data, index = Path(folder) / "texts", Path(folder) / "index"
        index.mkdir()
        with open(data, "w", encoding="utf-8") as f:
            for n, (text, similarity) in enumerate(synthetic(count)):
                similar[n] = similarity
                f.write(text + "\n")
        seconds = time.process_time()
        with open(data, encoding="utf-8") as lines:
            found = duplicates.find(lines, index, THRESHOLD)
        seconds = time.process_time() - seconds
        disk = sum(p.stat().st_size for p in index.rglob("*") if p.is_file())
    planted, gone = similar >= THRESHOLD, ~found.kept
    return {"rows": count, "planted": int(planted.sum()), "exact": found.exact, "near": found.near,
            "found": wilson(float((planted & gone).sum()), int(planted.sum())).to_dict(),
            "new_rows_lost": int((gone & (similar == 0)).sum()), "cpu_seconds": round(seconds, 1),
            "rows_per_cpu_second": round(count / seconds), "index_bytes_per_row": round(disk / count),
            "before_mb": before,
            "peak_mb": peak()}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
