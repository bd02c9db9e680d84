"""The prepared data, our side of every workload on a tiny base, and a whole comparison when TRL is there."""

import os
import re
import subprocess
import sys

import pytest

from benchmarks import data
from benchmarks.catalogue import find
from benchmarks.ours import WORKLOADS
from benchmarks.worker import LONGEST, Job

SHAPE = dict(vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, tie_word_embeddings=True)
OPTIONS = {"ppo": {"value": "trunk", "epochs": 1, "minibatches": 2}, "generate": {"what": "sample"},
           "adapters-8": {"what": "mixed"}}
ROWS = {"grpo": 16, "rloo": 16}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data.SHAPES["minute"], data.STORED = SHAPE, (*data.STORED, "minute")
    folder = data.prepare(None, "minute", tmp_path_factory.mktemp("bench"))
    data.prepare_adapters(folder, "minute")
    yield folder
    del data.SHAPES["minute"]
    data.STORED = data.STORED[:-1]


def test_the_prepared_tokens_are_what_the_chat_template_gives(prepared):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(prepared / "model")
    for row in data.pairs(prepared)[:20]:
        whole = tokenizer.apply_chat_template(data.conversation(row, row["chosen"]), return_dict=False)
        assert row["prompt_ids"] + row["chosen_ids"] == whole
        assert len(whole) <= LONGEST


@pytest.mark.parametrize("workload", WORKLOADS)
def test_our_step_reports_what_it_did(prepared, workload):
    job = Job(workload, "minute", str(prepared), ROWS.get(workload, 4), new=6, options=OPTIONS.get(workload, {}))
    step = WORKLOADS[workload](job)
    first, second = step(0), step(1)
    units = {"sft": first["tokens"], "sft-full": first["tokens"], "generate": 24, "adapters-8": 24}
    assert first["units"] == units.get(workload, job.rows)
    assert first["tokens"] != second["tokens"] or workload in ("generate", "adapters-8")
    if workload.startswith("sft"):
        rows = data.pairs(prepared)[:4]
        assert first["tokens"] == sum(len(r["prompt_ids"]) + len(r["chosen_ids"]) for r in rows)
        assert 5.5 < first["loss"] < 7  # near log 512
    answers = [len(r[f"{key}_ids"]) for r in data.pairs(prepared)[:4] for key in ("chosen", "rejected")]
    read = {"reward": 8, "rankings-4": 16, "rankings-9": 36, "dpo": sum(answers), "ppo": 24, "grpo": 96, "rloo": 96}
    assert first["read"] == (sum(answers[::2]) if workload.startswith("sft") else read.get(workload, 24))
    if workload == "dpo":
        assert first["loss"] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(bool(find("trl").lacking), reason="TRL is not installed")
def test_a_quick_comparison_ends_with_its_ratio(tmp_path):
    done = subprocess.run([sys.executable, "-m", "benchmarks.peers", "sft", "--quick", "--pairs", "1", "--peer", "trl"],
                          env=os.environ | {"BENCH_DATA": str(tmp_path), "BENCH_TEXT": ""}, capture_output=True,
                          text=True, check=True)
    assert re.fullmatch(r"RATIO sft trl [\d.]+ [\d.]+ [\d.]+", done.stdout.splitlines()[-1])
    losses = re.search(r"first step: ours ([\d.]+), theirs ([\d.]+)", done.stdout)
    assert float(losses[1]) == pytest.approx(float(losses[2]), abs=2e-3)
