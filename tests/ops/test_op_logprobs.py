"""Log-probabilities of chosen tokens against numbers made by hand."""

import math

import pytest
import torch

from tunesmith.ops import logprobs


def test_chosen_is_the_log_softmax_at_the_target_after_temperature():
    """Checklist 14. softmax of (0, ln 3) / 1 is (1/4, 3/4); at temperature 1/2 the odds are squared: (1/10, 9/10)."""
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    target = torch.tensor([1, 0])
    assert torch.allclose(logprobs.chosen(logits, target).exp(), torch.tensor([0.75, 0.25]))
    assert torch.allclose(logprobs.chosen(logits, target, 0.5).exp(), torch.tensor([0.9, 0.1]))


def test_entropy_is_that_of_the_tempered_distribution():
    """Checklist 34."""
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, math.log(3.0), -1e9, -1e9]])
    by_hand = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    tempered = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert torch.allclose(logprobs.entropy(logits), torch.tensor([math.log(4), by_hand]))
    assert torch.allclose(logprobs.entropy(logits, 0.5)[1], torch.tensor(tempered))


def test_chunks_change_neither_values_nor_gradients():
    torch.manual_seed(0)
    weight = torch.randn(11, 5)
    target = torch.randint(11, (7,))
    found = []
    for chunk in (100, 3):
        hidden = torch.linspace(-1, 1, 35).view(7, 5).requires_grad_()
        out = logprobs.from_hidden(hidden, lambda h: h @ weight.T, target, 0.7, chunk=chunk)
        (out * torch.arange(7.0)).sum().backward()
        found.append((out.detach(), hidden.grad))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6) and torch.allclose(found[0][1], found[1][1], atol=1e-6)
    by_hand = [math.log(math.exp(s[t] / 0.7) / sum(math.exp(x / 0.7) for x in s))
               for s, t in zip((torch.linspace(-1, 1, 35).view(7, 5) @ weight.T).tolist(), target.tolist())]
    assert torch.allclose(found[0][0], torch.tensor(by_hand), atol=1e-5)


def test_a_second_derivative_is_refused():
    """The slope is made once, as a constant: differentiating it again would silently give 0."""
    layer = torch.nn.Linear(5, 11).requires_grad_(False)
    hidden = torch.randn(3, 5, requires_grad=True)
    out = logprobs.from_hidden(hidden, logprobs.Head(layer), torch.tensor([1, 2, 3]))
    slope, = torch.autograd.grad(out.sum().square(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_nothing_chosen_gives_an_empty_tensor():
    assert logprobs.from_hidden(torch.zeros(0, 4), lambda h: h, torch.zeros(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize(("scale", "cap", "bias"), [(1.0, None, False), (0.5, None, True), (1.5, 2.0, False)])
def test_the_gradient_made_in_the_forward_pass_is_autograd_s(scale, cap, bias):
    """A frozen head leaves d log p / d hidden ready; a loss that is not linear in the log-probs sees no difference."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 11, bias=bias).double()
    layer.requires_grad_(False)
    head = logprobs.Head(layer, scale, cap)
    target = torch.randint(11, (7,))
    found = []
    for way in (head, lambda h: head(h)):  # the second one is not known to be frozen: plain autograd
        hidden = torch.linspace(-1, 1, 35, dtype=torch.float64).view(7, 5).requires_grad_()
        out = logprobs.from_hidden(hidden, way, target, 0.7, chunk=3)
        (out.exp() * torch.arange(7.0)).sum().backward()
        found.append((out.detach(), hidden.grad))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6) and torch.allclose(found[0][1], found[1][1], atol=1e-6)
    assert found[0][1].abs().max() > 0.01
    layer.requires_grad_(True)
    assert not head.frozen
    logprobs.from_hidden(hidden, head, target).sum().backward()
    assert layer.weight.grad is not None
