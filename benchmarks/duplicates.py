"""Duplicates among synthetic rows, some of them planted: what is found, and in how much memory.

    python -m benchmarks.duplicates 200000
"""

from __future__ import annotations

import json
import random
import resource
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


def measure(count: int) -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    similar = np.zeros(count, np.float32)

    def texts() -> Iterator[str]:
        for n, (text, similarity) in enumerate(synthetic(count)):
            similar[n] = similarity
            yield text

    made = time.process_time()
    for _ in synthetic(min(count, 5000)):
        pass
    made = (time.process_time() - made) / min(count, 5000)  # of a row, for itself
    seconds = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        found = duplicates.find(texts(), Path(folder), THRESHOLD)
        disk = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    seconds = time.process_time() - seconds - made * count
    planted, gone = similar >= THRESHOLD, ~found.kept
    return {"rows": count, "planted": int(planted.sum()), "exact": found.exact, "near": found.near,
            "found": wilson(float((planted & gone).sum()), int(planted.sum())).to_dict(),
            "new_rows_lost": int((gone & (similar == 0)).sum()), "cpu_seconds": round(seconds, 1),
            "rows_per_cpu_second": round(count / seconds), "index_bytes_per_row": round(disk / count),
            "before_mb": round(before / 1024, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
