"""The benchmark's text, tokenizers and random models: one folder per text and shape, the same for every peer.

The text is a file of preference pairs by people, or dialogues that the built-in loan desk's simulator writes. Weights
are random: no figure here depends on what a model has learned. Special tokens stand between all turns, so every tool
cuts a conversation into the same tokens. Only the standard library is imported before `prepare` is called.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.worker import LONGEST, LORA, SEED, Job

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": dict(vocab_size=8192, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
                 num_key_value_heads=2, tie_word_embeddings=True),
    "small": dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                  num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True),  # SmolLM2-135M
    "0.5b": dict(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                 num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True),  # Qwen2.5-0.5B
    "7b": dict(vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
               num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False),  # Qwen2.5-7B
}
STORED = ("tiny", "small")
"""Shapes whose weights lie on the disk; larger ones are drawn on the device."""
COMMON: dict[str, Any] = dict(max_position_embeddings=2048, rope_theta=10000.0, rms_norm_eps=1e-5, pad_token_id=0,
                              eos_token_id=1, bos_token_id=None)
SPECIAL = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LEARNED_VOCABULARY = 49152
ADAPTERS = 8
Row = dict[str, Any]


def root() -> Path:
    """Where prepared data lies: BENCH_DATA, or a cache folder."""
    return Path(os.environ.get("BENCH_DATA") or Path.home() / ".cache" / "tunesmith" / "benchmarks")


def prepare(text: str | Path | None, shape: str, where: Path | None = None) -> Path:
    """The folder of this text and shape, made if it is not there: model/, pairs.jsonl, groups-4 and -9.

    `text` is a JSONL file, possibly gzipped, of Anthropic HH transcripts (`chosen`, `rejected`, perhaps `prompt` and
    `subset`, of which harmless-base is used); None: the loan desk's dialogues.
    """
    name = "loan-desk" if text is None else _file_name(Path(text))
    folder = (where or root()) / name / shape
    if folder.is_dir():
        return folder
    from transformers.utils import logging

    logging.disable_progress_bar()
    aside = folder.with_name(f".{shape}.{os.getpid()}")
    (aside / "model").mkdir(parents=True)
    pairs = list(_desk_pairs() if text is None else _transcripts(Path(text)))
    tokenizer = _tokenizer(pairs, SHAPES[shape]["vocab_size"])
    tokenizer.save_pretrained(aside / "model")
    _model(shape, aside / "model")
    _write(aside, pairs, tokenizer)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return folder


def named(text: str | Path | None) -> str:
    """What the results say of a text."""
    return Path(text).name if text else "dialogues of the built-in loan desk (--text FILE for text by people)"


def prepare_adapters(folder: Path, shape: str, count: int = ADAPTERS) -> None:
    """adapters/0, 1, ...: random LoRA adapters of the benchmark's rank as PEFT directories, for every server."""
    lacking = [i for i in range(count) if not (folder / "adapters" / str(i) / "adapter_config.json").is_file()]
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    config = LoraConfig(task_type="CAUSAL_LM", inference_mode=True, **LORA)
    for number in lacking:
        generator = torch.Generator().manual_seed(number)
        tensors = {}
        for name, (wide, narrow) in linears(shape).items():
            key = f"base_model.model.model.layers.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(LORA["r"], narrow, generator=generator) / narrow**0.5
            tensors[f"{key}.lora_B.weight"] = torch.randn(wide, LORA["r"], generator=generator) * 1e-2
        made = folder / "adapters" / str(number)
        made.mkdir(parents=True, exist_ok=True)
        save_file(tensors, made / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(made))


def pairs(folder: str | Path) -> list[Row]:
    """`prompt` (turns), `chosen`, `rejected` (texts), and the tokens of each: `prompt_ids`, `chosen_ids`,
    `rejected_ids`; an answer's tokens include its end.
    """
    return _read(Path(folder) / "pairs.jsonl")


def groups(folder: str | Path, k: int) -> list[Row]:
    """`prompt` (turns) and `answers`, K texts best to worst, with `prompt_ids` and `answers_ids`."""
    return _read(Path(folder) / f"groups-{k}.jsonl")


def prompts(folder: str | Path, low: int = 64, high: int = 128) -> list[Row]:
    """The pairs whose prompts have between `low` and `high` tokens."""
    return [r for r in pairs(folder) if low <= len(r["prompt_ids"]) <= high]


def windows(folder: str | Path, length: int = 64) -> list[list[int]]:
    """Prompts of exactly `length` tokens: the ends of longer ones."""
    return [r["prompt_ids"][-length:] for r in pairs(folder) if len(r["prompt_ids"]) >= length]


def take(rows: Sequence[Any], step: int, count: int) -> list[Any]:
    """The rows of one step: the same for every worker, over and over from the start."""
    return [rows[(step * count + i) % len(rows)] for i in range(count)]


def many(rows: Sequence[Any], job: Job, per_step: int | None = None) -> list[Any]:
    """The rows of all of a job's steps, in order."""
    return [row for step in range(job.steps) for row in take(rows, step, per_step or job.rows)]


def model_folder(job: Job) -> str:
    return str(Path(job.data) / "model")


def adapter_folder(job: Job, number: int) -> str:
    return str(Path(job.data) / "adapters" / str(number))


def conversation(row: Mapping[str, Any], answer: str) -> list[dict[str, str]]:
    """A prompt's turns with an answer behind them."""
    return [*row["prompt"], {"role": "assistant", "content": answer}]


# --- text -----------------------------------------------------------------------------


def _file_name(file: Path) -> str:
    """Stem and content: another file of the same name is another text."""
    with file.open("rb") as f:
        return f"{file.name.split('.')[0]}-{hashlib.file_digest(f, 'sha256').hexdigest()[:8]}"


def _transcripts(file: Path) -> Iterator[Row]:
    """Pairs whose transcripts agree up to the last assistant turn, shuffled once."""
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    kept = []
    for row in rows:
        if row.get("subset", "harmless-base") != "harmless-base":
            continue
        chosen, rejected = (_turns(row.get("prompt", "") + row[key]) for key in ("chosen", "rejected"))
        answers = [t[-1] if t else {} for t in (chosen, rejected)]
        if len(chosen) > 1 and chosen[:-1] == rejected[:-1] and all(
                a.get("role") == "assistant" and a["content"] for a in answers):
            kept.append({"prompt": chosen[:-1], "chosen": answers[0]["content"], "rejected": answers[1]["content"]})
    random.Random(SEED).shuffle(kept)
    yield from kept


def _turns(text: str) -> list[dict[str, str]]:
    parts = re.split(r"\n\n(Human|Assistant): ?", text)
    return [{"role": "user" if who == "Human" else "assistant", "content": said.strip()}
            for who, said in zip(parts[1::2], parts[2::2])]


def _desk_pairs(count: int = 2000) -> Iterator[Row]:
    """One to four of the desk's dialogues in a row, the last answered by a careful and by any agent."""
    from tunesmith.quickstart.customers import sample
    from tunesmith.quickstart.replies import EXCELLENT, population, write

    rng = random.Random(SEED)
    scenarios = iter(sample("train", 4 * count, SEED))
    for _ in range(count):
        turns: list[dict[str, str]] = []
        for last in (False,) * rng.randrange(4) + (True,):
            scenario = next(scenarios)
            turns += scenario.messages
            if not last:
                turns.append({"role": "assistant", "content": write(scenario, population(rng), rng)})
        yield {"prompt": turns, "chosen": write(scenario, EXCELLENT, rng),
               "rejected": write(scenario, population(rng), rng)}


# --- files ----------------------------------------------------------------------------


def _tokenizer(pairs: Sequence[Row], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    texts = (text for p in pairs for text in (*(m["content"] for m in p["prompt"]), p["chosen"], p["rejected"]))
    inner.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=min(vocabulary, LEARNED_VOCABULARY), special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<|pad|>", eos_token="<|end|>",
                                   model_max_length=COMMON["max_position_embeddings"], chat_template=TEMPLATE)


def _model(shape: str, folder: Path) -> None:
    """The configuration; weights too for the stored shapes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPES[shape], **COMMON)
    if shape not in STORED:
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(folder)
        return
    torch.manual_seed(SEED)
    LlamaForCausalLM(config).save_pretrained(folder)


def _write(folder: Path, pairs: Sequence[Row], tokenizer: Any) -> None:
    """Rows with their tokens; conversations over LONGEST tokens are left out, so that no tool has to cut any."""
    kept = []
    for p in pairs:
        prompt = _encode(tokenizer, "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in p["prompt"])
                         + "<|assistant|>")
        row = {**p, "prompt_ids": prompt, "chosen_ids": _encode(tokenizer, p["chosen"] + "<|end|>"),
               "rejected_ids": _encode(tokenizer, p["rejected"] + "<|end|>")}
        if len(prompt) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= LONGEST:
            kept.append(row)
    _dump(folder / "pairs.jsonl", kept)
    rng = random.Random(SEED)
    short = [(r[key], r[f"{key}_ids"]) for r in kept for key in ("chosen", "rejected")]
    for k in (4, 9):
        made = []
        for row in kept[:400]:
            room = LONGEST - len(row["prompt_ids"])
            others = rng.sample([a for a in rng.sample(short, min(64, len(short))) if len(a[1]) <= room], k - 2)
            answers = [(row["chosen"], row["chosen_ids"]), (row["rejected"], row["rejected_ids"]), *others]
            made.append({"prompt": row["prompt"], "prompt_ids": row["prompt_ids"],
                         "answers": [a[0] for a in answers], "answers_ids": [a[1] for a in answers]})
        _dump(folder / f"groups-{k}.jsonl", made)


def linears(shape: str) -> dict[str, tuple[int, int]]:
    """Each block's linear layers as "LAYER.PART.NAME" -> (outputs, inputs)."""
    s = SHAPES[shape]
    width, inner = s["hidden_size"], s["intermediate_size"]
    keys = width // s["num_attention_heads"] * s["num_key_value_heads"]
    sizes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (keys, width), "self_attn.v_proj": (keys, width),
             "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
             "mlp.down_proj": (width, inner)}
    return {f"{i}.{name}": size for i in range(s["num_hidden_layers"]) for name, size in sizes.items()}


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _dump(file: Path, rows: Sequence[Row]) -> None:
    file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


def _read(file: Path) -> list[Row]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
