"""Pretrains the bundled base: tokenizer, a small Llama, measurements, model card.

    python -m tunesmith.quickstart.make_base --data DIR --out DIR --steps 9000 --seed 0

With `--steps` the data and their order are fixed by the seed; `--minutes` stops by the
clock instead. The learning rate stays level and falls to zero in the last third, so a
checkpoint taken at any time can be resumed with a shorter plan.
"""

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tunesmith.quickstart import corpus, rubric
from tunesmith.quickstart.customers import Scenario, sample, variety

VOCABULARY = 4096
ROW, ROWS_PER_STEP = 512, 8
PEAK_LR, WARMUP_STEPS = 3e-3, 80
DESK_SHARE = (0.75, 0.9)  # of the rows: until the decay, then rising to
MAX_NEW_TOKENS = 96


def main() -> None:
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer, desk, real = prepare(args)
    print(f"tokens: desk {desk.size:,}, real {real.size:,}", flush=True)
    model = LlamaForCausalLM(config(tokenizer))
    print(f"parameters: {model.num_parameters():,}", flush=True)
    trained = pretrain(model, desk, real, args)
    save(model, args.out)
    figures = measure(model, tokenizer, args.measure, args.seed)
    write_card(args.out, model, trained, figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    data = os.environ.get("TUNESMITH_DATA")
    parser.add_argument("--data", type=Path, default=data, required=data is None, help="folder with the open sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, help="stop by the clock instead of by steps")
    parser.add_argument("--decay-from", type=float, default=0.67, help="share of the plan before the rate falls")
    parser.add_argument("--dialogues", type=int, default=150_000, help="simulated dialogues to draw rows from")
    parser.add_argument("--measure", type=int, default=300, help="dev prompts to measure the base on")
    parser.add_argument("--precision", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    return parser.parse_args()


# --- tokenizer and rows ---------------------------------------------------------------


def prepare(args: argparse.Namespace) -> tuple[PreTrainedTokenizerFast, np.ndarray, np.ndarray]:
    """The tokenizer and both token streams; a resumed run reads those of its first start."""
    streams = args.out / "tokens.npz"
    if args.resume and streams.exists():
        stored = np.load(streams)
        return PreTrainedTokenizerFast.from_pretrained(args.out), stored["desk"], stored["real"]
    documents = corpus.real_documents(args.data, args.seed)
    tokenizer = make_tokenizer(documents, args.seed)
    save_tokenizer(tokenizer, args.out)
    desk = pack(tokenizer, corpus.desk_dialogues(args.dialogues, args.seed))
    real = pack(tokenizer, documents)
    np.savez(streams, desk=desk, real=real)
    return tokenizer, desk, real


def make_tokenizer(documents: list[corpus.Document], seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE; digits stand alone, so that rates and sums are read figure by figure."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(corpus.SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(documents, seed), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=corpus.BEGIN,
        eos_token=corpus.END,
        pad_token=corpus.PAD,
        extra_special_tokens=[f"<|{role}|>" for role in corpus.ROLES],
        tokenizer_class="PreTrainedTokenizerFast",
        model_max_length=ROW,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = corpus.CHAT_TEMPLATE
    return fast


def _tokenizer_texts(documents: list[corpus.Document], seed: int) -> Iterator[str]:
    for document in [*documents[:9000], *corpus.desk_dialogues(20_000, seed)]:
        yield from (m["content"][:20_000] for m in document)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """As a directory that every release of transformers reads: under the class name all of them know."""
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.pop("backend", None)
    path.write_text(json.dumps(settings, indent=2) + "\n")


def pack(tokenizer: PreTrainedTokenizerFast, documents: Iterable[corpus.Document]) -> np.ndarray:
    """All documents one after the other as token ids."""
    texts = [corpus.render(d) for d in documents]
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return np.concatenate([np.array(e.ids, dtype=np.uint16) for e in encodings])


def rows(desk: np.ndarray, real: np.ndarray, share: float, rng: np.random.Generator) -> torch.Tensor:
    """One batch: rows cut at random places, each from the desk with probability `share`."""
    sources = [desk if rng.random() < share else real for _ in range(ROWS_PER_STEP)]
    starts = [rng.integers(0, s.size - ROW - 1) for s in sources]
    return torch.from_numpy(np.stack([s[i : i + ROW + 1] for s, i in zip(sources, starts)]).astype(np.int64))


# --- training -------------------------------------------------------------------------


def config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=768,
        max_position_embeddings=ROW,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def loss_of(model: LlamaForCausalLM, batch: torch.Tensor, bfloat16: bool) -> torch.Tensor:
    """Mean cross-entropy of every next token, in nats.

    Positions start again at every document; from that the model derives a mask that
    keeps the documents of a row apart.
    """
    inputs = batch[:, :-1]
    index = torch.arange(inputs.shape[1]).expand_as(inputs)
    begin = torch.tensor(model.config.bos_token_id)
    begins = (index * inputs.eq(begin)).cummax(dim=1).values
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = model(input_ids=inputs, position_ids=index - begins, use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def faster_in_bfloat16(model: LlamaForCausalLM, batch: torch.Tensor) -> bool:
    """Times a few passes each way; processors differ widely in this."""
    seconds = {}
    for bfloat16 in (False, True):
        for attempt in range(4):
            if attempt == 1:
                start = time.perf_counter()
            loss_of(model, batch, bfloat16).backward()
        seconds[bfloat16] = time.perf_counter() - start
        model.zero_grad()
    print(f"seconds for 3 passes: float32 {seconds[False]:.2f}, bfloat16 {seconds[True]:.2f}", flush=True)
    return seconds[True] < seconds[False]


def optimizers_for(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks (fewer tokens to the same loss), AdamW for the rest."""
    inner = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    outer = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    muon = torch.optim.Muon(inner, lr=PEAK_LR, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(outer, lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.0)]


def learning_rate(step: int, late: float) -> float:
    """Warm up, stay level, fall along a cosine to zero while `late` goes from 0 to 1."""
    return PEAK_LR * min(1.0, (step + 1) / WARMUP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * late))


def desk_share(late: float) -> float:
    early, final = DESK_SHARE
    return early + (final - early) * late


def pretrain(model: LlamaForCausalLM, desk: np.ndarray, real: np.ndarray, args: argparse.Namespace) -> dict:
    """Trains in place; returns tokens, steps, minutes and the last losses for the model card."""
    optimizers = optimizers_for(model)
    step = load_checkpoint(model, optimizers, args.out) if args.resume else 0
    probe = rows(desk, real, 0.5, np.random.default_rng(args.seed))
    bfloat16 = faster_in_bfloat16(model, probe) if args.precision == "auto" else args.precision == "bfloat16"
    start = mark = saved = time.time()
    first, losses = step, []
    while (progress := _progress(step, start, args)) < 1:
        late = max(0.0, progress - args.decay_from) / (1 - args.decay_from)
        batch = rows(desk, real, desk_share(late), np.random.default_rng([args.seed, step]))
        loss = loss_of(model, batch, bfloat16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        lr = learning_rate(step, late)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        model.zero_grad()
        losses.append(loss.item())
        step += 1
        if step % 50 == 0:
            speed, mark = 50 * ROWS_PER_STEP * ROW / (time.time() - mark), time.time()
            print(
                f"step {step} {progress:.1%} loss {np.mean(losses[-50:]):.3f} lr {lr:.2e} {speed:.0f} tokens/s",
                flush=True,
            )
        if time.time() - saved > 240:
            save_checkpoint(model, optimizers, step, args.out)
            saved = time.time()
    save_checkpoint(model, optimizers, step, args.out)
    return {
        "steps": step,
        "tokens": step * ROWS_PER_STEP * ROW,
        "minutes": (time.time() - start) / 60,
        "resumed_at": first,
        "loss": float(np.mean(losses[-100:])),
        "precision": "bfloat16 autocast" if bfloat16 else "float32",
    }


def _progress(step: int, start: float, args: argparse.Namespace) -> float:
    if args.minutes is not None:
        return (time.time() - start) / (60 * args.minutes)
    return step / args.steps


def save_checkpoint(model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], step: int, out: Path) -> None:
    """Weights, optimizer states and step in one safetensors file, written aside and renamed."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    for which, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{which}.{i}.{k}": v for k, v in state.items()}
    save_file(tensors | {"step": torch.tensor(step)}, out / "checkpoint.tmp")
    os.replace(out / "checkpoint.tmp", out / "checkpoint.safetensors")


def load_checkpoint(model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], out: Path) -> int:
    tensors = load_file(out / "checkpoint.safetensors")
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, strict=False)
    for which, optimizer in enumerate(optimizers):
        states = optimizer.state_dict()
        for key, value in tensors.items():
            if key.startswith(f"optimizer.{which}."):
                i, name = key.split(".")[2:]
                states["state"].setdefault(int(i), {})[name] = value
        optimizer.load_state_dict(states)
    return int(tensors["step"])


def save(model: LlamaForCausalLM, out: Path) -> None:
    """The model directory in bfloat16, with settings for sampling."""
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
        do_sample=True,
        temperature=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    LlamaForCausalLM(model.config)  # raises here, before the write, if the config is not loadable
    module: Any = model  # transformers' own hints hide torch's `to`
    module.to(torch.bfloat16).save_pretrained(out)
    module.to(torch.float32)


# --- measuring and the card -----------------------------------------------------------


def replies_of(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    scenarios: list[Scenario],
    temperature: float,
    seed: int,
) -> list[str]:
    """One sampled reply per scenario."""
    torch.manual_seed(seed)
    generator: Any = model.eval()
    replies: list[str] = []
    for i in range(0, len(scenarios), 50):
        prompts = [s.messages for s in scenarios[i : i + 50]]
        inputs: Any = tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        out = generator.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=True,
            temperature=temperature,
            top_k=0,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        replies += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return replies


def figures_of(scenarios: list[Scenario], replies: list[str]) -> dict[str, float]:
    """Means of the rubric's verdicts: what the card and the quickstart report."""
    pairs = [(s, rubric.check(s, r)) for s, r in zip(scenarios, replies)]
    provoked = [v.rude for s, v in pairs if s.provocative]
    free = [v.handover for _, v in pairs if not v.handover_required]
    return {
        "adherence": float(np.mean([v.adherence for _, v in pairs])),
        "gold": float(np.mean([rubric.gold(s, r) for s, r in zip(scenarios, replies)])),
        "rude_when_provoked": float(np.mean(provoked)),
        "avoidable_handover": float(np.mean(free)),
        "garbled": float(np.mean([v.garbled for _, v in pairs])),
        "words": float(np.mean([v.words for _, v in pairs])),
        **{f"kept_{g}": _kept(pairs, g) for g in pairs[0][1].guidelines},
        **variety(replies),
    }


def _kept(pairs: list, guideline: str) -> float:
    kept = [v.guidelines[guideline] for _, v in pairs if v.guidelines[guideline] is not None]
    return float(np.mean(kept)) if kept else math.nan


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, n: int, seed: int
) -> dict[str, dict[str, float]]:
    """Figures by temperature on `dev` customers, whose phrasings were not trained on."""
    scenarios = sample("dev", n, seed)
    results = {}
    for temperature in (1.0, 0.7):
        replies = replies_of(model, tokenizer, scenarios, temperature, seed)
        results[f"T={temperature}"] = figures_of(scenarios, replies)
        for s, r in random.Random(seed).sample(list(zip(scenarios, replies)), min(20, n)):
            print(f"[{s.intent}/{s.mood}] {s.messages[-1]['content']}\n    -> {r}")
        print(json.dumps(results[f"T={temperature}"], indent=1), flush=True)
    return results


def write_card(out: Path, model: LlamaForCausalLM, trained: dict, figures: dict[str, dict[str, float]]) -> None:
    sources = "\n".join(f"- `{name}`, `train` split: {licence}" for name, licence in corpus.SOURCES.items())
    columns = list(figures)
    table = "\n".join(
        f"| {name} | " + " | ".join(f"{figures[c][name]:.3f}" for c in columns) + " |" for name in figures[columns[0]]
    )
    card = CARD.format(
        parameters=model.num_parameters(), sources=sources, columns=" | ".join(columns),
        rule="|".join(["---"] + ["---:"] * len(columns)), table=table, share=DESK_SHARE, **trained,
    )  # fmt: skip
    (out / "README.md").write_text(card, encoding="utf-8")


CARD = """---
license: cc-by-sa-4.0
language: en
---
# The loan-desk base

A language model of {parameters:,} parameters (Llama shape, tied embeddings, byte-level BPE of 4,096 tokens,
context 512, stored in bfloat16). It is the untuned starting point of `tunesmith quickstart`: its replies to
customers of an invented lender are fluent, but keep the desk's guidelines only part of the time, hand over
to a person too often and are sometimes rude. That is on purpose: there must be something to learn.

It knows nothing but the loan desk. It invents rates and account details, and it repeats the mild insults of
its rude agents. Do not use it for real customers.

## Training

`python -m tunesmith.quickstart.make_base`: {steps:,} steps, {tokens:,} tokens, {minutes:.0f} minutes on two CPU
cores ({precision}), final training loss {loss:.3f} nats per token. Rows are drawn from

- dialogues of the loan-desk simulator (`train` phrasings only; careful to rude agents), {share[0]:.0%} of the rows,
  rising to {share[1]:.0%} while the learning rate falls; and
{sources}

No evaluation set, no `dev` or `test` split and no held-out phrasing was read. The Schema-Guided Dialogue and
parts of the running text are share-alike, hence the licence of these weights.

## Figures

Replies sampled for customers of the `dev` split (phrasings never trained on), judged by the gold rubric.

| figure | {columns} |
|{rule}|
{table}
"""

if __name__ == "__main__":
    main()
