"""What a machine can do, and the floors of limits: formulas by hand, choices from given measurements."""

import time

import pytest
import tiny
import torch

from tunesmith.model import adapters, machine
from tunesmith.model.batch import Tree
from tunesmith.model.machine import Work

HEAD = 32 * 261
BODY = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48)
"""Two Llama blocks of width 32: query and output, key and value with half the heads, three products of the MLP."""


@pytest.fixture
def base(tmp_path):
    return tiny.load(tmp_path / "base")


def test_parameters_in_products_by_hand(base):
    assert machine.products(base) == ((BODY, 4 * BODY), (HEAD, 4 * HEAD))
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    assert machine.products(base) == ((BODY, 4 * BODY), (HEAD, 4 * HEAD)), "adapters do not belong to the base"


def test_gpt2_by_hand(tmp_path):
    """Its embeddings (tokens, positions) do not count, its transposed layers do; the output layer is tied."""
    assert machine.products(tiny.load(tmp_path / "gpt2", "gpt2")) == ((24 * 32 * 32, 96 * 32 * 32), (HEAD, 4 * HEAD))


def test_floors_by_hand(base):
    assert machine.flops(machine.products(base), Work(forward=10)) == 2 * BODY * 10
    assert machine.flops(machine.products(base), Work(forward=10, forward_logits=3)) == 2 * BODY * 10 + 2 * HEAD * 3
    assert machine.flops(machine.products(base), Work(trained=10, trained_logits=4)) == 4 * BODY * 10 + 4 * HEAD * 4
    assert machine.flops(machine.products(base), Work(forward=5, trained=7)) == (2 * 5 + 4 * 7) * BODY
    assert Work(forward=5, forward_logits=2, trained=7).tokens == 12


def test_the_work_of_trees():
    """5 + 3 and 2 + 4 + 1 tokens; 3 + 5 of them are answers, of which weights of 0 are not read."""
    trees = [Tree((1,) * 5, ((1,) * 3,), ((1.0, 0.0, 2.0),)), Tree((1,) * 2, ((1,) * 4, (1,)))]
    assert machine.passes(trees, forward=2, forward_logits=3, trained=5, trained_logits=7) == Work(30, 21, 75, 49)
    assert Work(1, 2, 3, 4) + Work(10, 20, 30, 40) == Work(11, 22, 33, 44)


def test_weights_that_are_trained_cost_half_as_much_again(base):
    base.model.requires_grad_(True)
    assert machine.flops(machine.products(base), Work(forward=1)) == 2 * BODY
    assert machine.flops(machine.products(base), Work(trained=10, trained_logits=4)) == 6 * BODY * 10 + 6 * HEAD * 4


def test_the_measured_rates_are_those_of_a_product_and_a_copy():
    """Against the plainest measurement, with room for a busy machine in between; and not slow."""
    start = time.perf_counter()
    found = machine.measure(threads=1)
    assert time.perf_counter() - start < 2 and found.threads == 1
    a = torch.randn(512, 512)
    multiplied = min(seconds(lambda: a @ a) for _ in range(5))
    assert 0.1 < found.fp32_gflops * multiplied / (2 * 512**3 / 1e9) < 10
    b, c = torch.ones(2, 2**23)
    copied = min(seconds(lambda: b.copy_(c)) for _ in range(3))
    assert 0.1 < found.bandwidth_gbps * copied / (2 * b.nbytes / 1e9) < 10
    assert machine.measure(threads=1) is found
    assert found.gflops(torch.float32) == found.fp32_gflops != found.gflops(torch.bfloat16) == found.bf16_gflops


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(158, 0.9, torch.float32), (130, 1000, torch.bfloat16),
                                                      (100, 150, torch.float32)])
def test_precision_follows_the_measured_products(monkeypatch, fp32, bf16, chosen):
    monkeypatch.setattr(machine, "measure", lambda device: machine.Machine(device, 1, fp32, bf16, 10))
    assert machine.precision() == chosen


@pytest.mark.parametrize(("cores", "cost", "chosen"), [
    (2, {1: 10, 2: 5}, 2),
    (2, {1: 10, 2: 200}, 1),  # a busy machine
    (2, {1: 10, 2: 9.5}, 1),
    (12, {1: 10, 2: 6, 4: 4, 8: 3, 12: 2}, 12),
    (16, {1: 10, 2: 6, 4: 4, 8: 4, 16: 1}, 4),
])
def test_threads_double_for_as_long_as_it_pays(monkeypatch, cores, cost, chosen):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "AVAILABLE", cores)
    monkeypatch.setattr(machine, "_repeats", lambda work: 1)
    monkeypatch.setattr(machine, "_seconds", lambda work, threads, repeat, limit=0: cost[threads])
    machine.threads.cache_clear()
    assert machine.threads(32) == chosen
    machine.threads.cache_clear()


def test_threads_that_the_person_chose_stay(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(machine, "AVAILABLE", 3)
    monkeypatch.setattr(machine, "_seconds", None)
    machine.threads.cache_clear()
    assert machine.threads(32) == 3
    machine.threads.cache_clear()


def test_the_probe_gives_up_on_threads_that_stall():
    """The limit is the time of one thread: what takes longer is never worth it, however long it would take."""
    calls = []

    def stall():
        calls.append(1)
        time.sleep(0.02)

    assert machine._seconds(stall, 1, 1000, limit=0.03) == float("inf") and len(calls) <= 3
