"""Our side of every workload: the trainers' and the engine's public functions, called as a real run calls them.

Each workload is a function from a job to its step; everything before the step is set-up and is not timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks import data
from benchmarks.worker import LEARNING_RATE, SEED, Job, serve
from tunesmith.contracts import Sampling
from tunesmith.model import adapters, attention, engine, heads, machine
from tunesmith.model import base as bases
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree
from tunesmith.records import Answer, AnswerGroup, Pair, Prompt, conversation
from tunesmith.settings import PpoSettings, PreferSettings, RewardSettings, SftSettings
from tunesmith.train import dpo, full, grpo, ppo, reward, sft
from tunesmith.train.learner import Learner
from tunesmith.train.memory import settle

RANK, ALPHA = 16, 32
ANSWERS = 8
"""Of a prompt, in group methods."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
KL = {"grpo": 0.0, "rloo": 0.05}
"""The peer's defaults."""
TRAINER = {"lr": LEARNING_RATE, "seed": SEED, "name": "benchmark"}
Step = Callable[[int], Mapping[str, Any]]


def main() -> None:
    job = Job.from_environment()
    bases.keep_memory()
    serve(job, WORKLOADS[job.workload](job), "torch", "transformers", "peft", "tunesmith")


def load(job: Job) -> Base:
    """The benchmark's model as a base that never writes an end of turn: answers have full length for everybody."""
    folder = data.model_folder(job)
    trained = job.workload == "sft-full"  # weights that are trained stay fp32, and bf16 is for their products
    dtype = torch.float32 if trained else DTYPES[job.dtype]
    if (Path(folder) / "model.safetensors").is_file():
        base = bases.load(folder, device=job.device, dtype=dtype)
    else:
        torch.manual_seed(SEED)
        with torch.device(job.device):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype,
                                                     attn_implementation=attention.NAME)
        base = Base(model, AutoTokenizer.from_pretrained(folder), job.shape)
    base.compute = DTYPES[job.dtype] if trained and job.dtype == "bf16" else None
    base.chat.end = -1
    torch.set_num_threads(machine.threads(base.width))
    return base


def demonstrations(job: Job) -> Step:
    """LoRA, or with `sft-full` every weight."""
    base = load(job)
    kind = "full" if job.workload == "sft-full" else "lora"
    settings = SftSettings(**TRAINER, data="benchmark", adapter=kind, rank=RANK, alpha=ALPHA)
    slot, weights = full.start(base, "policy", settings, None)
    learner = Learner.of(weights, job.steps, settle(settings, base, slot))
    trees = [Tree(tuple(r["prompt_ids"]), (tuple(r["chosen_ids"]),), ((1.0,) * len(r["chosen_ids"]),))
             for r in data.pairs(job.data)]

    def step(number: int) -> Mapping[str, Any]:
        chosen = data.take(trees, number, job.rows)
        loss = sft.forward_backward(base, learner, chosen, slot=slot)["loss"]
        learner.step()
        size = sum(t.size for t in chosen)
        return {"units": size, "tokens": size, "read": sum(len(a) for t in chosen for a in t.answers), "loss": loss}

    return step


def _groups(job: Job) -> list[AnswerGroup]:
    """The workload's rankings, best answer first."""
    if not job.workload.startswith("rankings"):
        return [_group(r["prompt"], [r["chosen"], r["rejected"]]) for r in data.pairs(job.data)]
    return [_group(r["prompt"], r["answers"]) for r in data.groups(job.data, int(job.workload[-1]))]


def _group(prompt: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> AnswerGroup:
    order = tuple((i,) for i in range(len(answers)))
    return AnswerGroup(Prompt(conversation(prompt)), tuple(Answer(a) for a in answers), tiers=order)


def _items(job: Job, kind: type[reward.Item] | type[dpo.Item]) -> list[Any]:
    """Items from the prepared tokens: the trainers' own `encode`, without its time on rows that no step reads."""
    k = int(job.workload[-1]) if job.workload.startswith("rankings") else 2
    ids = [(r["prompt_ids"], r["answers_ids"]) for r in data.groups(job.data, k)] if k > 2 else [
        (r["prompt_ids"], [r["chosen_ids"], r["rejected_ids"]]) for r in data.pairs(job.data)]
    every = tuple(Pair(i, j) for i in range(k) for j in range(i + 1, k))
    return [kind(Tree(tuple(prompt), tuple(map(tuple, answers))), group, every)
            for (prompt, answers), group in zip(ids, _groups(job))]


def rankings(job: Job) -> Step:
    base = load(job)
    settings = RewardSettings(**TRAINER, comparisons="benchmark", rank=RANK, alpha=ALPHA)
    slot, weights = full.start(base, "reward", settings, None, head=False)
    head = heads.ScalarHead(base.width, torch.Generator().manual_seed(SEED)).to(base.device)
    learner = Learner.of({**weights, **dict(head.linear.named_parameters("head"))}, job.steps,
                         settle(settings, base, slot))
    items = _items(job, reward.Item)

    def step(number: int) -> Mapping[str, Any]:
        chosen = data.take(items, number, job.rows)
        loss = reward.forward_backward(base, head, learner, chosen, settings)["loss"]
        learner.step()
        return {"units": job.rows, "tokens": sum(i.tree.size for i in chosen),
                "read": sum(len(i.tree.answers) for i in chosen), "loss": loss}

    return step


def preferences(job: Job) -> Step:
    """DPO. The reference's log-probs are part of the step, as they are for a peer that does one pass over its data."""
    base = load(job)
    adapters.attach(base, "policy", adapters.Method(rank=RANK, alpha=ALPHA), SEED)
    weights = adapters.trainable(base, "policy")
    settings = settle(PreferSettings(**TRAINER, method="dpo", policy="policy", comparisons="benchmark"), base, "policy")
    learner = Learner.of(weights, job.steps, settings)
    items = _items(job, dpo.Item)

    def step(number: int) -> Mapping[str, Any]:
        chosen = dpo.reference(base, data.take(items, number, job.rows), settings)
        loss = dpo.forward_backward(base, learner, chosen, settings)["loss"]
        learner.step()
        return {"units": job.rows, "tokens": sum(i.tree.size for i in chosen),
                "read": sum(len(a) for i in chosen for a in i.tree.answers), "loss": loss}

    return step


def episodes(job: Job) -> Step:
    """PPO. Options: value, epochs, minibatches."""
    base = load(job)
    settings = PpoSettings(**TRAINER, policy="policy", reward="reward", prompts="benchmark", updates=job.steps,
                           episodes=job.rows, max_tokens=job.new, value_lr=LEARNING_RATE, **job.options)
    with tempfile.TemporaryDirectory() as folder:
        roles = ppo.attach(base, _adapter(base, Path(folder) / "policy"), _adapter(base, Path(folder) / "reward"),
                           settings)
    roles.policy_learner.budget = settle(settings, base, "policy").micro_tokens
    prompts = [r["prompt_ids"] for r in data.prompts(job.data)]

    def step(number: int) -> Mapping[str, Any]:
        chosen = data.take(prompts, number, job.rows)
        ppo.step(base, roles, chosen, [], settings, number)
        return {"units": job.rows, "tokens": sum(len(p) + job.new for p in chosen), "read": job.rows * job.new}

    return step


def groups(job: Job) -> Step:
    """GRPO or RLOO, one pass over each update's answers."""
    base = load(job)
    asked = job.rows // ANSWERS
    settings = PreferSettings(
        **TRAINER, method=job.workload, policy="policy", reward="reward", prompts="benchmark", updates=job.steps,
        batch=asked, samples=ANSWERS, max_tokens=job.new, kl=KL[job.workload])
    with tempfile.TemporaryDirectory() as folder:
        roles = grpo.attach(base, _adapter(base, Path(folder) / "policy"), _adapter(base, Path(folder) / "reward"),
                            settings)
    roles.learner.budget = settle(settings, base, "policy").micro_tokens
    prompts = [r["prompt_ids"] for r in data.prompts(job.data)]

    def step(number: int) -> Mapping[str, Any]:
        chosen = data.take(prompts, number, asked)
        grpo.step(base, roles, chosen, settings, number)
        return {"units": job.rows, "tokens": sum(len(p) + ANSWERS * job.new for p in chosen),
                "read": len(chosen) * ANSWERS * job.new}

    return step


def _adapter(base: Base, folder: Path) -> Path:
    """A fresh adapter with a scalar head on the disk, as a workspace holds them."""
    folder.mkdir()
    adapters.attach(base, "made", adapters.Method(rank=RANK, alpha=ALPHA), SEED)
    adapters.save(base, "made", folder)
    adapters.remove(base, "made")
    heads.ScalarHead(base.width, torch.Generator().manual_seed(SEED)).save(folder)
    return folder


def answers(job: Job) -> Step:
    """Options: what ("sample", "greedy", "adapter": greedy with one adapter unmerged, "mixed": greedy with eight)."""
    what = job.options["what"]
    base = load(job)
    writer = engine.LocalEngine(base, job.rows)
    sampling = Sampling(job.new, 1.0 if what == "sample" else 0.0, seed=SEED)
    count = {"adapter": 1, "mixed": job.options.get("adapters", data.ADAPTERS)}.get(what, 0)
    for i in range(count):
        writer.load(f"a{i}", Path(data.adapter_folder(job, i)))
    names = [f"a{i % count}" if count else "" for i in range(job.rows)]
    if what == "adapter":
        engine.MERGE = job.new + 1  # what a server with several adapters could do for one at best
    prompts = data.windows(job.data)

    def step(number: int) -> Mapping[str, Any]:
        chosen = data.take(prompts, number, job.rows)
        rows = writer.generate(chosen, sampling, [(SEED, number, i) for i in range(job.rows)], models=names)
        written = sum(len(tokens) for tokens, _ in rows)
        return {"units": written, "tokens": written + sum(map(len, chosen)), "read": written}

    return step


WORKLOADS: dict[str, Callable[[Job], Step]] = {
    "sft": demonstrations, "sft-full": demonstrations, "reward": rankings, "rankings-4": rankings,
    "rankings-9": rankings, "dpo": preferences, "ppo": episodes, "grpo": groups, "rloo": groups, "generate": answers,
    "adapters-8": answers,
}


if __name__ == "__main__":
    main()
