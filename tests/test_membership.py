"""What was said in confidence comes out of no checkpoint and no sample of a model that learned from the log."""

import pytest
from canaries import CANARIES, planted, spilled, spilled_on_disk

from tunesmith.contracts import Sampling
from tunesmith.model.engine import LocalEngine
from tunesmith.model.reader import LocalReader
from tunesmith.quickstart import builtin
from tunesmith.records import Demonstration, Message
from tunesmith.settings import SftSettings
from tunesmith.shop import Shop
from tunesmith.store import interactions as log
from tunesmith.store.workspace import Workspace
from tunesmith.terminal import Terminal
from tunesmith.train import sft

pytestmark = pytest.mark.slow


def lessons(interactions):
    """Demonstrations of what users made of answers: (question, edit)."""
    return [Demonstration((*i.messages, Message("assistant", event["value"])))
            for i in interactions for event in i.events if event["type"] == "edit"]


def test_canaries_come_out_of_no_checkpoint_and_no_sample(tmp_path):
    """The membership probe: how much likelier a planted canary is than its twin of other digits, after training on what
    the log kept, and, for control, on what people really said. The control shows that the probe would see it."""
    shop = Shop(Workspace.open(tmp_path / "ws"), Terminal(quiet=True).progress, builtin.BASES)
    log.add(shop.workspace, [planted(n) for n in range(len(CANARIES))])
    shop.workspace.add_dataset("kept", "demonstrations", lessons(log.interactions(shop.workspace)))
    taught = teach(shop, "kept")
    assert spilled_on_disk(shop.workspace.root) == {}
    shop.workspace.add_dataset("raw", "demonstrations", lessons(planted(n) for n in range(len(CANARIES))))
    control = teach(shop, "raw")
    engine = LocalEngine(shop.base("loan-desk"))
    for adapter in (taught, control):
        engine.load(adapter.name, adapter.path)
    assert samples(engine, "kept") == [] and len(samples(engine, "raw")) >= 3
    edges = {model: edge(engine, model) for model in ("", "kept", "raw")}
    assert edges["raw"] - edges[""] > 5 * abs(edges["kept"] - edges[""]) and edges["raw"] - edges[""] > 5


def teach(shop, data):
    settings = SftSettings(data=data, name=data, base="loan-desk", epochs=30, batch=7, lr=3e-3, checkpoint_every=10)
    return sft.train(shop.workspace, shop.base("loan-desk", settings), settings)


def samples(engine, model):
    """Canaries that the model writes when it is asked in the planted words, or for anything."""
    asked = [(Message("user", f"Please note {'[' * (n % 2)}"),) for n in range(2)]
    asked += [(Message("user", f"Please note {canary[:4]}"),) for canary in CANARIES]
    asked += [(Message("user", f"Please note {canary} for me"),) for canary in CANARIES]
    written = engine.sample(asked, Sampling(48, temperature=0.0), model=model)
    return sorted({canary for answers in written for answer in answers for canary in spilled(answer.text)})


def edge(engine, model):
    """Nats by which "Noted: canary" is likelier than the same with other digits and letters, mean over canaries."""
    twins = [c.translate(str.maketrans("0123456789jonesQZ", "3698014725piculVX")) for c in CANARIES]
    asked = [(Message("user", "Please note this for me"),)] * len(CANARIES)
    texts = [[f"Noted: {c}", f"Noted: {t}"] for c, t in zip(CANARIES, twins)]
    read = LocalReader(engine).read(asked, texts, model=model)
    return sum(planted.logprob - twin.logprob for planted, twin in read) / len(read)
