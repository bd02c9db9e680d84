"""Adapters of a workspace merged and compared, from the command line."""

import json
import random
import shutil

import pytest
import tiny
from lab import ask

from tunesmith import cli
from tunesmith.records import Demonstration, Message
from tunesmith.train import sft


@pytest.fixture
def library(lab):
    for name in ("ab", "xy"):
        rng = random.Random(3)
        rows = [Demonstration((*ask(i), Message("assistant", "".join(rng.choice(name) for _ in range(6)))))
                for i in range(32)]
        lab.workspace.add_dataset(name, "demonstrations", rows, licence="CC BY 4.0" if name == "xy" else "")
        sft.train(lab.workspace, lab.base(), lab.sft(name=name, data=name, batch=16, epochs=4, checkpoint_every=1000))
    return lab


def run(lab, capsys, *words):
    code = cli.main([*words, "--workspace", str(lab.root), "--json"])
    out, err = capsys.readouterr()
    return json.loads(out) if code == 0 else (code, err)


def test_the_matrix_and_a_fitted_merge(library, capsys):
    found = run(library, capsys, "adapters", "transfer", "ab", "xy", "--data", "ab", "xy", "--limit", "12")
    assert [row["best"] for row in found["rows"]] == ["ab@1", "xy@1"]
    made = run(library, capsys, "adapters", "merge", "ab", "xy", "--name", "both", "--fit", "xy", "--examples", "8")
    assert made["adapter"] == "both@1" and made["weights"]["xy@1"] > made["weights"]["ab@1"] and made["lost"] == 0
    adapter = library.workspace.adapter("both")
    assert adapter.lineage["parents"] == {"part 1": "ab@1", "part 2": "xy@1"}
    assert made["licences"] == {"ab": "", "xy": "CC BY 4.0"}
    shown = run(library, capsys, "adapters", "show", "both")
    assert shown["licences of what it learned from"] == made["licences"] and shown["evaluations"] == []
    assert adapter.lineage["data"] == {"xy": library.workspace.dataset("xy").fingerprint}
    beside = run(library, capsys, "adapters", "transfer", "--data", "xy")
    assert set(beside["rows"][0]["gain"]) == {"ab@1", "xy@1", "both@1", "sft@1"}
    assert beside["rows"][0]["gain"]["both@1"]["value"] > beside["rows"][0]["gain"]["ab@1"]["value"]


def test_the_same_weights_under_another_template_are_another_base(library, capsys, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(library.model, folder)
    (folder / "chat_template.jinja").write_text(tiny.CHATML.replace("assistant", "bot"))
    code, said = run(library, capsys, "adapters", "transfer", "ab", "--data", "ab", "--base", str(folder))
    assert code == 2 and "had another tokenizer or chat template" in said


def test_a_smaller_rank_says_what_it_lost(library, capsys):
    made = run(library, capsys, "adapters", "merge", "ab", "xy", "--name", "small", "--rank", "2")
    assert made["rank"] == 2 and 0.01 < made["lost"] < 1
    made = run(library, capsys, "adapters", "merge", "ab", "xy", "--name", "few", "--how", "ties", "--weights", "1",
               "1")
    assert made["rank"] == 4 and made["weights"] == {"ab@1": 1.0, "xy@1": 1.0}


@pytest.mark.parametrize(("words", "message"), [
    (["ab", "--name", "m", "--weights", "1", "2"], "2 for 1 adapters"),
    (["ab", "likes-a", "--name", "m"], "reward model"),
    (["ab", "nobody", "--name", "m"], 'no adapter "nobody"'),
    (["ab", "xy", "--name", "m", "--fit", "ab", "--weights", "1", "1"], "give one of them"),
    (["ab", "xy", "--name", "m", "--fit", "prompts"], "prompts holds prompts, not demonstrations"),
    (["--name", "m"], '"adapters" is required'),
])
def test_what_cannot_be_merged_is_refused(library, capsys, words, message):
    code, said = run(library, capsys, "adapters", "merge", *words)
    assert code == 2 and message in said and "Traceback" not in said
