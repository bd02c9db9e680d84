"""500 people rank at once: no error, nobody waits, nothing is lost, memory stays flat.

    TUNESMITH_LOAD_MINUTES=30 python -m pytest -m load tests/load -s
"""

import asyncio
import os
import threading
import time

import pytest
from crowd import check, crowd, fill, report, resident_mb, studio

from tunesmith.store.workspace import Workspace

MINUTES = float(os.environ.get("TUNESMITH_LOAD_MINUTES", "10"))


def run(tmp_path, database, people, seconds, think):
    with Workspace.open(tmp_path / "ws", database=database) as workspace:
        secrets = fill(workspace, groups=max(people * 4, int(people * seconds / sum(think))), people=people)
    memory, done = [], threading.Event()
    with studio(tmp_path / "ws", database) as (url, process):
        def watch():
            while not done.wait(seconds / 40):
                memory.append(resident_mb(process))

        watcher = threading.Thread(target=watch)
        watcher.start()
        seen = asyncio.run(crowd(url, secrets, seconds, think))
        done.set()
        watcher.join()
    print("\n", report(seen, memory))
    with Workspace.open(tmp_path / "ws", database=database) as workspace:
        check(workspace, seen)
    return seen, memory


def test_twenty_hasty_people(tmp_path):
    began = time.monotonic()
    seen, _ = run(tmp_path, "", people=20, seconds=4, think=(0.05, 0.3))
    assert seen.problems == {} and len(seen.acknowledged) >= 20 and time.monotonic() - began < 60


@pytest.mark.load
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_five_hundred_labelers(tmp_path, kind, request):
    database = "" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    seen, memory = run(tmp_path, database, people=500, seconds=60 * MINUTES, think=(20, 120))
    assert seen.problems == {}
    assert seen.share("", 0.95) < 0.3 and seen.share("", 0.99) < 1
    settled = memory[len(memory) // 2:]  # after everybody has come, and the caches of pages are full
    assert max(settled) - min(settled) < 0.05 * max(settled)
