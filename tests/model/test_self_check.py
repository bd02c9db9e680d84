"""A base whose attention cannot take trees is found out, says so, and goes the padded way."""

import pytest
import tiny
import torch
import transformers as hf

from tunesmith.model import adapters, attention, base, batch

TREES = [batch.Tree((1, 2, 3, 4, 5, 6), ((7, 8, 9, 10), (11, 12))), batch.Tree((5,), ((6, 7, 8),))]
SHAPE = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.1)
WIDE = dict(**SHAPE, intermediate_size=48, num_key_value_heads=2, head_dim=8, max_position_embeddings=4096)
ODD = {
    "bloom": (hf.BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.1), "eager"),
    "mpt": (hf.MptConfig(vocab_size=300, d_model=32, n_layers=2, n_heads=4, max_seq_len=64), "eager"),
    "falcon-alibi": (hf.FalconConfig(**SHAPE, alibi=True), "sdpa"),
    "gpt-neo": (hf.GPTNeoConfig(vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, window_size=4,
                                attention_types=[[["global", "local"], 1]], max_position_embeddings=64), "eager"),
    "mamba": (hf.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, initializer_range=0.1), "eager"),
    "gpt-oss": (hf.GptOssConfig(**WIDE, num_local_experts=2, num_experts_per_tok=1), "eager"),
    "qwen3-next": (hf.Qwen3NextConfig(
        **WIDE, linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
        num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16, shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"]), "hidden states differ"),
}


def load(folder, config):
    torch.manual_seed(3)
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return base.load(str(folder))


def test_llama_takes_trees_silently(tmp_path, capsys):
    llama = tiny.load(tmp_path)
    batch.hidden(llama, batch.build(TREES))
    assert llama.takes_trees is True and "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ODD)
def test_other_kinds_of_attention_fall_back_with_one_line_and_stay_right(name, tmp_path, capsys):
    """ALiBi, recurrence, sinks, attention of their own: what comes out is transformers' own answer."""
    config, why = ODD[name]
    odd = load(tmp_path, config)
    with torch.no_grad():
        states = batch.hidden(odd, batch.build(TREES), "tree")
        told = capsys.readouterr().err
        assert told.count("warning") == told.count("\n") == 1 and why in told and "padded" in told
        plain = hf.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        alone = plain(input_ids=torch.tensor([[1, 2, 3, 4, 5, 6, 11, 12]]), use_cache=False).logits[0]
    assert odd.takes_trees is False
    torch.testing.assert_close(odd.logits(states[10:12]), alone[6:8], atol=1e-5, rtol=1e-5)


def broken(monkeypatch, wrong):
    monkeypatch.setattr(batch, "layout", lambda spans, kernel: attention.layout(wrong(spans), kernel))


@pytest.mark.parametrize("wrong", [
    lambda s: (attention.Span(0, s[-1].end),),                                                # a document sees another
    lambda s: (*s[:2], attention.Span(s[2].start, s[2].end, (s[1].start, s[1].end)), s[3]),   # a sibling for its prompt
    lambda s: (*s[:2], attention.Span(s[2].start, s[2].end), s[3]),                           # no prompt
])
def test_attention_that_sees_other_things_is_found_out(wrong, tmp_path, capsys, monkeypatch):
    llama = tiny.load(tmp_path)
    broken(monkeypatch, wrong)
    with torch.no_grad():
        batch.hidden(llama, batch.build(TREES))
    assert llama.takes_trees is False and "states differ" in capsys.readouterr().err


def test_a_wrong_gradient_is_found_out(tmp_path, capsys, monkeypatch):
    """The right numbers forward, and nothing flows back into the prompt from its answers."""
    llama = tiny.load(tmp_path)
    right = attention._attention

    def wrong(query, key, value, *more):
        own = query.shape[2]
        cut = [torch.cat([x[:, :, :-own].detach(), x[:, :, -own:]], 2) for x in (key, value)]
        return right(query, *cut, *more)

    monkeypatch.setattr(attention, "_attention", wrong)
    monkeypatch.setattr(attention, "SHORT", 0)
    batch.hidden(llama, batch.build(TREES))
    assert llama.takes_trees is False and "gradients differ" in capsys.readouterr().err


def test_a_small_window_is_tried_out(tmp_path, capsys, monkeypatch):
    """A layer that ignores its window differs within the check's reach."""
    mistral = load(tmp_path, hf.MistralConfig(**WIDE, sliding_window=8))
    attend = attention.attend
    monkeypatch.setattr(attention.Plan, "mask", lambda self, block, window, like, mask=attention.Plan.mask:
                        mask(self, block, None, like))
    batch.hidden(mistral, batch.build(TREES))
    assert mistral.takes_trees is False and "states differ" in capsys.readouterr().err
    assert attention.attend is attend


def test_a_wide_window_that_layers_do_not_pass_on_is_found_out(tmp_path, capsys, monkeypatch):
    """The masks would slide over 2,000 tokens, the layers do not say so."""
    config = hf.MistralConfig(**WIDE, sliding_window=2000)
    mistral = load(tmp_path / "right", config)
    batch.hidden(mistral, batch.build(TREES))
    assert mistral.takes_trees is True
    mistral = load(tmp_path / "wrong", config)
    plug = attention.attend
    monkeypatch.setitem(hf.AttentionInterface._global_mapping, attention.NAME,
                        lambda *a, sliding_window=None, **k: plug(*a, **k))
    batch.hidden(mistral, batch.build(TREES))
    assert mistral.takes_trees is False and "slide over [2000]" in capsys.readouterr().err


def test_a_kernel_that_throws_gives_way_to_the_next(tmp_path, capsys, monkeypatch):
    """As on a GPU whose compiler fails: from flex to blocks, with one line, and the same numbers."""
    llama = tiny.load(tmp_path)
    monkeypatch.setattr(batch, "_kernels", lambda base: ["flex", "blocks"])

    def fails():
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(attention, "compiled_flex", fails)
    with torch.no_grad():
        found = batch.hidden(llama, batch.build(TREES))
        told = capsys.readouterr().err
        assert (llama.takes_trees, llama.kernel) == (True, "blocks")
        assert told.count("\n") == 1 and "RuntimeError: no compiler; falling back from flex to blocks" in told
        torch.testing.assert_close(found, batch.hidden(llama, batch.build(TREES), "padded"), atol=1e-5, rtol=1e-5)


def test_the_check_runs_inside_inference_with_an_adapter_and_leaves_nothing(tmp_path, capsys):
    llama = tiny.load(tmp_path)
    adapters.attach(llama, "one", adapters.Method(rank=4, alpha=8), seed=0)
    tiny.shake(llama, "one")
    with torch.inference_mode(), adapters.active(llama, "one"):
        batch.hidden(llama, batch.build(TREES))
    assert llama.takes_trees is True and "warning" not in capsys.readouterr().err
    assert all(p.grad is None for p in llama.model.parameters())
    assert not llama.model.get_input_embeddings()._forward_hooks
