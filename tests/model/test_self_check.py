"""A base whose attention cannot take trees is found out, says so, and goes the padded way."""

import pytest
import tiny
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

from tunesmith.model import attention, base, batch

TREES = [batch.Tree((1, 2, 3, 4, 5, 6), ((7, 8, 9, 10), (11, 12))), batch.Tree((5,), ((6, 7, 8),))]
SHAPE = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.1)


def load(folder, model):
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return base.load(str(folder))


def test_llama_takes_trees_silently(tmp_path, capsys):
    llama = tiny.load(tmp_path)
    batch.hidden(llama, batch.build(TREES))
    assert llama.takes_trees is True and "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("model, why", [
    (MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)), "window of 4"),
    (Gemma2ForCausalLM(Gemma2Config(**SHAPE, attn_logit_softcapping=2.0, sliding_window=4)), "window of 4"),
    (Gemma2ForCausalLM(Gemma2Config(**SHAPE, attn_logit_softcapping=2.0, sliding_window=64)), "eager"),
])
def test_windows_and_caps_fall_back_with_a_warning(model, why, tmp_path, capsys):
    odd = load(tmp_path, model)
    built = batch.build(TREES)
    with torch.no_grad():
        states = batch.hidden(odd, built, "tree")
        told = capsys.readouterr().err
        assert why in told and "padded" in told
        alone = odd.trunk(input_ids=torch.tensor([[1, 2, 3, 4, 5, 6, 11, 12]]), use_cache=False).last_hidden_state[0]
    assert odd.takes_trees is False
    torch.testing.assert_close(states[10:12], alone[6:8], atol=1e-5, rtol=1e-5)


def test_attention_that_sees_too_much_is_found_out(tmp_path, capsys, monkeypatch):
    llama = tiny.load(tmp_path)
    monkeypatch.setattr(batch, "layout", lambda spans: attention.layout((attention.Span(0, spans[-1].end),)))
    with torch.no_grad():
        batch.hidden(llama, batch.build(TREES))
    assert llama.takes_trees is False and "differ" in capsys.readouterr().err
