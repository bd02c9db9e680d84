"""PPO from human feedback, by hand: the whole algorithm on one page.

    python docs/ppo_by_hand.py

A toy policy writes strings over ten letters and a full stop; the stand-in for a reward model likes the letter "d".
Everything that matters is here in the order in which it happens: sample, score, compare with the reference, give
credit to tokens, take several clipped steps, adjust the KL coefficient. The mathematics is `tunesmith.ops`, the same
functions that `tunesmith/train/ppo.py` calls; the tests run both on the same numbers and compare, so this page cannot
drift from what it explains. Left out: prompts, a language model, checkpoints, memory.

Shapes: B answers, T tokens of the longest, N tokens of all; tables are right-padded and `mask_BT` says what is real.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith.ops import advantages, logprobs, losses

END, LIKED, VOCABULARY, LONGEST = 0, 4, 11, 12
GAMMA, LAMBDA, CLIP, VALUE_CLIP, NO_END_SCORE, MAX_NORM = 1.0, 0.95, 0.2, 0.2, -1.0, 1.0


class Network(nn.Module):
    """Reads the tokens so far, says `outputs` numbers about what comes next."""

    def __init__(self, outputs: int):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.reader = nn.GRU(32, 48, batch_first=True)
        self.head = nn.Linear(48, outputs)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Position t answers for token t, having read the tokens before it; the end token also means "begin"."""
        before_BT = torch.cat([torch.full_like(tokens_BT[:, :1], END), tokens_BT[:, :-1]], 1)
        states, _ = self.reader(self.embedding(before_BT))
        out: Tensor = self.head(states)
        return out


@dataclass(frozen=True)
class Rollout:
    """What was sampled, and all that is known about it before any learning. The log-probs are `old` from now on."""

    mask_BT: Tensor
    finished_B: Tensor
    old_BT: Tensor
    reference_BT: Tensor
    values_BT: Tensor
    scores_B: Tensor


# 1. The policy writes: token by token, at temperature 1, the whole vocabulary, until the end token or the limit.

@torch.no_grad()
def sample(policy: Network, answers: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, mask, finished): the end token belongs to the answer, nothing after it does."""
    tokens_BT = torch.full((answers, LONGEST), END)
    mask_BT = torch.zeros(answers, LONGEST, dtype=torch.bool)
    writing_B = torch.ones(answers, dtype=torch.bool)
    for t in range(LONGEST):
        p_BV = policy(tokens_BT[:, :t + 1])[:, t].softmax(-1)
        drawn_B = torch.multinomial(p_BV, 1, generator=generator)[:, 0]
        tokens_BT[:, t] = torch.where(writing_B, drawn_B, END)
        mask_BT[:, t] = writing_B
        writing_B = writing_B & (drawn_B != END)
    return tokens_BT, mask_BT, ~writing_B


def token_logprobs(policy: Network, tokens_BT: Tensor) -> Tensor:
    """log pi(token | tokens before it), [B, T]."""
    logits = policy(tokens_BT)
    return logprobs.chosen(logits.flatten(0, 1), tokens_BT.flatten()).view_as(tokens_BT)


# 2. The answer as a whole is scored. Here: how much of it is the liked letter. In earnest: a reward model.

def score(tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """One number per answer, [B]."""
    return ((tokens_BT == LIKED) & mask_BT).sum(1) / mask_BT.sum(1)


# 3. Credit: one score for the whole answer becomes an advantage for every token.

def credit(rollout: Rollout, coefficient: float) -> tuple[Tensor, Tensor, float]:
    """(advantages, returns, KL per answer): the score at the last token, a price on KL at every token, then GAE.

    An answer that never ended gets a fixed bad score, whatever the reward model thought of it. Returns are made
    before the advantages are whitened, and whitening sees the whole batch.
    """
    mask_BT = rollout.mask_BT
    kl_BT = advantages.k1(rollout.old_BT, rollout.reference_BT) * mask_BT
    scores_B = torch.where(rollout.finished_B, rollout.scores_B, NO_END_SCORE)
    rewards_BT = advantages.shape(kl_BT, scores_B, mask_BT, coefficient)
    advantages_BT, returns_BT = advantages.gae(rewards_BT, rollout.values_BT, mask_BT, GAMMA, LAMBDA)
    return advantages.normalize(advantages_BT, mask_BT, center=True), returns_BT, float(kl_BT.sum(1).mean())


# 4. Learning: several passes over the same answers, in minibatches, neither policy nor value moving far at once.

def learn(rollout: Rollout, advantages_BT: Tensor, returns_BT: Tensor, minibatches: Iterable[Sequence[int]],
          policy_logprobs: Callable[[Sequence[int]], Tensor], values: Callable[[Sequence[int]], Tensor],
          optimizers: Sequence[torch.optim.Optimizer]) -> float:
    """Clipped policy and value losses, each averaged over the minibatch's tokens. Returns the last clip fraction.

    `policy_logprobs(rows)` and `values(rows)` compute tables [rows, T] under the weights as they are by then.
    """
    clipped = 0.0
    for rows in minibatches:
        mask_BT = rollout.mask_BT[rows]
        count = float(mask_BT.sum())
        policy_loss, seen = losses.ppo_policy(policy_logprobs(rows), rollout.old_BT[rows], advantages_BT[rows], mask_BT,
                                              CLIP, count)
        value_loss, _ = losses.ppo_value(values(rows), rollout.values_BT[rows], returns_BT[rows], mask_BT, VALUE_CLIP,
                                         count)
        (policy_loss + value_loss).backward()
        for optimizer in optimizers:
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(weights, MAX_NORM)
            optimizer.step()
            optimizer.zero_grad()
        clipped = float(seen["clip_fraction"])
    return clipped


def main(updates: int = 30, answers: int = 128, epochs: int = 4, parts: int = 4,
         coefficient: float = 0.05, target: float = 6.0) -> list[tuple[float, float]]:
    """The story; returns (mean score, KL per answer) of every update."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    policy, value = Network(VOCABULARY), Network(1)
    reference = copy.deepcopy(policy).requires_grad_(False)  # what the policy is when it starts, for ever
    nn.init.zeros_(value.head.weight)
    optimizers = [torch.optim.Adam(policy.parameters(), lr=3e-3), torch.optim.Adam(value.parameters(), lr=3e-3)]
    controller = advantages.KlController(coefficient, target, horizon=400)
    history = []
    for update in range(1, updates + 1):
        tokens_BT, mask_BT, finished_B = sample(policy, answers, generator)
        with torch.no_grad():
            rollout = Rollout(mask_BT, finished_B, token_logprobs(policy, tokens_BT),
                              token_logprobs(reference, tokens_BT), value(tokens_BT)[..., 0], score(tokens_BT, mask_BT))
        advantages_BT, returns_BT, kl = credit(rollout, controller.coefficient)
        shuffled = [torch.randperm(answers, generator=generator).chunk(parts) for _ in range(epochs)]

        def policy_logprobs(rows: Sequence[int], tokens_BT: Tensor = tokens_BT) -> Tensor:
            return token_logprobs(policy, tokens_BT[rows])

        def values(rows: Sequence[int], tokens_BT: Tensor = tokens_BT) -> Tensor:
            return value(tokens_BT[rows])[..., 0]

        clipped = learn(rollout, advantages_BT, returns_BT, [part.tolist() for one in shuffled for part in one],
                        policy_logprobs, values, optimizers)
        controller.update(kl, answers)
        history.append((float(rollout.scores_B.mean()), kl))
        if update % 5 == 0 or update == 1:
            text = "".join(".abcdefghij"[t] for t in tokens_BT[0][mask_BT[0]])
            print(f"update {update:3d}  reward {history[-1][0]:.3f}  KL {kl:6.3f}  beta {controller.coefficient:.4f}  "
                  f"clipped {clipped:.2f}  ended {float(finished_B.float().mean()):.2f}  {text}")
    return history


if __name__ == "__main__":
    main()
