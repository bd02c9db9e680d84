"""Mixtures: memory and time against the number of rows, and what many tasks teach about tasks that were left out.

    python -m benchmarks.mixtures scale --rows 50000 5000000 --folder /tmp/mixtures --out docs/results
    python -m benchmarks.mixtures transfer --data ../shared/data --seeds 0 1 2 --out docs/results

`scale` writes synthetic rows and runs each stage in a process of its own, whose peak memory is the figure: `mix` reads
the rows and writes the mixture, which takes `--limit` rows of a task at most; `cut` makes tokens of it, `draw` draws
batches at many steps, `train` learns for some steps as `tunesmith sft` does.

`transfer` leaves one cluster of tasks out at a time (inference, sentiment, paraphrase), tunes the bundled base on the
rest of four sets of tasks, and on one single task at a time for as many steps; both are measured on the cluster that
neither has seen: nats per token of the right answer, and how often it is the likeliest of the choices.

What is done is in the log and is not repeated.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.templates import Template
from tunesmith.records import Message
from tunesmith.settings import MixSettings, SftSettings
from tunesmith.statistics import Interval, bootstrap_mean, bootstrap_ratio

Cell = dict[str, Any]
BASE = "loan-desk"
TASKS = 20
WORDS = [
    "account", "balance", "bank", "bill", "branch", "card", "cash", "charge", "cheque", "claim", "cost", "credit",
    "customer", "debt", "deposit", "desk", "due", "early", "fee", "form", "help", "hour", "house", "income",
    "letter", "limit", "loan", "month", "note", "offer", "office", "open", "paid", "pay", "plan", "price", "rate",
    "refund", "rent", "repay", "rise", "score", "sign", "small", "start", "statement", "term", "total", "wait",
    "week", "work", "year"]
STAGES = ("mix", "cut", "draw", "train")
BATCH, STEPS = 16, 60


# --- scale ----------------------------------------------------------------------------


def synthesise(file: Path, rows: int) -> None:
    """Rows of tasks of very different sizes: what is asked, and an answer that follows from it."""
    rng = random.Random(rows)
    sizes = list(accumulate(1 / (i + 1) for i in range(TASKS)))
    with file.open("w", encoding="utf-8") as out:
        for _ in range(rows):
            task, words = rng.choices(range(TASKS), cum_weights=sizes)[0], rng.choices(WORDS, k=4)
            out.write(f'{{"task": "task{task}", "text": "{" ".join(words)}", "last": "{words[-1]}"}}\n')


RECIPE = """
tasks.all = {file = "rows.jsonl", by = "task", direct = [
  ["The last word of: {text}", "{last}"], ["{text}. The last word?", "{last}"], ["How does {text} end?", "{last}"]]}
"""


def stage_mix(root: Path) -> Cell:
    from tunesmith import mixing

    made = mixing.mix(shop(root), MixSettings(recipe=str(root / "mix.toml")))
    return {"rows": made.dataset.count, "bytes": sum(f.stat().st_size for f in made.dataset.path.iterdir())}


def stage_cut(root: Path) -> Cell:
    from tunesmith import mixing

    count = mixing.cut(shop(root), "mix", BASE)
    folder, = (root / "workspace" / "tokens").iterdir()
    return {"rows": count, "bytes": sum(f.stat().st_size for f in folder.iterdir()),
            "tokens": (folder / "tokens.bin").stat().st_size // 2}


def stage_draw(root: Path) -> Cell:
    """Batches at 2,000 steps in a row, then at steps far apart, and some of them again from a sampler of its own."""
    first = material(root)
    began = time.process_time()
    near = [first.take(step * BATCH, BATCH) for step in range(2000)]
    row = time.process_time()
    far = [first.take(step * BATCH, BATCH) for step in range(10**6, 10**9, 10**6)]
    apart = time.process_time()
    again = material(root)
    same = all(again.take(s * BATCH, BATCH) == near[s] for s in random.Random(0).sample(range(2000), 100))
    same = same and again.take(10**8 * BATCH, BATCH) == far[99]
    place = time.process_time()
    for block in range(20):
        first.sampler.at(np.arange(block * 100_000, (block + 1) * 100_000))
    return {"identical": same, "microseconds_in_a_row": 1e6 * (row - began) / len(near),
            "microseconds_far_apart": 1e6 * (apart - row) / len(far),
            "places_per_second": 2e6 / (time.process_time() - place),
            "first_batch": hashlib.sha256(repr(near[0]).encode()).hexdigest()[:16]}


def stage_train(root: Path) -> Cell:
    """`STEPS` steps of `sft`, and how much of their processor time the material took; from the second step on."""
    from tunesmith.train import material as materials
    from tunesmith.train import sft

    began: list[float] = []
    spent: list[float] = []
    take = materials.Mixed.take

    def timed(*arguments: Any) -> Any:
        began.append(time.process_time())
        found = take(*arguments)
        spent.append(time.process_time() - began[-1])
        return found

    materials.Mixed.take = timed  # type: ignore[method-assign]
    opened = shop(root)
    size = json.loads((root / "workspace/data/mix/mixture.json").read_text())["size"]
    settings = SftSettings(base=BASE, data="mix", name="m", batch=BATCH, epochs=STEPS * BATCH / size,
                           checkpoint_every=10_000)
    adapter = sft.train(opened.workspace, opened.base(BASE, settings), settings)
    steps = np.diff(began)
    return {"steps": len(spent), "loader_ms": 1e3 * float(np.mean(spent[1:-1])), "step_ms": 1e3 * float(np.mean(steps)),
            "loader_share": sum(spent[1:-1]) / float(steps[1:].sum()),
            "tokens_per_step": opened.workspace.run(adapter.lineage["run"]).summary["tokens"] / len(spent)}


def shop(root: Path) -> Any:
    from tunesmith.quickstart import builtin
    from tunesmith.shop import Shop
    from tunesmith.store.workspace import Workspace
    from tunesmith.terminal import Terminal

    return Shop(Workspace.open(root / "workspace"), Terminal(quiet=True).progress, builtin.BASES, builtin.JUDGES)


def material(root: Path) -> Any:
    """The mixture as training sees it."""
    from tunesmith.data.mixture import Mixture
    from tunesmith.train import material as materials

    opened = shop(root)
    data, base = opened.workspace.dataset("mix"), opened.base(BASE)
    found = Mixture.of(data)
    assert found
    return materials.Mixed(found, materials.cut(opened.workspace, base, data, found, base.context), 0)


def child(stage: str, root: Path) -> None:
    """One stage in this process: what it found, its seconds and its peak memory, as JSON."""
    from tunesmith.train import cost

    began, used = time.perf_counter(), time.process_time()
    found = {"stage_mix": stage_mix, "stage_cut": stage_cut, "stage_draw": stage_draw,
             "stage_train": stage_train}[f"stage_{stage}"](root)
    print(json.dumps({**found, "seconds": time.perf_counter() - began, "core_seconds": time.process_time() - used,
                      "peak_mb": cost.peak_mb()}))


def scale(rows: Sequence[int], stages: Sequence[str], folder: Path, done: list[Cell],
          limit: int = 30_000) -> Iterator[Cell]:
    """A cell for each stage of each number of rows that is not done; `limit` rows of a task are taken."""
    for count in rows:
        root = folder / str(count)
        for stage in stages:
            if any((c["rows_asked"], c["stage"]) == (count, stage) for c in done):
                continue
            if stage == "mix":
                root.mkdir(parents=True, exist_ok=True)
                (root / "mix.toml").write_text(f"rows = {limit}\n{RECIPE}")
                synthesise(root / "rows.jsonl", count)
            out = subprocess.run([sys.executable, "-m", "benchmarks.mixtures", "child", stage, "--folder", str(root)],
                                 check=True, stdout=subprocess.PIPE, text=True).stdout
            yield {"rows_asked": count, "stage": stage, "limit": limit, **json.loads(out.splitlines()[-1])}


# --- transfer -------------------------------------------------------------------------


CLUSTERS = {"inference": ("RTE", "CB", "MNLI"), "sentiment": ("SST-2",), "paraphrase": ("QQP",)}
"""What is left out, and the tasks with fixed choices that it is measured on."""
ITEMS, LONGEST, LEARN = 300, 200, 100
"""Questions per cluster, tokens of the longest conversation, steps of tuning."""
VIEWS = {"zero_shot": 6, "few_shot": 2, "thought": 1, "inverted": 1}
CHOICES = [["{input}\n\n{question}\n{choices}", "{label}"], ["{question} Choose:\n{choices}\n\n{input}", "{label}"],
           ["Text: {input}\nQuestion: {question}\nAnswers:\n{choices}\nAnswer:", "{label}"]]
TEMPLATE = Template.parse(*CHOICES[0])


def tasks(data: Path) -> dict[str, Cell]:
    """Everything that is learned from; the questions' wording in `CHOICES` and the rationales' is ours."""
    folder = (data / "demonstrations").resolve()
    glue = {"boolqa": ("BoolQA", "reading"), "copa": ("COPA", "reading"), "wic": ("WiC", "words"),
            **{name.lower(): (name, cluster) for cluster, names in CLUSTERS.items() for name in names}}
    return {
        "prompted": {"file": f"{folder}/prompted_tasks.jsonl.gz", "by": "dataset", "cluster": "{category}",
                     "where": {"split": "train"}, "direct": [["{prompt}", "{completion}"]]},
        **{name: {"file": f"{folder}/glue_superglue.jsonl.gz", "where": {"task": task}, "cluster": cluster,
                  "direct": CHOICES} for name, (task, cluster) in glue.items()},
        "reasons": {"file": f"{folder}/reasoning_rationales.jsonl.gz", "by": "dataset", "cluster": "reasoning",
                    "where": {"split": "train"}, "direct": [["{input}", "{target}"]],
                    "thought": [["{input}\nGive your reasons first.", "{rationale} So the answer is {target}."]],
                    "inverted": [["What is asked, if the answer is {target} because {rationale}", "{input}"]]},
        "dolly": {"file": f"{folder}/dolly_part.jsonl.gz", "cluster": "open questions", "where": {"split": "train"},
                  "direct": [["{instruction}", "{response}"]]}}


def single(data: Path) -> dict[str, dict[str, Cell]]:
    """One task each, of the largest of their kind, none in a cluster that is measured."""
    known = tasks(data)
    headlines = {**known["prompted"], "by": "", "where": {"split": "train", "dataset": "gigaword"}}
    reasons = {**known["reasons"], "by": "", "where": {"split": "train", "dataset": "ecqa"}}
    return {"boolqa": {"boolqa": known["boolqa"]}, "gigaword": {"gigaword": headlines}, "ecqa": {"ecqa": reasons}}


def transfer(data: Path, seeds: Sequence[int], done: list[Cell]) -> Iterator[Cell]:
    """Each model's figures on the clusters that it has not seen: base, a mixture per cluster, single tasks."""
    yes = {(c["model"], c["seed"]) for c in done}
    if ("base", 0) not in yes:
        yield {"model": "base", "seed": 0, "clusters": measure(data, None, list(CLUSTERS))}
    for seed in seeds:
        for cluster in CLUSTERS:
            if (f"mixture without {cluster}", seed) not in yes:
                yield tune(data, f"mixture without {cluster}", tasks(data), seed, [cluster], held_out=(cluster,))
        for name, one in single(data).items():
            if (name, seed) not in yes:
                yield tune(data, name, one, seed, list(CLUSTERS))


def tune(data: Path, model: str, chosen: dict[str, Cell], seed: int, clusters: Sequence[str],
         held_out: Sequence[str] = ()) -> Cell:
    """Mix, learn for `LEARN` steps, measure."""
    from tunesmith import mixing
    from tunesmith.train import sft

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "mix.toml").write_text("".join(f"{k} = {toml(v)}\n" for k, v in {
            "seed": seed, "cap": 400, "rows": 400, "shots": 2, "held_out": list(held_out), "views": VIEWS,
            **{f"tasks.{name}": task for name, task in chosen.items()}}.items()))
        opened = shop(root)
        made = mixing.mix(opened, MixSettings(recipe=str(root / "mix.toml")))
        settings = SftSettings(base=BASE, data="mix", name="m", batch=BATCH, max_tokens=LONGEST, seed=seed,
                               epochs=LEARN * BATCH / made.mixture.size, checkpoint_every=10_000)
        adapter = sft.train(opened.workspace, opened.base(BASE, settings), settings)
        run = opened.workspace.run(adapter.lineage["run"])
        drawn = run.summary["drawn"]
        return {"model": model, "seed": seed, "tasks": len({s.task for s in made.mixture.sources}),
                "sources": len(drawn), "rows": run.summary["rows"], "tokens": run.summary["tokens"],
                "core_seconds": run.summary["core_seconds"], "skipped": dict(run.summary["skipped"]),
                "loss": [run.metrics()[0]["loss"], run.metrics()[-1]["loss"]],
                "clusters": measure(data, adapter.path, clusters)}


def measure(data: Path, adapter: Path | None, clusters: Sequence[str]) -> dict[str, Cell]:
    """Of each question: log-likelihood lost on the right answer, its tokens, whether it was the likeliest choice."""
    import torch

    from tunesmith.model import adapters
    from tunesmith.model import base as bases
    from tunesmith.model.batch import Tree, build, split
    from tunesmith.model.scorer import token_logprobs
    from tunesmith.quickstart import builtin

    base = bases.load(builtin.BASES[BASE], BASE)
    if adapter:
        adapters.load(base, "m", adapter)
    found = {}
    for cluster in clusters:
        rows, trees = questions(data, cluster), []
        for row in rows:
            prompt, _ = TEMPLATE.fill(row)
            trees.append(Tree(tuple(base.chat.prompt((Message("user", prompt),))),
                              tuple(tuple(base.chat.answer(choice)) for choice in row["choices"])))
        sums: list[float] = []
        with torch.no_grad():
            for part in split(trees, 2048):
                batch = build([trees[i] for i in part])
                sums += batch.table(token_logprobs(base, "m" if adapter else "", batch)).sum(1).tolist()
        nats, right, tokens, at = [], [], [], 0
        for row, tree in zip(rows, trees):
            mine, at = sums[at:at + len(tree.answers)], at + len(tree.answers)
            label = row["choices"].index(row["label"])
            nats.append(round(-mine[label], 4))
            right.append(int(np.argmax(mine) == label))
            tokens.append(len(tree.answers[label]))
        found[cluster] = {"nats": nats, "tokens": tokens, "right": right,
                          "labels": [row["label"] for row in rows]}
    return found


def questions(data: Path, cluster: str) -> list[Cell]:
    """The same rows for every model, short enough for all."""
    with gzip.open(data / "demonstrations/glue_superglue.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    known = [r for r in rows if r["task"] in CLUSTERS[cluster] and len(r["input"]) < 500]
    return random.Random(0).sample(known, ITEMS)


def toml(value: Any) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def compared(cells: Sequence[Cell]) -> dict[str, Cell]:
    """By cluster: base, single tasks (mean of all), mixture; and the mixture against both, on the same questions.

    A question's figure is its mean over seeds (and over the single tasks); intervals are bootstraps over questions.
    """
    result: dict[str, Cell] = {}
    for cluster in CLUSTERS:
        groups: dict[str, list[Cell]] = {"base": [], "single task": [], "mixture": []}
        for cell in cells:
            if cluster in cell["clusters"]:
                kind = "mixture" if cell["model"].startswith("mixture") else (
                    "base" if cell["model"] == "base" else "single task")
                groups[kind].append(cell["clusters"][cluster])
        tokens = np.array(groups["base"][0]["tokens"], float)
        means = {kind: {key: np.mean([c[key] for c in of], 0) for key in ("nats", "right")}
                 for kind, of in groups.items()}
        labels = groups["base"][0]["labels"]
        result[cluster] = {
            "questions": len(tokens), "runs": {kind: len(of) for kind, of in groups.items()},
            "commonest_label": max(map(labels.count, set(labels))) / len(labels),
            "nats_per_token": {kind: bootstrap_ratio(m["nats"], tokens) for kind, m in means.items()},
            "right": {kind: bootstrap_mean(m["right"]) for kind, m in means.items()},
            "mixture_minus": {other: {
                "nats_per_token": bootstrap_ratio(means["mixture"]["nats"] - means[other]["nats"], tokens),
                "right": bootstrap_mean(means["mixture"]["right"] - means[other]["right"])}
                for other in ("base", "single task")}}
    return result


def each(cells: Sequence[Cell]) -> dict[str, dict[str, list[float]]]:
    """Nats per token of every model and seed by cluster: how far seeds differ."""
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        for cluster, c in cell["clusters"].items():
            name = "mixture" if cell["model"].startswith("mixture") else cell["model"]
            found.setdefault(cluster, {}).setdefault(name, []).append(round(sum(c["nats"]) / sum(c["tokens"]), 4))
    return found


# --- command --------------------------------------------------------------------------


def write(log: Path, out: Path) -> None:
    """mixtures.json: every cell of `scale`, and what `transfer` comes to."""
    from benchmarks.quickstart import machine

    found: Cell = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    for what in ("scale", "transfer"):
        file = log / f"mixtures-{what}.jsonl"
        cells = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        if what == "scale" or not cells:
            found[what] = cells
        else:
            found[what] = {"compared": compared(cells), "nats_per_token": each(cells), "runs": [
                {k: v for k, v in c.items() if k != "clusters"} for c in cells]}
    (out / "mixtures.json").write_text(json.dumps(found, indent=1, default=Interval.to_dict) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("scale", "transfer", "child"))
    parser.add_argument("stage", nargs="?", default="")
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 5_000_000])
    parser.add_argument("--limit", type=int, default=30_000, help="rows of a task that are taken at most")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tunesmith-mixtures")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--log", type=Path, default=Path("workspace"), help="folder of the logs")
    parser.add_argument("--out", type=Path, help="folder of mixtures.json")
    a = parser.parse_args()
    if a.what == "child":
        return child(a.stage, a.folder)
    log = a.log / f"mixtures-{a.what}.jsonl"
    for folder in (a.log, *([a.out] if a.out else [])):
        folder.mkdir(parents=True, exist_ok=True)
    done: list[Cell] = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    cells = scale(a.rows, a.stages, a.folder, done, a.limit) if a.what == "scale" else transfer(a.data, a.seeds, done)
    for cell in cells:
        with log.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        print(json.dumps({k: v for k, v in cell.items() if not isinstance(v, dict | list)}), flush=True)
    if a.out:
        write(a.log, a.out)


if __name__ == "__main__":
    main()
