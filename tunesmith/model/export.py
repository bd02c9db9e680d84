"""Adapters for other programs: a PEFT directory, a merged model, GGUF files for llama.cpp.

Each appears whole or not at all, and nothing that exists is overwritten. What a target would compute differently is
refused with the way that remains. A reward model's scalar head lies beside; no other program computes it by itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file

from tunesmith.contracts import Progress
from tunesmith.errors import ModelError, SettingsError, UserError, nearest
from tunesmith.model import adapters, gguf
from tunesmith.model import base as bases
from tunesmith.model import heads as scalar
from tunesmith.model.methods import CONFIG, WEIGHTS
from tunesmith.store.faults import storing
from tunesmith.store.lineage import code_version
from tunesmith.store.publish import sha256
from tunesmith.store.workspace import Adapter

Format = Literal["peft", "vllm", "merged", "gguf-lora", "gguf-base", "gguf"]
FORMATS: tuple[str, ...] = get_args(Format)
LORAS = ("peft", "vllm", "gguf-lora")
"""What holds the adapter alone; `gguf-base` is the base that a gguf-lora goes with, the others are whole models."""
HEAD = "reward_head.safetensors"
ABOUT = "tunesmith.json"
"""What an exported adapter says of its base and lineage, for whoever imports it."""
SHARD = "4GB"
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Job:
    """What to export: `adapter`, whose base lies at `base` (a folder or hub id), written as `format`.

    `licence` is the adapter's own; `data` names the licences of what it learned from.
    """

    adapter: Adapter
    base: str
    format: Format
    precision: gguf.Precision = "bf16"
    licence: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


def export(job: Job, out: Path, progress: Progress | None = None) -> Path:
    """Write the adapter to a new file (GGUF) or folder.

    Raises:
        UserError: `out` exists, an unknown format.
        ModelError: the target cannot represent this adapter; the message says what can.
        MissingExtra: GGUF without the `gguf` package.
        StorageError: not written; nothing is left behind.
    """
    if job.format not in FORMATS:
        raise SettingsError(f'unknown format "{job.format}"{nearest(job.format, FORMATS)}')
    if why := refusal(job.adapter, job.format):
        raise ModelError(f"{job.adapter} {why}")
    if job.precision == "q8_0" and job.format not in ("gguf", "gguf-base"):
        raise SettingsError("q8_0 is for --format gguf and gguf-base")
    out = out.expanduser().absolute()
    head = (job.adapter.path / scalar.FILE).is_file() and job.format != "gguf-base"
    beside = out.with_name(f"{out.stem}.{HEAD}") if head and job.format in ("gguf", "gguf-lora") else None
    if beside:
        _new(beside)
    with _aside(out) as part, storing(out.parent):
        write = {"merged": _merged, "gguf": _gguf, "gguf-base": _gguf, "gguf-lora": _gguf_lora}.get(job.format, _peft)
        write(job, part, progress or (lambda done, total, metrics: None))
        if head:
            shutil.copyfile(job.adapter.path / scalar.FILE, beside or part / HEAD)
    return out


def refusal(adapter: Adapter, format: Format) -> str:
    """Why `format` cannot hold this adapter, and what can instead; empty if it can."""
    if format == "gguf-base":
        return ""
    if adapter.base.get("kind") == "full":
        return ("is a full model, which no adapter can hold; export it with --format merged or gguf"
                if format in LORAS else "")
    about = json.loads((adapter.path / CONFIG).read_text(encoding="utf-8"))
    kind = about["peft_type"]
    if kind not in ("LORA", "IA3"):
        only = " or take --format peft" if kind in ("PREFIX_TUNING", "PROMPT_TUNING") else ""
        if format == "peft" and only:
            return ""
        return f"is of type {kind.lower()}, which {_names(format)} cannot hold; serve it with tunesmith serve{only}"
    if format not in ("vllm", "gguf-lora"):
        return ""
    whole = "--format merged" if format == "vllm" else "--format gguf"
    if kind == "IA3" or about.get("use_dora"):
        return f"is {'IA3' if kind == 'IA3' else 'DoRA'}, which {_names(format)} cannot run; export it with {whole}"
    if format == "vllm" and (about.get("rank_pattern") or about.get("alpha_pattern")):
        return f"has another rank or alpha in some layers, which vLLM does not read; export it with {whole}"
    return ""


def _names(format: Format) -> str:
    return {"vllm": "vLLM", "gguf-lora": "llama.cpp", "gguf": "a GGUF file", "merged": "a merged model",
            "peft": "PEFT"}[format]


# ---- formats

def _peft(job: Job, out: Path, progress: Progress) -> None:
    out.mkdir()
    about = json.loads((job.adapter.path / CONFIG).read_text(encoding="utf-8"))
    about |= {"base_model_name_or_path": _found(job.base), "inference_mode": True}
    (out / CONFIG).write_text(json.dumps(about, indent=2), encoding="utf-8")
    shutil.copyfile(job.adapter.path / WEIGHTS, out / WEIGHTS)
    _chat(job).tokenizer.save_pretrained(out)
    _card(job, out, "peft")
    progress(1, 1, {})


def _merged(job: Job, out: Path, progress: Progress) -> None:
    base = _whole(job)
    base.model.to(TYPES[job.precision])
    base.model.generation_config.eos_token_id = sorted({base.chat.eos, base.chat.end})
    base.model.save_pretrained(out, max_shard_size=SHARD)
    base.tokenizer.chat_template = base.chat.template
    base.tokenizer.save_pretrained(out)
    _card(job, out, "transformers")
    progress(1, 1, {})


def _gguf(job: Job, out: Path, progress: Progress) -> None:
    gguf.architecture(_config(job))  # before the weights are loaded
    base = _whole(job)
    gguf.write_model(out, base.model, base.chat, job.precision, _words(job), progress)


def _gguf_lora(job: Job, out: Path, progress: Progress) -> None:
    lora = PeftConfig.from_pretrained(str(job.adapter.path))
    state = load_file(job.adapter.path / WEIGHTS)
    gguf.write_lora(out, _config(job), lora, state, _words(job), progress)


def _whole(job: Job) -> bases.Base:
    """The base with the adapter folded in by PEFT, in float32: rounding comes after the sum.

    Raises:
        ModelError: the base is not the one that the adapter was trained on; weights that are no numbers.
    """
    base = bases.load(job.base, str(job.adapter.base["spec"]), device="cpu", dtype=torch.float32)
    if base.hash != job.adapter.base["hash"]:
        raise ModelError(f"{job.adapter} was trained on base {job.adapter.base['hash']}, and {job.base} is {base.hash} "
                         "now")
    if job.adapter.base.get("kind") == "full" or job.format == "gguf-base":
        return base
    try:
        PeftModel.from_pretrained(base.model, str(job.adapter.path)).merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError) as e:
        raise ModelError(f"{job.adapter} cannot be merged: {bases.said(e)}") from e
    return base


def _config(job: Job) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(job.base, trust_remote_code=False)


def _chat(job: Job) -> Any:
    """The tokenizer with the template that training used."""
    from transformers import AutoTokenizer

    from tunesmith.model.chat import Chat

    chat = Chat(AutoTokenizer.from_pretrained(job.base, trust_remote_code=False))
    chat.tokenizer.chat_template = chat.template
    return chat


def _found(base: str) -> str:
    """Where PEFT finds the base: a hub id, or a folder by its whole path."""
    return str(Path(base).expanduser().absolute()) if Path(base).expanduser().is_dir() else base


# ---- what is said of it

def _words(job: Job) -> dict[str, str]:
    about = job.adapter.base
    made = f"Made by Tunesmith {code_version()}"
    if job.format == "gguf-base":
        return {"name": str(about["spec"]), "licence": _licence(job.base),
                "description": f"{made} (base {about['hash']})."}
    head = f" A reward model: its head is in the file {HEAD} beside." if job.adapter.role == "reward" else ""
    return {"name": str(job.adapter), "licence": job.licence or _licence(job.base),
            "description": f"{made} from {about['spec']} (base {about['hash']}).{head}"}


def _licence(base: str) -> str:
    """What the base's own card says; empty if there is none."""
    card = Path(base).expanduser() / "README.md"
    found = re.search(r"(?m)\A---\n(?:.*\n)*?license: *(\S+)", card.read_text("utf-8")) if card.is_file() else None
    return found[1] if found else ""


def _card(job: Job, out: Path, library: str) -> None:
    """README.md for people and model hubs, tunesmith.json for `tunesmith adapters import`."""
    a, about = job.adapter, job.adapter.base
    lineage = {"adapter": str(a), "role": a.role, "created": a.created, "base": dict(about), "lineage": dict(a.lineage),
               "licences": dict(job.data), "exported_by": code_version()}
    (out / ABOUT).write_text(json.dumps(lineage, indent=1, default=str), encoding="utf-8")
    licence = job.licence or "other"
    hub = "" if Path(job.base).expanduser().is_dir() else job.base
    front = ["---", f"library_name: {library}", f"license: {licence}", *([f"base_model: {hub}"] if hub else []),
             "tags: [tunesmith]", "---"]
    settings = {k: v for k, v in a.lineage.get("settings", {}).items() if v not in ("", None, [], False)}
    head = ["", "## Reward", "", f"A conversation's reward is computed from the numbers in `{HEAD}` and h, the last "
            "hidden state (behind the final norm) at the answer's last token, its end of turn:", "",
            "    reward = gain * (linear.weight @ h + linear.bias) + bias", *(
                ["", "It is the mean over the heads, one row of `linear.weight` each."] if settings.get("heads", 1) > 1
                else [])] if a.role == "reward" else []
    lines = [
        *front, f"# {a}", "", f"{'A reward model' if a.role == 'reward' else 'A fine-tuned model'} made with Tunesmith "
        f"{a.lineage.get('code', '')} on {a.created[:10]}.", "", "| | |", "|---|---|",
        f"| base | {about['spec']} ({about.get('architecture', '')}, hash {about['hash']}) |",
        f"| licence of the base | {_licence(job.base) or 'see the base'} |",
        f"| licence of this | {job.licence or 'not stated; what it learned from and the base may bind it'} |",
        *[f"| learned from | {name}: {text or 'licence not recorded'} |" for name, text in job.data.items()],
        *[f"| made from | {role}: {name} |" for role, name in a.lineage.get("parents", {}).items()],
        *[f"| --{k.replace('_', '-')} | {v} |" for k, v in settings.items()], *head, ""]
    (out / "README.md").write_text("\n".join(lines), encoding="utf-8")


# ---- all or nothing

@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """Where to write; renamed to `out` at the end, removed after an error."""
    _new(out)
    part = out.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        yield part
        _new(out)
        os.rename(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


def _new(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is no folder; make it first or choose another --out")


# ---- back again

@dataclass(frozen=True, slots=True)
class Found:
    """A PEFT folder: the base it names, a fingerprint of its weights, and what it tells of itself, if anything."""

    folder: Path
    spec: str
    role: Literal["policy", "reward"]
    fingerprint: str
    told: Mapping[str, Any]


def read(folder: Path) -> Found:
    """What lies in a PEFT folder.

    Raises:
        UserError: no adapter there.
    """
    folder = folder.expanduser()
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        fingerprint = sha256(folder / WEIGHTS)[:16]
        told = json.loads((folder / ABOUT).read_text(encoding="utf-8")) if (folder / ABOUT).is_file() else {}
        spec = told.get("base", {}).get("spec") or about.get("base_model_name_or_path") or ""
    except OSError as e:
        raise UserError(f"{folder} is no PEFT folder: {Path(str(e.filename)).name}: {e.strerror}") from e
    except (ValueError, AttributeError) as e:
        raise UserError(f"{folder}: {CONFIG} or {ABOUT} cannot be read: {e}") from e
    return Found(folder, str(spec), "reward" if (folder / HEAD).is_file() else "policy", fingerprint, told)


def checked(found: Found, base: bases.Base) -> Callable[[Path], None]:
    """What writes the adapter into a folder, after it was held against the base: hash, tokenizer, every shape.

    Raises:
        ModelError: it does not belong to this base; says how one sees that.
    """
    known = found.told.get("base", {}).get("hash", base.hash)
    if known != base.hash:
        raise ModelError(f"{found.folder} was trained on a base with hash {known}; {base.spec} has {base.hash}; name "
                         "the right one with --base")
    if (found.folder / "tokenizer.json").is_file():
        from transformers import AutoTokenizer

        theirs, ours = AutoTokenizer.from_pretrained(found.folder, trust_remote_code=False), base.tokenizer
        if theirs.get_vocab() != ours.get_vocab():
            raise ModelError(f"{found.folder} has a tokenizer with other tokens ({len(theirs)}) than base {base.spec} "
                             f"({len(ours)}); name the right base with --base")
    adapters.load(base, "imported", found.folder)
    head = scalar.read(found.folder / HEAD) if found.role == "reward" else None
    if head and head.linear.in_features != base.width:
        raise ModelError(f"{found.folder / HEAD} is for a base of width {head.linear.in_features}, not {base.width}")

    def write(folder: Path) -> None:
        adapters.save(base, "imported", folder)
        if head:
            head.save(folder)

    return write
