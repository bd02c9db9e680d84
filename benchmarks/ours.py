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
from tunesmith.model import adapters, attention, heads
from tunesmith.model import base as bases
from tunesmith.model.base import Base
from tunesmith.model.batch import Tree
from tunesmith.model.engine import LocalEngine
from tunesmith.records import Answer, AnswerGroup, Pair, Prompt, conversation
from tunesmith.settings import PpoSettings, PreferSettings, RewardSettings
from tunesmith.train import dpo, ppo, reward, sft
from tunesmith.train.learner import Learner

RANK, ALPHA = 16, 32
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Step = Callable[[int], Mapping[str, Any]]


def main() -> None:
    job = Job.from_environment()
    bases.keep_memory()
    serve(job, WORKLOADS[job.workload](job), "torch", "transformers", "peft", "tunesmith")


def load(job: Job) -> Base:
    """The benchmark's model as a base that never writes an end of turn: answers have full length for everybody."""
    folder = data.model_folder(job)
    if (Path(folder) / "model.safetensors").is_file():
        base = bases.load(folder, device=job.device, dtype=DTYPES[job.dtype])
    else:
        torch.manual_seed(SEED)
        with torch.device(job.device):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=DTYPES[job.dtype],
                                                     attn_implementation=attention.NAME)
        base = Base(model, AutoTokenizer.from_pretrained(folder), job.shape)
    base.chat.end = -1
    return base


def sft_lora(job: Job) -> Step:
    base = load(job)
    adapters.attach(base, "policy", RANK, ALPHA, SEED)
    return _sft(job, base, adapters.trainable(base, "policy"))


def _sft(job: Job, base: Base, trained: Mapping[str, torch.nn.Parameter]) -> Step:
    learner = Learner(trained, job.steps, LEARNING_RATE)
    trees = [Tree(tuple(r["prompt_ids"]), (tuple(r["chosen_ids"]),), ((1.0,) * len(r["chosen_ids"]),))
             for r in data.pairs(job.data)]

    def step(number: int) -> Mapping[str, Any]:
        chosen = data.take(trees, number, job.rows)
        loss = sft.forward_backward(base, learner, chosen)["loss"]
        learner.step()
        size = sum(t.size for t in chosen)
        return {"units": size, "tokens": size, "loss": loss}

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
    adapters.attach(base, "reward", RANK, ALPHA, SEED)
    head = heads.ScalarHead(base.width, torch.Generator().manual_seed(SEED)).to(base.device)
    learner = Learner({**adapters.trainable(base, "reward"), **dict(head.linear.named_parameters("head"))}, job.steps,
                      LEARNING_RATE)
    items = _items(job, reward.Item)
    settings = RewardSettings(comparisons="benchmark", name="benchmark")

    def step(number: int) -> Mapping[str, Any]:
        chosen = data.take(items, number, job.rows)
        loss = reward.forward_backward(base, head, learner, chosen, settings)["loss"]
        learner.step()
        return {"units": job.rows, "tokens": sum(i.tree.size for i in chosen), "loss": loss}

    return step


def dpo_lora(job: Job) -> Step:
    """The reference's log-probs are part of the step, as they are for a peer that does one pass over its data."""
    base = load(job)
    adapters.attach(base, "policy", RANK, ALPHA, SEED)
    learner = Learner(adapters.trainable(base, "policy"), job.steps, LEARNING_RATE)
    items = _items(job, dpo.Item)
    settings = PreferSettings(method="dpo", policy="policy", name="benchmark", comparisons="benchmark")

    def step(number: int) -> Mapping[str, Any]:
        chosen = dpo.reference(base, data.take(items, number, job.rows), settings)
        loss = dpo.forward_backward(base, learner, chosen, settings)["loss"]
        learner.step()
        return {"units": job.rows, "tokens": sum(i.tree.size for i in chosen), "loss": loss}

    return step


def ppo_lora(job: Job) -> Step:
    base = load(job)
    settings = PpoSettings(
        policy="policy", reward="reward", prompts="benchmark", name="benchmark", updates=job.steps, episodes=job.rows,
        epochs=job.options["epochs"], minibatches=job.options["minibatches"], max_tokens=job.new,
        value=job.options["value"], lr=LEARNING_RATE, value_lr=LEARNING_RATE, seed=SEED)
    with tempfile.TemporaryDirectory() as folder:
        roles = ppo.attach(base, _adapter(base, Path(folder) / "policy"), _adapter(base, Path(folder) / "reward"),
                           settings)
    prompts = [r["prompt_ids"] for r in data.prompts(job.data)]

    def step(number: int) -> Mapping[str, Any]:
        chosen = data.take(prompts, number, job.rows)
        ppo.step(base, roles, chosen, [], settings, number)
        return {"units": job.rows, "tokens": sum(len(p) + job.new for p in chosen)}

    return step


def _adapter(base: Base, folder: Path) -> Path:
    """A fresh adapter with a scalar head on the disk, as a workspace holds them."""
    folder.mkdir()
    adapters.attach(base, "made", RANK, ALPHA, SEED)
    adapters.save(base, "made", folder)
    adapters.remove(base, "made")
    heads.ScalarHead(base.width, torch.Generator().manual_seed(SEED)).save(folder)
    return folder


def generation(job: Job) -> Step:
    """Options: what ("sample", "greedy", "adapter": greedy with one adapter, "mixed": greedy with eight)."""
    what = job.options["what"]
    base = load(job)
    engine = LocalEngine(base, job.rows)
    sampling = Sampling(job.new, 1.0 if what == "sample" else 0.0, seed=SEED)
    names: str | list[str] = ""
    if what in ("adapter", "mixed"):
        used = data.ADAPTERS if what == "mixed" else 1
        for i in range(used):
            engine.load(f"a{i}", Path(data.adapter_folder(job, i)))
        names = [f"a{i % used}" for i in range(job.rows)]
    prompts = data.windows(job.data)

    def step(number: int) -> Mapping[str, Any]:
        chosen = data.take(prompts, number, job.rows)
        rows = engine.generate(chosen, sampling, [(SEED, number, i) for i in range(job.rows)], model=names)
        written = sum(len(tokens) for tokens, _ in rows)
        return {"units": written, "tokens": written + sum(map(len, chosen))}

    return step


WORKLOADS: dict[str, Callable[[Job], Step]] = {
    "sft": sft_lora, "reward": rankings, "rankings-4": rankings, "rankings-9": rankings, "dpo": dpo_lora,
    "ppo": ppo_lora, "generate": generation, "adapters-8": generation,
}


if __name__ == "__main__":
    main()
