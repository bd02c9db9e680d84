"""The tree layout against plain padded rows and against one unpadded forward pass per answer."""

import pytest
import tiny
import torch

from tunesmith.model import adapters
from tunesmith.model import base as bases
from tunesmith.model.attention import Span
from tunesmith.model.batch import Tree, build, hidden, split

ARCHITECTURES = ("llama", "qwen3", "gpt2")
TREES = (
    Tree((1, 2, 3, 4), ((5, 6, 7), (8,), (9, 10, 11, 12, 13))),
    Tree((20, 21), ((22, 23),)),
    Tree((30,), ((31, 32), (33, 34, 35))),
)


@pytest.fixture(params=ARCHITECTURES)
def double(request, saved):
    """Each architecture in float64 with an adapter that matters."""
    base = bases.load(str(saved[request.param]), dtype=torch.float64)
    adapters.attach(base, "one", adapters.Method(rank=4, alpha=8), seed=0)
    tiny.shake(base, "one")
    return base


def rows(trees):
    """Prompt and answer as one list of tokens, per answer."""
    return [(t.prompt, a) for t in trees for a in t.answers]


def alone(base, tokens):
    """The plain model on one unpadded row: (hidden states, logits)."""
    out = base.model(input_ids=torch.tensor([list(tokens)]), output_hidden_states=True, use_cache=False)
    return out.hidden_states[-1][0], out.logits[0]


def test_build_places_every_token_by_hand():
    batch = build([Tree((1, 2), ((3, 4), (5,)), ((1.0, 0.5), (0.0,))), Tree((6,), ((7, 8),))])
    assert batch.tokens_T.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert batch.positions_T.tolist() == [0, 1, 2, 3, 2, 0, 1, 2]
    assert batch.source_N.tolist() == [1, 2, 1, 5, 6]
    assert batch.target_N.tolist() == [3, 4, 5, 7, 8]
    assert batch.weight_N.tolist() == [1.0, 0.5, 0.0, 1.0, 1.0]
    assert batch.last_A.tolist() == [3, 4, 7] and batch.group_A.tolist() == [0, 0, 1]
    assert batch.spans == (Span(0, 2), Span(2, 4, (0, 2)), Span(4, 5, (0, 2)), Span(5, 8))
    assert batch.table(batch.target_N).tolist() == [[3, 4], [5, 0], [7, 8]]
    assert batch.mask().tolist() == [[True, True], [True, False], [True, True]]


def test_split_respects_the_budget_and_lets_one_big_tree_through():
    trees = [Tree((1,) * 3, ((1,) * n,)) for n in (2, 2, 50, 1, 1)]
    assert list(split(trees, 10)) == [[0, 1], [2], [3, 4]]
    assert list(split([], 10)) == []


@pytest.mark.parametrize("way", ["tree", "padded"])
def test_hidden_states_and_logits_equal_unpadded_rows(double, way):
    """Checklists 1 and 37, fp64 1e-10: every position of every prompt and answer, for both layouts."""
    batch = build(TREES)
    with torch.no_grad(), adapters.active(double, "one"):
        states = hidden(double, batch, way)
        logits = double.logits(states)
        offset = 0
        seen = 0
        for tree in TREES:
            start, offset = offset, offset + len(tree.prompt)
            for answer in tree.answers:
                want_states, want_logits = alone(double, tree.prompt + answer)
                own = slice(offset, offset + len(answer))
                for got, want in ((states, want_states), (logits, want_logits)):
                    assert (got[start:start + len(tree.prompt)] - want[:len(tree.prompt)]).abs().max() < 1e-10
                    assert (got[own] - want[len(tree.prompt):]).abs().max() < 1e-10
                offset += len(answer)
                seen += len(answer)
        assert offset == len(states) and seen == len(batch.target_N)


def loss_of(base, batch, way):
    states = hidden(base, batch, way)
    logp = base.logits(states[batch.source_N]).log_softmax(-1).gather(1, batch.target_N[:, None])[:, 0]
    factors = torch.linspace(-1, 2, len(batch.target_N), dtype=torch.float64)
    return (logp * factors).sum() + states[batch.last_A].sin().sum()


def test_gradients_equal_those_of_unpadded_rows(double):
    """Checklist 37, fp64: the same gradient whether a prompt is computed once or K times.

    1e-10 for GPT-2; RMSNorm computes in float32 whatever it is given, so Llama and Qwen3 agree to 3e-6 only.
    """
    tolerance = 1e-10 if double.model.config.model_type == "gpt2" else 3e-6
    weights = adapters.trainable(double, "one")
    batch = build(TREES)

    def gradient(loss):
        with adapters.active(double, "one"):
            found = torch.autograd.grad(loss(), list(weights.values()))
        return torch.cat([g.flatten() for g in found])

    def by_rows():
        factors = iter(torch.linspace(-1, 2, len(batch.target_N), dtype=torch.float64))
        total = 0
        for prompt, answer in rows(TREES):
            states, logits = alone(double, prompt + answer)
            logp = logits.log_softmax(-1)
            total = total + states[-1].sin().sum()
            for i, token in enumerate(answer):
                total = total + next(factors) * logp[len(prompt) + i - 1, token]
        return total

    want = gradient(by_rows)
    assert want.abs().max() > 1e-3
    for way in ("tree", "padded"):
        assert (gradient(lambda way=way: loss_of(double, batch, way)) - want).abs().max() < tolerance


def contaminated(base, spans=None):
    """How far the states of (siblings and other prompts, the changed answer) move when one answer changes."""
    changed = (Tree(TREES[0].prompt, (TREES[0].answers[0], (99,), TREES[0].answers[2])), *TREES[1:])
    found = []
    for trees in (TREES, changed):
        batch = build(trees)
        if spans:
            object.__setattr__(batch, "spans", spans(batch))
        with torch.no_grad(), adapters.active(base, "one"):
            found.append(hidden(base, batch))
    moved = (found[0] - found[1]).abs().amax(1)
    own = torch.zeros_like(moved, dtype=torch.bool)
    own[7:8] = True
    return float(moved[~own].max()), float(moved[own].max())


def test_changing_one_answer_leaves_siblings_and_other_prompts_bit_for_bit(double):
    """Checklist 37: nothing leaks between answers or prompts."""
    others, itself = contaminated(double)
    assert others == 0.0 and itself > 1e-3


@pytest.mark.parametrize("wrong", [
    lambda batch: (Span(0, len(batch.tokens_T)),),                                   # everything sees all before it
    lambda batch: tuple(Span(s.start, s.end, (t.start, t.end) if s.context else None)  # an answer sees the one before
                        for s, t in zip(batch.spans, batch.spans[:1] + batch.spans)),
])
def test_the_contamination_test_would_notice(double, wrong):
    """A layout that lets answers see their siblings must fail the test above."""
    others, _ = contaminated(double, wrong)
    assert others > 1e-3


def test_gpt2_positions_of_padded_rows_start_at_zero(saved):
    """Checklist 1: learned positions would show a shift at once; a short row beside a long one keeps its own."""
    base = bases.load(str(saved["gpt2"]), dtype=torch.float64)
    with torch.no_grad():
        pair = build([Tree((1, 2), ((3, 4), (5,) * 30))])
        short = hidden(base, pair, "padded")[2:4]
        want, _ = alone(base, (1, 2, 3, 4))
    assert (short - want[2:]).abs().max() < 1e-10
