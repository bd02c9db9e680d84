"""The attention kernels against one dense computation that spells out who sees whom."""

import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith.model import attention
from tunesmith.model.attention import Plan, Span, attend, layout

STREAMS = {
    "tree": [(5, (3, 1, 6)), (4, ()), (2, (3, 3))],
    "documents": [(7, ()), (1, ()), (12, ())],
    "beyond one tile": [(90, (40, 60)), (700, ()), (30, (20, 10))],  # FlexAttention works in tiles of 128
}


def spans(trees):
    """[(prompt, answers' lengths)] as spans."""
    found, end = [], 0
    for prompt, answers in trees:
        context = (end, end + prompt)
        end += prompt
        found.append(Span(*context))
        for answer in answers:
            found.append(Span(end, end + answer, context))
            end += answer
    return found


@functools.cache
def visible(stream, window):
    """Who sees whom, token by token: [T, T]."""
    path = []  # of each token: (tree, answer or none, position)
    for t, (prompt, answers) in enumerate(STREAMS[stream]):
        path += [(t, None, i) for i in range(prompt)]
        for a, length in enumerate(answers):
            path += [(t, a, prompt + i) for i in range(length)]
    return torch.tensor([[t == u and (b is None or a == b) and i >= j and (window is None or i - j < window)
                          for u, b, j in path] for t, a, i in path])


def heads(size, grouped=True, dtype=torch.float64, device="cpu"):
    torch.manual_seed(size)
    return [torch.randn(1, h, size, 16, dtype=dtype, device=device, requires_grad=True)
            for h in (4, 2 if grouped else 4, 2 if grouped else 4)]


def dense(query, key, value, seen, cap):
    """All scores at once, [1, T, H, D/H]."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = query @ key.mT / query.shape[3] ** 0.5
    scores = scores if cap is None else cap * (scores / cap).tanh()
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2)


def through(kernel, stream, qkv, window, cap):
    with layout(spans(STREAMS[stream]), kernel):
        return attend(None, *qkv, None, sliding_window=window, softcap=cap)[0]


def far(a, b):
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.mark.parametrize("window", [None, 1, 2, 5, 100])
@pytest.mark.parametrize("stream", STREAMS)
def test_the_mask_function_means_the_tree(stream, window):
    plan = Plan(spans(STREAMS[stream]))
    every = torch.arange(plan.spans[-1].end)
    assert torch.equal(plan.sees(window)(0, 0, every[:, None], every[None, :]), visible(stream, window))


@pytest.mark.parametrize("short", [0, attention.SHORT, 10**6])
def test_blocks_cover_the_stream_and_see_what_they_should(short, monkeypatch):
    """Each block's mask, put where its queries and keys are, makes up the whole."""
    monkeypatch.setattr(attention, "SHORT", short)
    stream = "beyond one tile"
    plan = Plan(spans(STREAMS[stream]))
    whole = torch.zeros(plan.spans[-1].end, plan.spans[-1].end, dtype=torch.bool)
    for block in plan.blocks:
        own = torch.arange(block.start, block.end)
        keys = own if block.context is None else torch.cat([torch.arange(*block.context), own])
        mask = plan.mask(block, None, torch.zeros(1))
        whole[own[:, None], keys] = torch.ones(len(own), len(own)).tril().bool() if mask is None else mask == 0
    assert torch.equal(whole, visible(stream, None))
    assert [b.start for b in plan.blocks[1:]] == [b.end for b in plan.blocks[:-1]]


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 4, 150])
@pytest.mark.parametrize("stream", STREAMS)
def test_blocks_equal_the_dense_computation(stream, window, cap, grouped):
    """Outputs and all three gradients, fp64 1e-12 (a capped softmax is float32's: 1e-6)."""
    qkv = heads(sum(p + sum(a) for p, a in STREAMS[stream]), grouped)
    wanted = dense(*qkv, visible(stream, window), cap)
    found = through("blocks", stream, qkv, window, cap)
    weights = torch.randn_like(wanted)
    tolerance = 1e-12 if cap is None else 1e-6
    assert far(found, wanted) < tolerance
    for a, b in zip(*(torch.autograd.grad((x * weights).sum(), qkv) for x in (found, wanted))):
        assert far(a, b) < tolerance


@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 4, 150])
@pytest.mark.parametrize("stream", STREAMS)
def test_flex_equals_the_dense_computation(stream, window, cap, monkeypatch):
    """Forward, uncompiled, on a CPU: the block mask, the mask function and the cap as a GPU gets them."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(attention, "compiled_flex", lambda: flex_attention)
    with torch.no_grad():
        qkv = [x.detach() for x in heads(sum(p + sum(a) for p, a in STREAMS[stream]), dtype=torch.float32)]
        found = through("flex", stream, qkv, window, cap)
        assert far(found, dense(*qkv, visible(stream, window), cap)) < 1e-5


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made inside holds."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.size = max(self.size, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize("window", [None, 4, 150])
@pytest.mark.parametrize("stream", STREAMS)
def test_the_sparse_mask_is_torch_s_own(stream, window, monkeypatch):
    """Whatever number of rows is looked at together; and no table of [T, T] is made for it."""
    from torch.nn.attention.flex_attention import create_block_mask

    plan, size = Plan(spans(STREAMS[stream]), "flex"), sum(p + sum(a) for p, a in STREAMS[stream])
    want = create_block_mask(plan.sees(window), None, None, size, size, device="cpu")
    for pairs in (1, 300 * size, 2**22):
        monkeypatch.setattr(attention, "PAIRS", pairs)
        plan._made.clear()
        with Largest() as largest:
            found = plan.block_mask(window, torch.device("cpu"))
        assert found.shape == want.shape and torch.equal(found.to_dense(), want.to_dense())
        for part in ("kv", "full_kv", "q", "full_q"):
            for kind in ("num_blocks", "indices"):
                assert torch.equal(getattr(found, f"{part}_{kind}"), getattr(want, f"{part}_{kind}"))
        if pairs == 1 and size > 512:
            assert largest.size < size * size / 4


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["flex", "blocks"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 4, 150])
@pytest.mark.parametrize("stream", STREAMS)
def test_on_a_gpu_outputs_and_gradients_equal_the_dense_computation(stream, window, cap, dtype, tolerance, kernel):
    """float32 products may be TF32's."""
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    qkv = heads(sum(p + sum(a) for p, a in STREAMS[stream]), dtype=dtype, device="cuda")
    exact = [x.detach().double().requires_grad_() for x in qkv]
    wanted = dense(*exact, visible(stream, window).cuda(), cap)
    found = through(kernel, stream, qkv, window, cap)
    weights = torch.randn_like(wanted)
    assert far(found.double(), wanted) < tolerance
    gradients = torch.autograd.grad((found * weights).sum(), qkv), torch.autograd.grad((wanted * weights).sum(), exact)
    for a, b in zip(*gradients):
        assert far(a.double(), b) < tolerance


NESTED = [(6, None), (9, 0), (4, 1), (70, 1), (150, 0), (3, 4), (5, 0), (8, None), (2, 7)]
"""(length, the span above): virtual tokens above prompts, prompts above answers, trees without any, in one stream."""


@pytest.mark.parametrize("window", [None, 7, 100])
@pytest.mark.parametrize("short", [0, attention.SHORT, 10**6])
@pytest.mark.parametrize("kernel", ["blocks", "flex"])
def test_spans_below_spans_to_any_depth_equal_the_dense_computation(kernel, short, window, monkeypatch):
    """Each sees the whole line above it and nothing else; positions go on along the line."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(attention, "SHORT", short)
    monkeypatch.setattr(attention, "compiled_flex", lambda: flex_attention)
    lines, found = [], []
    for i, (length, above) in enumerate(NESTED):
        lines.append([*(lines[above] if above is not None else []), i])
        start = sum(size for size, _ in NESTED[:i])
        found.append(Span(start, start + length, None if above is None else (found[above].start, found[above].end)))
    token = [(i, sum(NESTED[j][0] for j in lines[i][:-1]) + k) for i, (size, _) in enumerate(NESTED)
             for k in range(size)]
    seen = torch.tensor([[b in lines[a] and p >= q and (window is None or p - q < window) for b, q in token]
                         for a, p in token])
    with torch.no_grad():
        qkv = [x.detach() for x in heads(len(token), dtype=torch.float32)]
        with layout(found, kernel):
            assert far(attend(None, *qkv, None, sliding_window=window)[0], dense(*qkv, seen, None)) < 1e-5
