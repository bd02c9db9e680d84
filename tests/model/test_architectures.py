"""Every listed architecture, as a user would load it, against the plain model on unpadded rows, one at a time."""

import pytest
import tiny
import torch
import transformers as hf

from tunesmith.model import adapters, attention
from tunesmith.model import base as bases
from tunesmith.model.attention import Span
from tunesmith.model.batch import Tree, build, hidden

SHAPE = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=64, initializer_range=0.1, pad_token_id=0, eos_token_id=1, bos_token_id=2)
GROUPED = SHAPE | dict(num_key_value_heads=2)
WIDE = GROUPED | dict(head_dim=8)
BOTH = dict(sliding_window=4, layer_types=["sliding_attention", "full_attention"])
CONFIGS = {
    "llama": hf.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "qwen2": hf.Qwen2Config(**GROUPED),
    "qwen2-window": hf.Qwen2Config(**GROUPED, **BOTH, use_sliding_window=True),
    "qwen3": hf.Qwen3Config(**WIDE),
    "mistral": hf.MistralConfig(**WIDE, sliding_window=None),
    "mistral-window": hf.MistralConfig(**WIDE, sliding_window=4),
    "gemma": hf.GemmaConfig(**WIDE),
    "gemma2": hf.Gemma2Config(**WIDE, **BOTH, attn_logit_softcapping=0.5, final_logit_softcapping=2.0),
    "gemma3": hf.Gemma3TextConfig(**WIDE, **BOTH),
    "phi": hf.PhiConfig(**GROUPED, partial_rotary_factor=0.5),
    "phi3": hf.Phi3Config(**GROUPED),
    "phi3-window": hf.Phi3Config(**GROUPED, sliding_window=4),
    "gpt2": hf.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.1,
                          bos_token_id=2, eos_token_id=1),
    "gpt-neox": hf.GPTNeoXConfig(**SHAPE, rotary_pct=0.5),
    "opt": hf.OPTConfig(vocab_size=300, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                        max_position_embeddings=64, init_std=0.1, word_embed_proj_dim=16, pad_token_id=0,
                        eos_token_id=1, bos_token_id=2),
    "olmo2": hf.Olmo2Config(**GROUPED),
    "smollm3": hf.SmolLM3Config(**GROUPED, no_rope_layers=[1, 0]),
    "smollm3-window": hf.SmolLM3Config(**GROUPED, **BOTH, use_sliding_window=True, no_rope_layers=[1, 0]),
}
TREES = (
    Tree((3, 4, 5, 6, 7), ((9, 10, 11, 12), (13,), (14, 15, 16, 17, 18, 19, 20))),
    Tree((20, 21), ((22, 23, 24, 25, 26, 27),)),
    Tree((30,), ((31, 32), (33, 34, 35))),
)
PACKED = tuple(Tree((40 + i, 50 + i), ((60 + i, *range(70, 75 + i)),)) for i in range(4))


@pytest.fixture(scope="module", params=CONFIGS)
def base(request, tmp_path_factory):
    """float32, with an adapter on every linear layer, both of whose halves matter."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(3)
    hf.AutoModelForCausalLM.from_config(CONFIGS[request.param]).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    base = bases.load(str(folder))
    base.folder = folder
    adapters.attach(base, "one", adapters.Method(rank=4, alpha=8), seed=0)
    tiny.shake(base, "one", size=0.1)
    return base


@pytest.fixture(params=[0, attention.SHORT], ids=["spans", "joined"])
def joined(request, monkeypatch):
    """Short trees span by span, and as one masked block."""
    monkeypatch.setattr(attention, "SHORT", request.param)


def far(a, b):
    """The largest difference, as a share of the largest number."""
    return float((a - b).abs().max() / b.abs().max())


def alone(base, tokens):
    """The plain model's logits and last hidden states of one unpadded row, with its own output layer."""
    out = base.model(input_ids=torch.tensor([list(tokens)]), output_hidden_states=True, use_cache=False)
    return out.hidden_states[-1][0], out.logits[0]


def rows(base, trees):
    """The plain model's states and logits in the order of the stream."""
    found = []
    for tree in trees:
        each = [alone(base, tree.prompt + answer) for answer in tree.answers]
        length = len(tree.prompt)
        found += [[x[:length] for x in each[0]], *([x[length:] for x in pair] for pair in each)]
    return [torch.cat(x) for x in zip(*found)]


def test_the_base_is_loaded_as_transformers_means_it(base):
    """Logits of two padded rows equal those of transformers' eager attention: scales, caps and masks are all there."""
    model = hf.AutoModelForCausalLM.from_pretrained(base.folder, attn_implementation="eager").eval()
    ids = torch.arange(3, 29).view(2, 13)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    with torch.no_grad(), adapters.active(base, ""):
        want = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask.bool()]
        states = base.trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[mask.bool()]
    assert far(base.logits(states), want) < 1e-5


@pytest.mark.parametrize("trees", [TREES, PACKED], ids=["trees", "packed"])
@pytest.mark.parametrize("way", ["tree", "padded"])
def test_logits_equal_unpadded_rows(base, joined, way, trees):
    """1e-5 of the largest, at every position of every prompt and answer; nothing falls back."""
    with torch.no_grad(), adapters.active(base, "one"):
        states = hidden(base, build(trees), way)
        want = rows(base, trees)
    assert base.takes_trees is not False
    assert far(states, want[0]) < 1e-5 and far(base.logits(states), want[1]) < 1e-5


def test_gradients_equal_unpadded_rows(base, joined):
    """1e-4 of the largest, for both halves of the adapter in every layer, through a loss at every position."""
    weights = adapters.trainable(base, "one")
    size = build(TREES).tokens_T.shape[0]
    factors = torch.linspace(-1, 2, size)

    def gradients(states, logits):
        loss = (logits.log_softmax(-1)[:, 7] * factors).sum() + (states.sin().mean(1) * factors.flip(0)).sum()
        return torch.autograd.grad(loss, list(weights.values()))

    def through(way):
        states = hidden(base, build(TREES), way)
        return states, base.logits(states)

    with adapters.active(base, "one"):
        want = gradients(*rows(base, TREES))
        for way in ("tree", "padded"):
            found = gradients(*through(way))
            assert far(torch.cat([x.flatten() for x in found]), torch.cat([x.flatten() for x in want])) < 1e-4
            for name, a, b in zip(weights, found, want):
                assert b.abs().max() > 0 and far(a, b) < 1e-3, name
    assert any("lora_A" in n for n in weights) and any("lora_B" in n for n in weights)


def moved(base, trees, k, spans=None):
    """How far states (elsewhere, in the k-th span) move when every token of the k-th span changes."""
    batch = build(trees)
    changed = batch.tokens_T.clone()
    own = torch.zeros_like(changed, dtype=torch.bool)
    own[batch.spans[k].start:batch.spans[k].end] = True
    changed[own] += 100
    found = []
    for tokens in (batch.tokens_T, changed):
        object.__setattr__(batch, "tokens_T", tokens)
        if spans:
            object.__setattr__(batch, "spans", spans)
        with torch.no_grad(), adapters.active(base, "one"):
            found.append(hidden(base, batch))
    difference = (found[0] - found[1]).abs().amax(1)
    return float(difference[~own].max()), float(difference[own].min())


@pytest.mark.parametrize("trees, k", [(PACKED, 0), (PACKED, 1), (TREES, 1), (TREES, 2), (TREES, 4)])
def test_documents_and_siblings_never_see_each_other(base, joined, trees, k):
    """Changing one document, or one answer, moves no other by a bit."""
    others, itself = moved(base, trees, k)
    assert others == 0.0 and itself > 1e-4


@pytest.mark.parametrize("trees, wrong", [
    (PACKED, lambda s: (*s[:2], Span(s[2].start, s[3].end))),  # two documents taken for one
    (PACKED, lambda s: (*s[:3], Span(s[3].start, s[3].end, (s[2].start, s[2].end)))),
    (TREES, lambda s: (*s[:3], Span(s[3].start, s[3].end, (s[2].start, s[2].end)), *s[4:])),  # sees its sibling
])
def test_that_test_would_notice(base, joined, trees, wrong):
    """A layout that lets one through must fail it."""
    others, _ = moved(base, trees, 2, wrong(build(trees).spans))
    assert others > 1e-4


def test_read_positions_alone(base):
    """What is computed for a few positions is what is computed for all."""
    batch = build(TREES)
    with torch.no_grad(), adapters.active(base, "one"):
        whole = hidden(base, batch)
        assert far(hidden(base, batch, at=batch.source_N), whole[batch.source_N]) < 1e-5
