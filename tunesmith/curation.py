"""Looking after data: what repeats itself, what leaks, how healthy it is, what a model can add, how far more helps.

Every step reads a dataset of the workspace row by row and makes a new one, a report, or drafts for the desk; nothing
changes a dataset.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith import __version__
from tunesmith.data import checkup, duplicates, growth, health, rows, selfinstruct, taskfiles
from tunesmith.data.leakage import Evaluations, Item, Leakage, items, texts_in
from tunesmith.data.mixture import Mixture
from tunesmith.data.selfinstruct import Made
from tunesmith.errors import UserError
from tunesmith.evaluate import report as reports
from tunesmith.evaluate import suites
from tunesmith.evaluate.report import Report
from tunesmith.evaluate.suites import Given
from tunesmith.evaluate.toxicity import Toxicity
from tunesmith.feedback import similarity
from tunesmith.judging import asked
from tunesmith.records import Demonstration, Record
from tunesmith.settings import (
    CurveSettings,
    DecontaminateSettings,
    DedupeSettings,
    GenerateSettings,
    HealthSettings,
    Settings,
    SftSettings,
)
from tunesmith.shop import Shop, counted
from tunesmith.store import desk, privacy
from tunesmith.store.workspace import Dataset, Workspace

SUITE = "suite:"


@dataclass(frozen=True, slots=True)
class Checked:
    """A report: where it is, what it says first, and all of it."""

    path: Path
    verdict: list[str]
    report: Mapping[str, Any]


# ---- duplicates and leaks

def dedupe(shop: Shop, settings: DedupeSettings) -> Dataset:
    """A dataset -> one whose rows all say something else.

    Raises:
        UserError: a mixture; comparisons, of which several verdicts may be of one group; or nothing is left.
    """
    data = _plain(shop, settings.data)
    known = [shop.workspace.dataset(name) for name in settings.against]
    if odd := [d for d in (data, *known) if d.kind not in ("demonstrations", "prompts")]:
        raise UserError(f"{odd[0].name} holds {odd[0].kind}: several verdicts on one group are no duplicates; dedupe "
                        "is for demonstrations and prompts")
    before = sum(d.count for d in known)
    with _scratch(shop) as folder, shop.progress("dedupe") as progress:
        said = (rows.whole(r) for d in (*known, data) for r in d.rows())
        found = duplicates.find(said, folder / "index", settings.threshold, known=before,
                                progress=counted(progress, before + data.count))
    twin = found.twin[before:]
    return _publish(shop, data, settings.name, twin < 0, {
        "says what another row says": int((twin >= before).sum()),
        "says what a row of --against says": int(((twin >= 0) & (twin < before)).sum())})


def decontaminate(shop: Shop, settings: DecontaminateSettings) -> tuple[Dataset, Leakage]:
    """A dataset -> one that holds none of the evaluations' items, and what was found.

    Raises:
        NotFound: an unknown evaluation.
        UserError: a mixture, or nothing is left.
    """
    data = _plain(shop, settings.data)
    watch = Evaluations(_evaluated(shop, settings.against, settings.files), settings.ngram, settings.share)
    with shop.progress("decontaminate") as progress:
        count = counted(progress, data.count)
        clean = np.fromiter((not watch.leaks(rows.texts(r)) for r in _passing(data.rows(), count)), np.bool_)
    made = _publish(shop, data, settings.name, clean, {"holds an evaluation item": watch.found.leaky})
    return made, watch.found


def _plain(shop: Shop, name: str) -> Dataset:
    """The dataset, if it is no mixture: its rates hold for all of its rows."""
    data = shop.workspace.dataset(name)
    if Mixture.of(data):
        raise UserError(f"{name} is a mixture, and would lose the rates that its tasks are drawn at: clean the files "
                        "and datasets that it is made of, then mix those (tunesmith data mix)")
    return data


def _publish(shop: Shop, data: Dataset, name: str, kept: NDArray[np.bool_], gone: Mapping[str, int]) -> Dataset:
    """The rows that stay, and why others do not."""
    return shop.workspace.add_dataset(
        name, data.kind, itertools.compress(data.rows(), kept), source=f"{data.name} {data.fingerprint}",
        licence=data.licence, skipped={why: n for why, n in gone.items() if n})


def _evaluated(shop: Shop, names: Sequence[str], files: str) -> Iterator[Item]:
    """The items of evaluations by name."""
    for name in names:
        if not name.startswith(SUITE):
            yield from items(name, (rows.texts(r) for r in shop.workspace.dataset(name).rows()))
            continue
        given = Given(Path(files) if files else None)
        for suite in suites.find([name.removeprefix(SUITE)], given):
            yield from items(suite.name, (tuple(texts_in(item.about)) for item in suite.items()))


# ---- health

def check(shop: Shop, settings: HealthSettings) -> Checked:
    """A dataset -> report.json and report.html under reports/NAME.

    Raises:
        NotFound: an unknown dataset or evaluation.
    """
    data = shop.workspace.dataset(settings.data)
    watch = Evaluations(_evaluated(shop, settings.against, settings.files)) if settings.against else None
    reference = [rows.question(r) for r in shop.workspace.dataset(settings.reference).rows()] \
        if settings.reference else []
    tools = health.Tools(Toxicity.load().probability, _private, watch, reference[:settings.sample])
    with _scratch(shop) as folder, shop.progress("health") as progress:
        found = health.examine(data.name, data.kind, data.rows(), folder / "index", tools, sample=settings.sample,
                               threshold=settings.threshold, seed=settings.seed,
                               progress=counted(progress, data.count))
    notes = [f"Not looked at: {what} ({cure})." for what, cure in found.not_measured.items()]
    return _written(shop, settings.name or f"health-{data.name}", {
        "title": f"Data health: {data.name}", "verdict": checkup.verdict(found), "notes": notes,
        "sections": checkup.sections(found), "how": _how(settings, data),
        "health": checkup.to_json({"rows": found.rows, "kind": found.kind, **found.figures})})


def _private(text: str) -> Iterator[str]:
    return (f.kind for f in privacy.find(text))


# ---- Self-Instruct

@dataclass
class Generated:
    """What came of it: tasks and drafts of all runs, new drafts of this one, what was left out, and why it ended."""

    tasks: int = 0
    drafts: int = 0
    new: int = 0
    said: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    ended: str = ""
    dataset: str = ""


def generate(shop: Shop, settings: GenerateSettings) -> Generated:
    """A few tasks -> drafts on a desk, each with where it comes from. Started again, it goes on where it was: what was
    made stands in reports/NAME/tasks.jsonl, a line for each task.

    Raises:
        UserError: seeds that are none, or a writer that cannot be asked.
        MissingExtra: rapidfuzz, which measures how new a task is.
    """
    similarity.need("rouge_l")
    seeds = taskfiles.read(settings.seeds, shop.workspace)
    engine, model, writer = asked(shop, settings.writer)
    journal = shop.workspace.root / "reports" / settings.name / taskfiles.JOURNAL
    earlier = taskfiles.journal(journal)
    out = Generated(len(earlier))
    drafts = [d for made in earlier for d in _drafted(made, settings, writer)]
    out.new += desk.add(shop.workspace, settings.name, drafts, origin="generated", author=writer)
    rounds = selfinstruct.bootstrap(engine, seeds, [m.task for m in earlier], model=model, seed=settings.seed,
                                    start=1 + max((m.request for m in earlier), default=-1),
                                    requests=settings.requests, chat=settings.chat, max_tokens=settings.max_tokens)
    barren = 0
    with shop.progress("generate") as progress:
        while out.tasks < settings.tasks and barren < settings.patience:
            found = next(rounds)
            made = found.made[:settings.tasks - out.tasks]
            taskfiles.append(journal, made)
            drafts = [d for m in made for d in _drafted(m, settings, writer)]
            out.new += desk.add(shop.workspace, settings.name, drafts, origin="generated", author=writer)
            out.tasks, out.said = out.tasks + len(made), out.said + found.said
            out.left_out += found.left_out
            barren = 0 if made else barren + 1
            progress(out.tasks, settings.tasks, {})
    out.ended = "" if out.tasks >= settings.tasks else f"nothing new in {barren} rounds of {settings.requests} requests"
    out.drafts = desk.find(shop.workspace, settings.name).count if out.tasks else 0
    if settings.unreviewed and out.tasks:
        out.dataset = desk.publish(shop.workspace, settings.name, settings.unreviewed, unreviewed=True).name
    return out


def _drafted(made: Made, settings: GenerateSettings, writer: str) -> list[Demonstration]:
    source = selfinstruct.provenance(made, writer, settings.seeds)
    return selfinstruct.demonstrations(made, source, settings.licence)


# ---- the learning curve

def curve(shop: Shop, settings: CurveSettings) -> Checked:
    """A dataset -> how the loss falls with the number of examples, and what that advises. Every run's loss is kept, so
    a curve that was stopped goes on; its adapters are not.

    Raises:
        UserError: no base, no demonstrations, fewer than three sizes fit into the data.
    """
    data, valid = shop.workspace.dataset(settings.data), shop.workspace.dataset(settings.valid)
    sizes = sorted({min(n, data.count) for n in settings.sizes})
    if len(sizes) < 3:
        raise UserError(f"{data.name} has {data.count} rows: a curve needs three sizes of at most so many")
    name = settings.name or f"curve-{data.name}"
    folder = shop.workspace.root / "reports" / name
    folder.mkdir(parents=True, exist_ok=True)
    about = _about_curve(settings, data, valid)
    known = _points(folder / "points.jsonl", about)
    todo = [(n, seed) for seed in range(settings.seeds) for n in sizes]
    with shop.progress("curve") as progress:
        for done, (n, seed) in enumerate(todo):
            if (n, seed) not in known:
                known[n, seed] = _learned(shop, settings, data, valid, n, seed)
                taskfiles.add_lines(folder / "points.jsonl", [
                    {"about": about, "size": n, "seed": seed, "loss": known[n, seed]}])
            progress(done + 1, len(todo), {"loss": known[n, seed]})
    losses = {n: [known[n, seed] for seed in range(settings.seeds)] for n in sizes}
    found = growth.growth(losses)
    return _written(shop, name, {
        "title": f"Learning curve: {data.name}", "verdict": [
            {"text": found.text, "tone": {"more": "better", "better": "watch"}.get(found.advice, "unclear")}],
        "sections": [_curve_section(losses, found)], "how": _how(settings, data, valid),
        "growth": {"losses": {str(n): of for n, of in losses.items()}, **found.to_dict()}})


def _learned(shop: Shop, settings: CurveSettings, data: Dataset, valid: Dataset, n: int, seed: int) -> float:
    """The lowest validation loss while a fresh adapter learns from n examples, drawn by the seed: smaller sizes of a
    seed are part of its larger ones."""
    from tunesmith.train import sft

    chosen = set(np.random.default_rng(seed).permutation(data.count)[:n].tolist())
    epochs = max(settings.epochs, settings.least_steps * settings.batch / n)
    with _scratch(shop) as folder, Workspace.open(folder / "workspace") as own:
        own.add_dataset("some", "demonstrations", (r for i, r in enumerate(data.rows()) if i in chosen))
        own.add_dataset("valid", "demonstrations", valid.rows())
        how = SftSettings(base=settings.base, data="some", valid="valid", name="curve", epochs=epochs,
                          batch=settings.batch, lr=settings.lr, rank=settings.rank, max_tokens=settings.max_tokens,
                          seed=seed, checkpoint_every=10_000)
        made = sft.train(own, shop.base(settings.base, how), how)
        measured = [m["valid_loss"] for m in own.run(made.lineage["run"]).metrics() if "valid_loss" in m]
    return float(min(measured))


def _curve_section(losses: Mapping[int, Sequence[float]], found: growth.Growth) -> dict[str, Any]:
    points = [[n, y] for n, of in losses.items() for y in of]
    line = [[n, y] for n, y, _, _ in found.line]
    band = [[low, high] for _, _, low, high in found.line]
    caption = (f"Loss per learned token on held-out demonstrations = {found.floor.value:.3f} + "
               f"{found.scale.value:.3g} · n^-{found.exponent.value:.2f}.")
    rows_ = [[f"{n:,}", f"{sum(of) / len(of):.4f}", ", ".join(f"{y:.4f}" for y in of)] for n, of in losses.items()]
    return {"title": "Loss against examples", "note": "Each run learned from other examples; of a run the lowest loss "
            "counts.", "tables": [
                {"title": "Losses", "head": ["Examples", "Mean", "Each seed"], "rows": rows_},
                {"title": "The fitted law", "head": ["", "Estimate"], "rows": [
                    ["exponent", f"{found.exponent:.3f}"], ["floor", f"{found.floor:.4f}"],
                    ["a doubling takes off", str(found.doubling)]]}],
            "figures": [{"kind": "lines", "title": "Loss against examples", "caption": caption,
                         "x": "examples", "y": "nats per token", "series": [
                             {"label": "fitted", "points": line, "band": band}], "dots": points}]}


def _about_curve(settings: CurveSettings, data: Dataset, valid: Dataset) -> list[Any]:
    """What a kept loss must have been measured with to count."""
    own = settings.model_dump(exclude={"name", "sizes", "seeds", "data", "valid"})
    return [data.fingerprint, valid.fingerprint, own]


def _points(path: Path, about: list[Any]) -> dict[tuple[int, int], float]:
    """The losses measured before; a last line that was cut off is as if it had never been."""
    known = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["about"] == about:
            known[row["size"], row["seed"]] = row["loss"]
    return known


# ---- what they share

@contextmanager
def _scratch(shop: Shop) -> Iterator[Path]:
    """A folder on the workspace's disk, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=".curation-", dir=shop.workspace.root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _passing(records: Iterable[Record], count: Callable[[int], None]) -> Iterator[Record]:
    for record in records:
        count(1)
        yield record


def _written(shop: Shop, name: str, report: Mapping[str, Any]) -> Checked:
    found: Report = {"created": datetime.now(UTC).isoformat(timespec="seconds"), **report}  # type: ignore[typeddict-item]
    path = reports.write(shop.workspace.root / "reports" / name, found)
    return Checked(path, [s["text"] for s in found["verdict"]], found)


def _how(settings: Settings, *data: Dataset) -> dict[str, Mapping[str, Any]]:
    return {"Settings": settings.model_dump(), "Data": {d.name: f"{d.count:,} {d.kind}, {d.fingerprint}" for d in data},
            "Versions": {"Tunesmith": __version__}}
