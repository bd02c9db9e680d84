"""Drawing by blocks against the definition: a running sum over the whole vocabulary in float64."""

import numpy as np
import pytest
import torch

from tunesmith.contracts import Sampling
from tunesmith.model import sampler
from tunesmith.model.sampler import draw, uniforms


def logits(rows, vocabulary, seed=0, size=3.0):
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * size


def defined(row, how, uniform):
    """(token, log-prob) of one row by the definition."""
    row = row.double()
    if how.temperature == 0:
        return int(row.argmax()), float(row.log_softmax(-1).max())
    logp = (row / how.temperature).log_softmax(-1)
    p = logp.exp()
    if how.top_p < 1:
        order = p.argsort(descending=True)
        before = p[order].cumsum(0) - p[order]
        p[order[before >= how.top_p]] = 0
    edges = p.cumsum(0)
    token = int(torch.searchsorted(edges, uniform * edges[-1], right=True))
    return token, float(logp[token])


@pytest.mark.parametrize("vocabulary", [5, 128, 129, 1000])
@pytest.mark.parametrize("columns", [False, True])
def test_every_row_draws_as_defined_whatever_its_mates_want(vocabulary, columns):
    """Greedy, tempered and cut rows in one batch; logits that lie in memory by row or by column."""
    hows = [Sampling(1, temperature=t, top_p=p) for t in (0, 0.5, 1.0) for p in (0.3, 0.9, 1.0)] * 20
    table = logits(len(hows), vocabulary)
    uniform = np.random.default_rng(1).random(len(hows))
    given = table.t().contiguous().t() if columns else table.clone()
    tokens, logprobs = draw(given, hows, uniform.tolist())
    want = [defined(row, how, u) for row, how, u in zip(table, hows, uniform)]
    assert tokens.tolist() == [token for token, _ in want]
    assert logprobs.tolist() == pytest.approx([logp for _, logp in want], abs=2e-5)


@pytest.mark.parametrize("likely", [1, 4, 512])
def test_a_wide_nucleus_falls_back_to_sorting_everything(monkeypatch, likely):
    monkeypatch.setattr(sampler, "LIKELY", likely)
    table = logits(50, 300, size=1.0)
    hows = [Sampling(1, top_p=p) for p in (0.05, 0.99)] * 25
    uniform = np.random.default_rng(2).random(50)
    tokens, _ = draw(table.clone(), hows, uniform.tolist())
    assert tokens.tolist() == [defined(row, how, u)[0] for row, how, u in zip(table, hows, uniform)]


def test_the_extremes_of_the_uniform_stay_inside_the_vocabulary():
    """0 takes the first token that has any mass, the number below 1 the last; the filled-up block has none there."""
    table = torch.full((4, 200), -torch.inf)
    table[:, 30], table[:, 150] = 0.0, 1.0
    below = float(np.nextafter(1.0, 0.0))
    tokens, logprobs = draw(table.clone(), [Sampling(1)] * 4, [0.0, below, 0.2, 0.9])
    assert tokens.tolist() == [30, 150, 30, 150]
    p = 1 / (1 + np.e)
    assert logprobs.tolist() == pytest.approx(np.log([p, 1 - p, p, 1 - p]), abs=1e-6)


def test_a_stream_of_numbers_is_the_same_however_far_it_is_read():
    assert uniforms((3, 1, 4), 5).tolist() == uniforms((3, 1, 4), 50)[:5].tolist()
    assert uniforms((3, 1, 4), 5).tolist() != uniforms((3, 1, 5), 5).tolist()
