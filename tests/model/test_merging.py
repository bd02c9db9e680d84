"""Merged adapters: the exact sum computes what its parts do together, and a smaller rank is the best one."""

import pytest
import tiny
import torch

from tunesmith.errors import ModelError
from tunesmith.model import adapters, lora, merging

IDS = torch.arange(5, 40)[None]


@pytest.fixture(params=["llama", "gpt2"])
def base(request, tmp_path):
    base = tiny.load(tmp_path, request.param)
    for seed, (name, rank) in enumerate((("one", 3), ("two", 5))):
        adapters.attach(base, name, adapters.Method(rank=rank, alpha=7), seed)
        tiny.shake(base, name, seed, size=0.1)
    return base


def weights(base, name):
    """Each layer's change as a dense matrix, straight from PEFT's own computation."""
    return {key: m.get_delta_weight(name) for key, m in base.model.named_modules() if isinstance(m, lora.LoraLinear)
            and name in m.lora_A}


def test_the_sum_changes_the_weights_by_the_weighted_sum(base):
    parts = [merging.change(base, "one"), merging.change(base, "two")]
    whole = merging.total(parts, [0.7, -0.4])
    merging.attach(base, "both", whole)
    one, two, both = (weights(base, name) for name in ("one", "two", "both"))
    for key in one:
        torch.testing.assert_close(both[key], 0.7 * one[key] - 0.4 * two[key], atol=1e-6, rtol=1e-5)
    assert {len(f.a) for f in whole.values()} == {8}


def test_one_part_with_weight_one_computes_the_same(base):
    merging.attach(base, "again", merging.total([merging.change(base, "one")], [1.0]))
    with torch.no_grad():
        logits = {}
        for name in ("one", "again"):
            with adapters.active(base, name):
                logits[name] = base.model(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(logits["one"], logits["again"], atol=1e-5, rtol=1e-5)


def test_an_adapter_of_some_layers_only_joins_one_of_all(tmp_path):
    base = tiny.load(tmp_path)
    adapters.attach(base, "all", adapters.Method(rank=2, alpha=4), 0)
    adapters.attach(base, "some", adapters.Method(rank=3, alpha=3, targets=("q_proj",)), 0)
    for name in ("all", "some"):
        tiny.shake(base, name)
    merging.attach(base, "both", merging.total([merging.change(base, n) for n in ("all", "some")], [1.0, 1.0]))
    both, every, some = weights(base, "both"), weights(base, "all"), weights(base, "some")
    for key in every:
        torch.testing.assert_close(both[key], every[key] + some.get(key, 0 * every[key]), atol=1e-6, rtol=1e-5)
    assert 0 < len(some) < len(every)


def test_shrinking_is_the_best_approximation_of_its_rank(base):
    whole = merging.total([merging.change(base, "one"), merging.change(base, "two")], [1.0, 1.0])
    small = merging.shrunk(whole, 4)
    for key, factors in whole.items():
        u, s, v = torch.linalg.svd(factors.dense(), full_matrices=False)
        torch.testing.assert_close(small[key].dense(), u[:, :4] @ torch.diag(s[:4]) @ v[:4], atol=1e-5, rtol=1e-4)
    tail = sum(float(torch.linalg.svdvals(f.dense())[4:].square().sum()) for f in whole.values())
    all_of_it = sum(float(f.dense().square().sum()) for f in whole.values())
    assert merging.lost(whole, small) == pytest.approx((tail / all_of_it) ** 0.5, rel=1e-3)
    assert merging.lost(whole, merging.shrunk(whole, 8)) < 1e-5


def test_ties_trims_elects_and_averages_by_hand():
    identity = torch.eye(2)
    parts = [{"x": merging.Factors(identity, torch.tensor([[3.0, 1.0], [-2.0, 0.5]]))},
             {"x": merging.Factors(identity, torch.tensor([[1.0, -4.0], [5.0, 0.1]]))}]
    # half of each is kept: {3, -2} and {-4, 5}; signs elected by the sums 3, -4, 3, 0; averages of those that agree
    merged = merging.sparse(parts, [1.0, 1.0], "ties", 0.5, rank=2)["x"].dense()
    torch.testing.assert_close(merged, torch.tensor([[3.0, -4.0], [5.0, 0.0]]), atol=1e-5, rtol=1e-5)


def test_dare_keeps_a_share_scaled_up_and_is_right_on_average():
    torch.manual_seed(0)
    part = {"x": merging.Factors(torch.eye(64), torch.randn(64, 64))}
    dense = part["x"].dense()
    kept = merging.sparse([part], [1.0], "dare", 0.25, rank=64, seed=3)["x"].dense()
    alive = kept.abs() > 1e-3
    assert 0.2 < alive.float().mean() < 0.3
    torch.testing.assert_close(kept[alive], 4 * dense[alive], atol=1e-2, rtol=1e-2)
    again = merging.sparse([part], [1.0], "dare", 0.25, rank=64, seed=3)["x"].dense()
    assert torch.equal(kept, again)


def test_a_merge_does_not_disturb_the_random_numbers_of_others():
    part = {"x": merging.Factors(torch.eye(4), torch.randn(4, 4))}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    merging.sparse([part], [1.0], "dare-ties", 0.5, rank=2)
    assert torch.equal(torch.rand(3), expected)


def test_the_sketched_svd_is_as_good_as_the_exact_one(monkeypatch):
    torch.manual_seed(0)
    dense = torch.randn(60, 12) @ torch.randn(12, 50)
    monkeypatch.setattr(merging, "SKETCHED", 10)
    torch.testing.assert_close(merging._best(dense, 12).dense(), dense, atol=1e-3, rtol=1e-3)


def test_more_than_plain_lora_is_refused(tmp_path):
    base = tiny.load(tmp_path)
    adapters.attach(base, "dora", adapters.Method(kind="dora", rank=2), 0)
    with pytest.raises(ModelError, match="only plain LoRA"):
        merging.change(base, "dora")
