"""The parts of pretraining that fail silently: rows, masks between documents, resuming."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tunesmith.quickstart import corpus, make_base

BASE = Path(corpus.__file__).parent / "base"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )
    )  # fmt: skip


def test_documents_of_a_row_do_not_see_each_other(model):
    """The loss of a row is that of its documents alone: the mask must reset with the positions."""
    a, b = [1, 5, 6, 7, 2], [1, 8, 9, 10, 11, 2]
    together = make_base.loss_of(model, torch.tensor([a + b]), bfloat16=False).item()
    first = make_base.loss_of(model, torch.tensor([[*a, 1]]), bfloat16=False).item()
    second = make_base.loss_of(model, torch.tensor([b]), bfloat16=False).item()
    assert together == pytest.approx((first * len(a) + second * (len(b) - 1)) / (len(a) + len(b) - 1), abs=1e-5)


def test_packing_keeps_every_document_between_its_marks():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    documents = [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
        [{"role": "text", "content": "It rains."}],
    ]
    ids = make_base.pack(tokenizer, documents)
    assert tokenizer.decode(ids) == "<|begin|><|user|>Hi<|end|><|assistant|>Hello.<|end|><|begin|>It rains.<|end|>"


def test_learning_rate_warms_up_and_falls_to_zero():
    assert make_base.learning_rate(0, 0.0) == pytest.approx(make_base.PEAK_LR / make_base.WARMUP_STEPS)
    assert make_base.learning_rate(5000, 0.0) == make_base.PEAK_LR
    assert make_base.learning_rate(5000, 0.5) == pytest.approx(make_base.PEAK_LR / 2)
    assert make_base.learning_rate(5000, 1.0) == pytest.approx(0)


def test_rows_come_from_the_desk_by_its_share():
    desk, real = np.full(2000, 7, np.uint16), np.full(2000, 9, np.uint16)
    rng = np.random.default_rng(0)
    batches = torch.cat([make_base.rows(desk, real, 0.75, rng) for _ in range(60)])
    assert batches.shape == (60 * make_base.ROWS_PER_STEP, make_base.ROW + 1)
    assert (batches[:, 0] == 7).float().mean().item() == pytest.approx(0.75, abs=0.06)


def test_a_resumed_run_ends_where_the_whole_run_ends(model, tmp_path):
    rng = np.random.default_rng(0)
    stream = rng.integers(3, 40, 4000).astype(np.uint16)
    plan = Namespace(
        out=tmp_path, seed=0, steps=4, minutes=None, precision="float32", resume=False, decay_from=1.0 - 1e-9
    )
    start = {k: v.clone() for k, v in model.state_dict().items()}
    make_base.pretrain(model, stream, stream, plan)
    whole = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(start)
    make_base.pretrain(model, stream, stream, Namespace(**vars(plan) | {"steps": 2}))
    for p in model.parameters():
        p.data.zero_()  # everything must come from the checkpoint
    make_base.pretrain(model, stream, stream, Namespace(**vars(plan) | {"resume": True}))
    assert all(torch.equal(whole[k], v) for k, v in model.state_dict().items())
    assert any(not torch.equal(start[k], v) for k, v in whole.items())


def test_only_train_rows_of_open_sets_are_read(tmp_path):
    import gzip

    for source in corpus.SOURCES:
        rows = [
            {"split": s, "text": s, "turns": [["user", s]], "messages": [{"role": "user", "text": s}]}
            for s in ("train", "dev")
        ]
        (tmp_path / source).parent.mkdir(exist_ok=True)
        with gzip.open(tmp_path / f"{source}.jsonl.gz", "wt") as out:
            out.writelines(json.dumps(r) + "\n" for r in rows)
    documents = corpus.real_documents(tmp_path, seed=0)
    assert len(documents) == len(corpus.SOURCES)
    assert {m["content"] for d in documents for m in d} == {"train"}
    assert not any(source.startswith("evaluations") for source in corpus.SOURCES)
