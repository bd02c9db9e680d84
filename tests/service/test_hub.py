"""Names among a thousand adapters, and which of them stay in memory."""

import asyncio
import threading

import pytest
from service_fakes import FakeEngine

from tunesmith.contracts import Sampling
from tunesmith.errors import NotFound
from tunesmith.records import Message
from tunesmith.service.hub import Ask, Hub, Limits, Shelf
from tunesmith.service.metrics import Metrics
from tunesmith.service.refusals import Refusal

PROMPT = (Message("user", "What is the rate?"),)


@pytest.fixture
def shelf(tmp_path):
    """A shelf for three adapters of 100 bytes; `shelf.hold_one(name)`."""
    done = []
    made = Shelf(lambda name, folder: done.append(("load", name)), lambda name: done.append(("drop", name)), 300,
                 Metrics())
    (tmp_path / "w.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "card.md").write_bytes(b"x" * 1000)
    made.done = done
    made.hold_one = lambda name, stamp="": made.hold(name, stamp, lambda: tmp_path)
    return made


def test_the_one_used_longest_ago_makes_room(shelf):
    for name in "abc":
        shelf.hold_one(name)
        shelf.release(name)
    shelf.hold_one("a")
    shelf.release("a")
    shelf.hold_one("d")
    assert shelf.done == [*(("load", n) for n in "abc"), ("drop", "b"), ("load", "d")]
    assert list(shelf.sizes) == ["c", "a", "d"]


def test_what_is_in_use_stays_whatever_it_takes(shelf):
    for name in "abcde":
        shelf.hold_one(name)
    assert [what for what, _ in shelf.done] == ["load"] * 5  # over the limit, all in use
    shelf.hold_one("b")
    shelf.release("b")
    shelf.release("a")
    assert shelf.done[5:] == [("drop", "a")]
    shelf.release("b")
    assert shelf.done[6:] == [("drop", "b")]  # the second release, not the first
    shelf.hold_one("a")
    assert shelf.done[7:] == [("load", "a")]


def test_another_adapter_under_the_same_name_is_read_anew(shelf):
    shelf.hold_one("a", "monday")
    with pytest.raises(Refusal, match="deleted and made anew"):
        shelf.hold_one("a", "tuesday")
    shelf.release("a")
    shelf.hold_one("a", "tuesday")
    assert shelf.done == [("load", "a"), ("drop", "a"), ("load", "a")]


def test_a_load_that_fails_leaves_nothing(shelf):
    def fails(name, folder):
        raise ValueError("damaged")

    plain, shelf.load = shelf.load, fails
    with pytest.raises(ValueError):
        shelf.hold_one("a")
    shelf.load = plain
    shelf.hold_one("a")
    shelf.release("a")
    assert list(shelf.sizes) == ["a"]


def test_names_mean_versions(workspace, engine):
    hub = Hub(workspace, lambda: engine, base="tiny")
    assert (hub.card("tone").adapter, hub.card("tone@1").adapter, hub.card("tiny").adapter) == ("tone@2", "tone@1", "")
    for name in ("judge", "tone@9", "tone@x", "nobody", "tone@"):
        with pytest.raises(NotFound, match="does not exist"):
            hub.card(name)
    assert str(workspace.find_adapter("tone")) == "tone@2" and workspace.find_adapter("nobody") is None
    hub.close()


def test_requests_of_several_loops_and_a_hub_that_closes(workspace):
    """Each gets its own answer, in its own loop, from one thread."""
    engine = FakeEngine()
    hub = Hub(workspace, lambda: engine, base="tiny", limits=Limits(memory=1))
    texts = []

    def talk(model):
        async def ask():
            running = await hub.open(Ask(PROMPT, Sampling(9), hub.card(model), live=True))
            try:
                texts.append("".join([p.text async for p in running.pieces()]))
            finally:
                running.close()

        asyncio.run(ask())

    threads = [threading.Thread(target=talk, args=(m,)) for m in ("tone", "tiny", "tone@1")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(texts) == 3 and len(set(texts)) == 1 and engine.threads == {"engine"} and not engine.jobs
    hub.close()
