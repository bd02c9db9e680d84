"""The sampler is a function of the position: every property is checked on positions, none on a state."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.sampler import Sampler, apportion, permuted, positions, schedule, scrambled

SIZES = [5, 1, 700, 64]
RATES = [0.1, 0.02, 0.6, 0.28]


def sampler(seed=0, sizes=SIZES, rates=RATES, **how):
    return Sampler(rates, sizes, [seed * 1000 + i for i in range(len(sizes))], **how)


def test_splitmix_is_the_published_one():
    """The first outputs of SplitMix64 seeded with 0, as its reference code prints them."""
    state = np.array([0, 0x9E3779B97F4A7C15, 2 * 0x9E3779B97F4A7C15 % 2**64], np.uint64)
    assert [int(x) for x in scrambled(state)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_every_permutation_is_one(size, key):
    assert sorted(permuted(range(size), [size] * size, [key] * size)) == list(range(size))


def test_permutations_of_many_sizes_and_keys_at_once_are_those_of_each_alone():
    index, size, key = np.array([0, 3, 9, 2]), np.array([1, 4, 1000, 3]), np.array([1, 2, 3, 2**64 - 1], np.uint64)
    together = permuted(index, size, key)
    assert together.tolist() == [int(permuted([i], [n], [k])[0]) for i, n, k in zip(index, size, key)]


def test_a_permutation_scatters():
    """Where the first row goes, over keys: every place alike (chi-square with 49 degrees of freedom, 0.1%: 85.4)."""
    keys = np.arange(20_000, dtype=np.uint64)
    for index in (0, 1, 49):
        found = np.bincount(permuted(np.full(20_000, index), np.full(20_000, 50), keys), minlength=50)
        assert ((found - 400) ** 2 / 400).sum() < 85.4
    follows = permuted(np.zeros(20_000), np.full(20_000, 50), keys) - permuted(np.ones(20_000), np.full(20_000, 50),
                                                                               keys)
    found = np.bincount(follows % 50, minlength=50)[1:]
    assert ((found - 20_000 / 49) ** 2 / (20_000 / 49)).sum() < 85.4


def test_a_source_gives_all_its_rows_before_it_gives_one_again_and_in_another_order_each_time():
    source, row = sampler().at(range(20_000))
    for s, size in enumerate(SIZES):
        drawn = row[source == s]
        passes = [drawn[i:i + size].tolist() for i in range(0, len(drawn) - size + 1, size)]
        assert len(passes) > 10 and all(sorted(p) == list(range(size)) for p in passes)
        assert size < 5 or len({tuple(p) for p in passes}) > 10


@given(st.integers(0, 10**12), st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_any_stretch_is_what_a_longer_one_has_there(start, count):
    """Resume: what is drawn from a position on does not depend on having drawn what came before."""
    before = min(start, 37)
    source, row = SHARED.at(range(start - before, start + count))
    alone = SHARED.at(range(start, start + count))
    assert (alone[0] == source[before:]).all() and (alone[1] == row[before:]).all()


SHARED = sampler()


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_share_a_step_out_among_themselves(world):
    for step in (0, 7, 10**9):
        parts = [positions(step, 16, rank, world) for rank in range(world)]
        assert sorted(np.concatenate(parts)) == list(range(step * 16, (step + 1) * 16))


def test_rates_are_kept_everywhere_and_counts_say_what_was_drawn():
    """In any stretch a source comes as often as its rate says, give or take one turn for each source."""
    found = sampler()
    source, _ = found.at(range(3 * 65_536))
    for end in (0, 1, 50, 999, 65_536, 100_000, 3 * 65_536):
        assert (found.counts(end) == np.bincount(source[:end], minlength=4)).all()
    for start in range(0, 150_000, 9973):
        for length in (50, 1000, 20_000):
            drawn = np.bincount(source[start:start + length], minlength=4)
            assert (abs(drawn - length * np.array(RATES)) <= 2 + length * 1e-4).all()


def test_rare_sources_do_not_come_all_at_once():
    source, _ = schedule(apportion([1000] + [1] * 20, 4096))
    rare = np.flatnonzero(source > 0)
    assert np.diff(rare).max() < 4 * len(source) / len(rare)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_quotas_add_up_and_leave_nobody_out(rates):
    quota = apportion(rates, 1000)
    assert quota.sum() == 1000 and quota.min() >= 1
    ideal = np.array(rates) / sum(rates) * (1000 - len(rates))
    assert (abs(quota - 1 - ideal) < 1).all()


def test_seeds_differ_and_one_source_more_leaves_the_others_orders_alone():
    one, other = (sampler(seed).at(range(5000))[1].tolist() for seed in (0, 1))
    assert one != other
    source, row = sampler().at(range(5000))
    wide_source, wide_row = sampler(sizes=[*SIZES, 9], rates=[*RATES, 0.5]).at(range(5000))
    assert wide_row[wide_source == 2].tolist() == row[source == 2][:(wide_source == 2).sum()].tolist()


@pytest.mark.parametrize("wrong", [{"sizes": [1, 0]}, {"rates": [1, 0]}, {"rates": [1, float("nan")]},
                                   {"sizes": [1, 2, 3]}, {"rates": [], "sizes": []}])
def test_what_cannot_be_sampled_is_refused(wrong):
    with pytest.raises(ValueError):
        sampler(**{"sizes": [1, 2], "rates": [1, 1], **wrong})


def test_more_sources_than_a_period_has_places():
    found = Sampler(np.ones(9000), np.full(9000, 3), range(9000))
    assert len(set(found.at(range(len(found.source_P)))[0].tolist())) == 9000
