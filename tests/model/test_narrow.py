"""The last block's MLP computes only what is read, and nobody can tell from the result."""

import pytest
import tiny
import torch

from tunesmith.model import adapters
from tunesmith.model import base as bases
from tunesmith.model.batch import Tree, build, hidden

TREES = [Tree(tuple(range(5, 16)), ((20, 21, 22), (30, 31))), Tree((40, 41, 42), ((50,),))]


@pytest.mark.parametrize("way", ["tree", "padded"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_states_and_gradients_at_the_read_positions_are_those_of_the_whole(saved, architecture, way):
    base = bases.load(str(saved[architecture]))
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), seed=0)
    tiny.shake(base, "policy")
    weights = adapters.trainable(base, "policy")
    base.model.double()
    batch = build(TREES)
    found = []
    for narrowed in (True, False):
        with adapters.active(base, "policy"):
            states = hidden(base, batch, way, batch.source_N) if narrowed else hidden(base, batch, way)[batch.source_N]
        (states.sin() * torch.arange(states.shape[1])).sum().backward()
        found.append([states.detach(), *(p.grad.clone() for p in weights.values())])
        base.model.zero_grad()
    assert len(batch.source_N.unique()) < len(batch.source_N) < len(batch.tokens_T)  # a prompt's end is read twice
    for narrow, whole in zip(*found):
        torch.testing.assert_close(narrow, whole, rtol=1e-9, atol=1e-9)


def test_a_narrowed_mlp_hands_on_the_dtype_of_the_whole_one(base):
    """Products in bf16 over fp32 weights: a GPU refuses to copy one into the other."""
    base.compute, found, batch = torch.bfloat16, [], build(TREES)
    hidden(base, batch)
    base.model.model.layers[-1].mlp.register_forward_hook(lambda m, x, y: found.append(y.dtype))
    for at in (None, batch.last_A):
        hidden(base, batch, "tree", at)
    assert found == [torch.bfloat16] * 2


def test_the_mlp_sees_only_those_rows(base):
    seen = []
    base.model.model.layers[-1].mlp.down_proj.register_forward_hook(lambda m, x, y: seen.append(y.shape[-2]))
    batch = build(TREES)
    hidden(base, batch)  # the self-check's passes too
    seen.clear()
    with torch.no_grad():
        hidden(base, batch, "tree", batch.last_A)
        hidden(base, batch)
    assert seen == [3, len(batch.tokens_T)]
