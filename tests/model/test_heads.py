"""Scalar heads and reward models: initialisation, normalisation, and scores that depend on nothing but the answer."""

import math

import pytest
import tiny
import torch

from tunesmith.errors import ModelError
from tunesmith.model import adapters, heads, scorer
from tunesmith.model import base as bases
from tunesmith.model.batch import Tree
from tunesmith.model.scorer import RewardModel
from tunesmith.records import Answer, Message, Prompt


@pytest.fixture
def model(base):
    adapters.attach(base, "reward", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "reward")
    return RewardModel(base, "reward", heads.ScalarHead(base.width, torch.Generator().manual_seed(1)))


def test_a_head_starts_as_stiennon_et_al_did():
    """Checklist 6: w ~ N(0, 1/(D+1)), bias 0. 20,000 draws: the standard deviation is known to half a percent."""
    head = heads.ScalarHead(19_999, torch.Generator().manual_seed(0))
    assert head.linear.weight.std().item() * math.sqrt(20_000) == pytest.approx(1, abs=0.02)
    assert abs(head.linear.weight.mean().item()) * math.sqrt(20_000) < 4 / math.sqrt(20_000)
    assert head.linear.bias.item() == 0
    assert torch.equal(head.linear.weight, heads.ScalarHead(19_999, torch.Generator().manual_seed(0)).linear.weight)


def test_normalize_gives_mean_0_and_std_1_and_keeps_the_order(model):
    """Checklist 8, twice in a row: gain and bias compose."""
    prompt, answers = Prompt((Message("user", "q"),)), ["a", "bb", "ccc", "dddd"]
    before = torch.tensor(model.score(prompt, answers))
    for _ in range(2):
        model.head.normalize(torch.tensor(model.score(prompt, answers)))
        after = torch.tensor(model.score(prompt, answers))
        assert abs(float(after.mean())) < 1e-5 and float(after.std(unbiased=False)) == pytest.approx(1, abs=1e-4)
    by_hand = (before - before.mean()) / before.std(unbiased=False)
    assert torch.allclose(after, by_hand, atol=1e-4)


def test_a_head_comes_back_bit_equal(tmp_path):
    """Checklist 11."""
    head = heads.ScalarHead(32, torch.Generator().manual_seed(1))
    head.normalize(torch.tensor([0.3, -2.0, 1.0]))
    head.save(tmp_path)
    again = heads.load(tmp_path, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(head.state_dict().values(), again.state_dict().values()))
    assert float(again.gain) != 1 and float(again.bias) != 0
    with pytest.raises(ModelError, match="no scalar head"):
        heads.load(tmp_path / "elsewhere", torch.device("cpu"))


def by_hand(model, prompt, answer):
    """w h + b of the plain model's last position, one unpadded row."""
    base = model.base
    with adapters.active(base, "reward"), torch.no_grad():
        out = base.model(input_ids=torch.tensor([[*prompt, *answer]]), output_hidden_states=True)
        last = out.hidden_states[-1][0, -1]
    return float(last @ model.head.linear.weight[0] + model.head.linear.bias[0])


@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_the_score_is_read_at_the_last_token(model, layout):
    """Checklist 6: after the end of turn, or at the last token of an answer cut at the limit, whatever the padding."""
    model.layout = layout
    end = model.base.chat.end
    trees = [Tree((1, 2, 3), ((4, 5, end), (6, 7, 8, 9, 10, 11, 12), (end,))), Tree((9,), ((1, 2, 3, 4, end),))]
    scores = model.score_trees(trees).tolist()
    want = [by_hand(model, t.prompt, a) for t in trees for a in t.answers]
    assert scores == pytest.approx(want, abs=1e-5) and max(want) - min(want) > 0.1


def test_a_score_does_not_depend_on_batch_mates_order_layout_or_budget(model, monkeypatch):
    """Checklist 7."""
    prompts = [Prompt((Message("user", "q" * n),)) for n in (1, 30, 5)]
    answers = [["a", "long answer " * 4], ["b"], ["c", "d", "e" * 20]]
    together = model.score_all(prompts, answers)
    for layout in ("tree", "padded"):
        model.layout = layout
        alone = [[model.score(p, [a])[0] for a in texts] for p, texts in zip(prompts, answers)]
        for got, want in zip(together, alone):
            assert got == pytest.approx(want, abs=1e-5)
    assert model.score(prompts[0], answers[0][::-1])[::-1] == pytest.approx(together[0], abs=1e-5)
    monkeypatch.setattr(scorer, "BUDGET", 1)
    assert [x for g in model.score_all(prompts, answers) for x in g] == pytest.approx(
        [x for g in together for x in g], abs=1e-5)


def test_an_adapter_without_a_head_is_no_reward_model(base, tmp_path):
    """Checklist 11."""
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    adapters.save(base, "policy", tmp_path)
    with pytest.raises(ModelError, match="not a reward model"):
        RewardModel.load(base, tmp_path)


def test_answer_logprobs_sum_the_tokens_of_a_plain_forward_pass(saved):
    base = bases.load(str(saved["gpt2"]))
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "policy")
    prompts = [Prompt((Message("user", "hi"),)), Prompt((Message("user", "something longer"),))]
    answers = [Answer("", tokens=(5, 6, 7)), Answer("", tokens=(8,))]
    for slot in ("policy", ""):
        want = []
        for p, a in zip(prompts, answers):
            head = base.chat.prompt(p.messages)
            with adapters.active(base, slot), torch.no_grad():
                logits = base.model(input_ids=torch.tensor([[*head, *a.tokens]])).logits[0]
            logp = (logits / 0.7).log_softmax(-1)
            want.append(sum(float(logp[len(head) + i - 1, t]) for i, t in enumerate(a.tokens)))
        assert scorer.answer_logprobs(base, slot, prompts, answers, 0.7) == pytest.approx(want, abs=1e-4)


def test_several_heads_have_their_mean_as_score_and_a_common_scale(base):
    """Each has mean 0 and one spread on what it was normalised on, and their mean has standard deviation 1."""
    adapters.attach(base, "reward", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "reward")
    model = RewardModel(base, "reward", heads.ScalarHead(base.width, torch.Generator().manual_seed(1), heads=3))
    trees = [Tree((1, 2, k), ((4, 5, k + 3), (6, k + 7))) for k in range(6)]
    scores_AH = model.head.normalize(model.score_each(trees))
    assert torch.allclose(scores_AH, model.score_each(trees), atol=1e-4)
    assert torch.allclose(scores_AH.mean(0), torch.zeros(3), atol=1e-5)
    spread = scores_AH.std(0, unbiased=False)
    assert torch.allclose(spread, spread[0].expand(3), atol=1e-4)
    mean = model.score_trees(trees)
    assert torch.allclose(mean, scores_AH.mean(1), atol=1e-4) and float(mean.std(unbiased=False)) == pytest.approx(1)
    model.pessimism = 2.0
    want = [sum(row) / 3 - 2 * math.sqrt(sum((x - sum(row) / 3) ** 2 for x in row) / 2) for row in scores_AH.tolist()]
    assert model.score_trees(trees).tolist() == pytest.approx(want, abs=1e-4)


def test_the_file_says_how_many_heads_there_are(tmp_path):
    """One head is stored as it always was: a weight [1, D], and gain and bias without dimensions."""
    for count, shape in ((1, ()), (4, (4,))):
        head = heads.ScalarHead(8, torch.Generator().manual_seed(1), heads=count)
        head.normalize(torch.randn(10, count, generator=torch.Generator().manual_seed(2)))
        head.save(tmp_path)
        again = heads.load(tmp_path, torch.device("cpu"))
        assert again.heads == count and again.gain.shape == shape and again.linear.weight.shape == (count, 8)
        x = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
        assert torch.equal(again.each(x), head.each(x)) and torch.equal(again(x), head.each(x).mean(1))
