"""Slots are taken only where they give what padded rows give, and whoever falls back says why."""

import pytest
import tiny
import torch
import transformers as hf
from test_engine import PROMPTS, fresh, make, seeds
from test_head_check import SHAPE, save

from tunesmith.contracts import Sampling
from tunesmith.model import attention, decoding
from tunesmith.model import base as bases
from tunesmith.model.engine import LocalEngine


def told(capsys):
    return capsys.readouterr().err


def test_layers_with_keys_of_different_shapes_are_written_in_padded_rows(tmp_path, capsys):
    """Gemma 4: it takes trees, and its keys do not fit into one block."""
    config = hf.AutoConfig.for_model("gemma4_text", **SHAPE, head_dim=8, global_head_dim=16, sliding_window=16,
                                     layer_types=["sliding_attention", "full_attention"],
                                     vocab_size_per_layer_input=300, hidden_size_per_layer_input=0)
    made = LocalEngine(bases.load(save(tmp_path, config)))
    capsys.readouterr()
    rows = made.generate(PROMPTS, Sampling(4), seeds(PROMPTS))
    err = told(capsys)
    assert made.padded and made.base.takes_trees and all(tokens for tokens, _ in rows)
    assert err.count("\n") == 1 and "RuntimeError: stack expects" in err and "padded rows, which is slower" in err


def test_slots_that_differ_are_found_out(base, capsys, monkeypatch):
    write = decoding.SlotRows.write
    monkeypatch.setattr(decoding.SlotRows, "write", lambda *a: write(*a) * 1.01)
    assert not decoding.takes_slots(base) and "slots differ from padded rows by 1.0e-02" in told(capsys)


def test_an_unknown_kind_of_layer_is_named(base, capsys, monkeypatch):
    monkeypatch.setattr(decoding, "windows", lambda config: {"full_attention": None, "chunked_attention": 8})
    assert not decoding.takes_slots(base) and "do not know, chunked_attention" in told(capsys)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_base_that_computes_in_bf16_over_fp32_weights_writes_too(saved, architecture, capsys):
    """As after full fine-tuning: prompts and steps hand over keys of different dtypes."""
    made = make(saved[architecture], ending=-100.0)
    made.base.compute = torch.bfloat16
    rows = made.generate(PROMPTS, Sampling(6), seeds(PROMPTS), model="m")
    assert made.padded is False and told(capsys) == ""
    found = [x for _, logprobs in rows for x in logprobs]
    again = [x for prompt, (tokens, _) in zip(PROMPTS, rows) for x in fresh(made, prompt, tokens)]
    made.base.compute = None
    exact = [x for prompt, (tokens, _) in zip(PROMPTS, rows) for x in fresh(made, prompt, tokens)]
    assert found != pytest.approx(exact, abs=1e-4) and found == pytest.approx(again, abs=0.1)


def test_prompts_read_together_take_the_base_s_kernel(saved, monkeypatch):
    """As on a GPU; FlexAttention uncompiled runs forward on a CPU. One prompt alone is one SDPA call."""
    from torch.nn.attention.flex_attention import flex_attention

    made, calls = make(saved["qwen3"], ending=2.0), []
    want = made.generate(PROMPTS, Sampling(8), seeds(PROMPTS), model="m")
    monkeypatch.setattr(attention, "compiled_flex",
                        lambda: lambda *a, **k: (calls.append(a[0].shape[2]), flex_attention(*a, **k))[1])
    made.base.kernel = "flex"
    found = made.generate(PROMPTS, Sampling(8), seeds(PROMPTS), model="m")
    assert [t for t, _ in found] == [t for t, _ in want] and set(calls) == {sum(map(len, PROMPTS))}
    calls.clear()
    made.generate(PROMPTS[:1], Sampling(8), seeds(PROMPTS[:1]), model="m")
    assert calls == []


def test_llama_takes_slots_silently(tmp_path, capsys):
    assert decoding.takes_slots(tiny.load(tmp_path)) and told(capsys) == ""
