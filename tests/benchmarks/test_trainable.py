"""LoRA's 10,000 times, counted and by hand."""

import pytest

from benchmarks import trainable
from tunesmith.model.adapters import Method

D, LAYERS = 12288, 96


def test_lora_on_gpt_3_trains_ten_thousand_times_less():
    """r (in + out) on two matrices of every layer; a block of GPT-3 holds 12 D^2 and its biases and norms 13 D."""
    found = trainable.count(trainable.GPT3, Method(rank=4, alpha=4, targets=("q_proj", "v_proj")))
    assert found["trained"] == LAYERS * 2 * 4 * (D + D) == 18_874_368
    by_hand = LAYERS * (12 * D * D + 13 * D) + (50257 + 2048) * D
    assert found["parameters"] == pytest.approx(by_hand, rel=1e-5) and 174e9 < found["parameters"] < 176e9
    assert 9_000 < found["times fewer"] < 10_000


@pytest.mark.parametrize("method, expected", [
    (Method("dora", rank=4, targets=("q_proj",)), 4 * (D + D) + D),
    (Method("ia3"), D + D + 4 * D),
    (Method("houlsby", bottleneck=64), 2 * (2 * 64 * D + 64 + D)),
    (Method("pfeiffer", bottleneck=64), 2 * 64 * D + 64 + D),
])
def test_other_methods_by_their_formulas(method, expected):
    """Per block; two of GPT-3's."""
    shape = trainable.GPT3 | {"num_hidden_layers": 2}
    assert trainable.count(shape, method)["trained"] == 2 * expected
