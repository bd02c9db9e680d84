"""Data out of the workspace, in formats that others read.

    tunesmith    JSONL, a group and every verdict on it with all fields; imported again it is the same
    trl          JSONL of preference pairs for TRL and datasets: prompt, chosen, rejected as messages
    openai       JSONL of preference pairs as OpenAI's fine-tuning takes them
    argilla      JSON of records for Argilla's `Dataset.records.from_json`
    labelstudio  JSON of tasks with annotations for Label Studio's import (Ranker)
    parquet      a folder that `datasets.load_dataset` and the Hub read: Parquet per split, README.md with the card
    csv          one row per verdict, for a spreadsheet; a cell never starts a formula

A set of answer groups goes with its verdicts; a dataset as it is. Names of labelers become labeler-1, labeler-2, ...
except in "tunesmith", or where they are asked for. Pairs hold what training sees: each labeler's last verdict, without
test questions, second looks, skips and quarantined labelers. What a format cannot hold is counted by reason. Left out:
streaming (a set is in memory once), times of verdicts, and taking names out of free texts.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import NotFound, SettingsError, UserError, nearest
from tunesmith.records import AnswerGroup, Conversation, Demonstration, Prompt, Ranking, Tiers, turns
from tunesmith.store import foreign
from tunesmith.store.faults import storing
from tunesmith.store.team import quarantined

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

UNTRAINED = ("gold", "repeat")
"""Purposes of verdicts that never train."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What makes a spreadsheet read a cell as a formula."""


@dataclass
class Exported:
    """Where it went, how many rows, and what was left out, by reason."""

    path: Path
    rows: int
    skipped: Counter[str]


@dataclass
class Material:
    """What is exported: groups with verdicts, or the rows of a dataset."""

    name: str
    licence: str = ""
    source: str = ""
    groups: Sequence[AnswerGroup] = ()
    rankings: Mapping[str, list[Ranking]] = field(default_factory=dict)
    rows: Sequence[Any] = ()
    quarantined: frozenset[str] = frozenset()
    skipped: Counter[str] = field(default_factory=Counter)


def export(workspace: Workspace, name: str, format: str, out: str | Path, *, names: bool = False,
           licence: str = "") -> Exported:
    """Write a set or a dataset to a new file or folder.

    Args:
        names: keep the labelers' names.
        licence: for the card, where the data's own is not known.

    Raises:
        NotFound: neither a set nor a dataset has this name.
        UserError: an unknown format, one that cannot hold this data, nothing to write, or `out` exists.
        StorageError: not written; nothing is left behind.
    """
    if format not in FORMATS:
        raise SettingsError(f'unknown format "{format}"{nearest(format, FORMATS)}')
    out = Path(out).expanduser().absolute()
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    material = _material(workspace, name)
    material.licence = material.licence or licence
    if not names and format != "tunesmith":
        material = _pseudonymous(material)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with storing(out.parent):
            rows = FORMATS[format](material, part)
            if not rows:
                left = ", ".join(f"{n} x {why}" for why, n in material.skipped.items())
                raise UserError(f"{name} has nothing to write as {format}" + (f" ({left})" if left else ""))
            os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
    return Exported(out, rows, +material.skipped)


def load(workspace: Workspace, path: str | Path, name: str, source: str = "") -> tuple[int, int, Counter[str]]:
    """Put a foreign export into a set: (new groups, new verdicts, what was left out).

    Raises:
        DataError: a bad row, with file and line; a verdict's id or labeler that is taken by another.
        UserError: a bad name.
    """
    found = foreign.read(path, source)
    groups = workspace.add_groups(name, list(found.groups.values()))
    verdicts = sum(workspace.add_rankings(found.rankings[n:n + 1000]) for n in range(0, len(found.rankings), 1000))
    return groups, verdicts, found.skipped


# ---- what there is

def _material(workspace: Workspace, name: str) -> Material:
    sets = {s["name"] for s in workspace.group_sets()}
    if name in sets:
        verdicts: dict[str, list[Ranking]] = {}
        for ranking in workspace.rankings(name):
            verdicts.setdefault(ranking.group, []).append(ranking)
        return Material(name, groups=workspace.groups(name), rankings=verdicts,
                        quarantined=frozenset(quarantined(workspace)))
    datasets = {d.name: d for d in workspace.datasets()}
    if name not in datasets:
        raise NotFound(f'no set and no dataset "{name}"{nearest(name, {*sets, *datasets})}')
    found = datasets[name]
    rows = list(found.rows())
    groups = rows if found.kind in ("comparisons", "rankings") else ()
    return Material(name, found.licence, found.source, groups, {}, () if groups else rows)


def _pseudonymous(material: Material) -> Material:
    """Names of people and of simulated labelers become numbers, in the order in which they came."""
    numbers: dict[str, str] = {}

    def hide(name: str) -> str:
        return numbers.setdefault(name, f"labeler-{len(numbers) + 1}") if name else ""

    verdicts = {id: [replace(r, labeler=hide(r.labeler)) for r in given] for id, given in material.rankings.items()}
    groups = [replace(g, labeler=hide(g.labeler)) if g.labeler else g for g in material.groups]
    hidden = frozenset(numbers[name] for name in material.quarantined if name in numbers)
    return replace(material, groups=groups, rankings=verdicts, quarantined=hidden)


def _trained(material: Material) -> Iterator[tuple[AnswerGroup, str, Tiers]]:
    """(group, labeler, tiers) of every verdict that training sees."""
    for group in material.groups:
        if group.id not in material.rankings:
            if group.tiers:
                yield group, group.labeler, group.tiers
            else:
                material.skipped["a group without a verdict"] += 1
        last: dict[str, Ranking] = {}
        for ranking in material.rankings.get(group.id, []):
            if ranking.purpose in UNTRAINED:
                material.skipped["a verdict on a test question or a second look"] += 1
            elif ranking.labeler in material.quarantined:
                material.skipped["a verdict of a quarantined labeler"] += 1
            else:
                material.skipped["a verdict that was revised"] += ranking.labeler in last
                last[ranking.labeler] = ranking
        for labeler, ranking in last.items():
            if ranking.tiers:
                yield group, labeler, ranking.tiers
            else:
                material.skipped["a skipped group" if ranking.skipped else "a verdict without an order"] += 1


def _pairs(material: Material) -> Iterator[tuple[AnswerGroup, str, str, str]]:
    """(group, labeler, better text, worse text) of every two answers in different tiers."""
    for group, labeler, tiers in _trained(material):
        found = [(b, w) for n, tier in enumerate(tiers) for b in tier for below in tiers[n + 1:] for w in below]
        if not found:
            material.skipped["a verdict where all answers are tied"] += 1
        for better, worse in found:
            yield group, labeler, group.answers[better].text, group.answers[worse].text


def _only_groups(material: Material, format: str) -> None:
    if material.rows:
        raise UserError(f'{material.name} holds no comparisons, which "{format}" is for; use parquet, tunesmith or csv')


# ---- files of one row per line, or of one array

def _tunesmith(material: Material, out: Path) -> int:
    if material.rows:
        return _lines(out, (row.to_dict() for row in material.rows))
    if not material.rankings and any(g.tiers or g.pairs or g.labels for g in material.groups):
        return _lines(out, (group.to_dict() for group in material.groups))  # a dataset: its own rows
    return _lines(out, ({"group": g.to_dict(), "rankings": [r.to_dict() for r in material.rankings.get(g.id, [])]}
                        for g in material.groups))


def _trl(material: Material, out: Path) -> int:
    _only_groups(material, "trl")
    return _lines(out, ({"prompt": turns(g.prompt.messages), "chosen": _assistant(better),
                         "rejected": _assistant(worse), **({"labeler": labeler} if labeler else {})}
                        for g, labeler, better, worse in _pairs(material)))


def _openai(material: Material, out: Path) -> int:
    _only_groups(material, "openai")
    return _lines(out, ({"input": {"messages": turns(g.prompt.messages), "tools": [], "parallel_tool_calls": True},
                         "preferred_output": _assistant(better), "non_preferred_output": _assistant(worse)}
                        for g, _, better, worse in _pairs(material)))


def _argilla(material: Material, out: Path) -> int:
    """A response needs the id of a user: one made from the labeler's name. Ties have no place in these records."""
    _only_groups(material, "argilla")
    records = []
    for group in material.groups:
        responses: dict[str, list[dict[str, Any]]] = {}
        for labeler, ranking in _standing(material, group):
            user = str(uuid.uuid5(uuid.NAMESPACE_OID, f"tunesmith:{labeler}"))
            if ranking.tiers and len(ranking.tiers) == len(group.answers):
                order = [f"response-{tier[0] + 1}" for tier in ranking.tiers]
                responses.setdefault("ranking", []).append({"value": order, "user_id": user})
            elif ranking.tiers:
                material.skipped["a verdict with ties or a partial one, for which Argilla's records have no place"] += 1
            for n, rating in enumerate(ranking.ratings):
                responses.setdefault(f"rating-{n + 1}", []).append({"value": int(rating), "user_id": user})
            if ranking.skipped:
                material.skipped["a skipped group"] += 1
        fields: dict[str, Any] = {"prompt": _one_text(group.prompt.messages)}
        fields.update({f"response-{n + 1}": a.text for n, a in enumerate(group.answers)})
        records.append({"id": group.id, "fields": fields, "metadata": {"split": group.prompt.split},
                        "suggestions": {}, "responses": responses, "vectors": {}})
    return _array(out, records)


def _labelstudio(material: Material, out: Path) -> int:
    """Ties become buckets named by their place."""
    _only_groups(material, "labelstudio")
    people: dict[str, int] = {}
    tasks = []
    for number, group in enumerate(material.groups, 1):
        annotations: list[dict[str, Any]] = []
        for labeler, ranking in _standing(material, group):
            tied = any(len(tier) > 1 for tier in ranking.tiers)
            ids = [[str(i) for i in tier] for tier in ranking.tiers]
            ranker = {str(n): tier for n, tier in enumerate(ids, 1)} if tied else {"rank": [i for i, in ids]}
            result = [{"id": f"{group.id[:8]}{len(annotations)}", "from_name": "rank", "to_name": "items",
                       "type": "ranker", "value": {"ranker": ranker}}] if ids else []
            annotations.append({"result": result, "was_cancelled": bool(ranking.skipped), "ground_truth": False,
                                "lead_time": ranking.seconds,
                                "completed_by": people.setdefault(labeler, len(people) + 1)})
        items = [{"id": str(n), "title": f"Answer {n + 1}", "body": a.text} for n, a in enumerate(group.answers)]
        tasks.append({"id": number, "data": {"prompt": _one_text(group.prompt.messages), "items": items,
                                             "messages": turns(group.prompt.messages)}, "annotations": annotations})
    return _array(out, tasks)


def _standing(material: Material, group: AnswerGroup) -> Iterable[tuple[str, Ranking]]:
    """Each labeler's last verdict on a group; a dataset's own order as one."""
    given = material.rankings.get(group.id, [])
    if not given and group.tiers:
        given = [Ranking("", group.id, group.labeler or "unknown", group.tiers)]
    found: dict[str, Ranking] = {}
    for ranking in given:
        if ranking.purpose in UNTRAINED or ranking.labeler in material.quarantined:
            material.skipped["a verdict that training does not see"] += 1
        else:
            found[ranking.labeler] = ranking
    return found.items()


# ---- tables

def _table(material: Material) -> list[dict[str, Any]]:
    """One row per verdict, per unjudged group, or per row of a dataset."""
    if material.rows:
        return [_plain_row(row) for row in material.rows]
    rows = []
    for group in material.groups:
        base = {"group": group.id, "split": group.prompt.split, "domain": group.prompt.domain,
                "prompt": turns(group.prompt.messages), "answers": [a.text for a in group.answers],
                "models": [a.model for a in group.answers]}
        for r in material.rankings.get(group.id, []):
            rows.append({**base, "ranking": [list(t) for t in r.tiers], "labeler": r.labeler, "shown": list(r.shown),
                         "all_bad": r.all_bad, "skipped": r.skipped, "ratings": list(r.ratings), "margin": r.margin,
                         "flags": json.dumps(dict(r.flags), sort_keys=True), "rationale": r.rationale,
                         "seconds": r.seconds, "purpose": r.purpose, "simulated": r.simulated,
                         "quarantined": r.labeler in material.quarantined})
        if group.id not in material.rankings:
            rows.append({**base, "ranking": [list(t) for t in group.tiers], "labeler": group.labeler,
                         "shown": list(group.shown), "all_bad": False, "skipped": "", "ratings": [], "margin": 0,
                         "flags": "{}", "rationale": "", "seconds": 0.0, "purpose": "", "simulated": False,
                         "quarantined": False})
    return rows


def _plain_row(row: Demonstration | Prompt) -> dict[str, Any]:
    if isinstance(row, Demonstration):
        return {"messages": turns(row.messages), "source": row.source, "licence": row.licence, "review": row.review,
                "split": "train"}
    return {"prompt": turns(row.messages), "domain": row.domain, "split": row.split,
            "facts_json": json.dumps(dict(row.facts), sort_keys=True)}


def _csv(material: Material, out: Path) -> int:
    rows = _table(material)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(rows[0] if rows else [])
    writer.writerows([safe_cell(value) for value in row.values()] for row in rows)
    out.write_text(text.getvalue(), encoding="utf-8", newline="")
    return len(rows)


def safe_cell(value: Any) -> str:
    """A value as the text of a cell. What a spreadsheet would compute gets an apostrophe in front."""
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    text = str(value).replace("\0", "\ufffd")
    return f"'{text}" if isinstance(value, str) and text.lstrip(" ").startswith(FORMULA) else text


def _parquet(material: Material, out: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = _table(material)
    schema = _schema(pa, rows)
    (out / "data").mkdir(parents=True)
    counts: dict[str, int] = {}
    for split in ("train", "dev", "test"):
        part = [row for row in rows if row["split"] == split]
        if part:
            counts[split] = len(part)
            pq.write_table(pa.Table.from_pylist(part, schema), out / "data" / f"{split}-00000-of-00001.parquet")
    (out / "README.md").write_text(_card(material, rows, counts), encoding="utf-8")
    return len(rows)


def _schema(pa: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    turn = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    known = {"prompt": turn, "messages": turn, "answers": pa.list_(pa.string()), "models": pa.list_(pa.string()),
             "ranking": pa.list_(pa.list_(pa.int32())), "shown": pa.list_(pa.int32()),
             "ratings": pa.list_(pa.float64()), "margin": pa.int32(), "seconds": pa.float64(), "all_bad": pa.bool_(),
             "simulated": pa.bool_(), "quarantined": pa.bool_()}
    return pa.schema([(key, known.get(key, pa.string())) for key in (rows[0] if rows else {})])


COLUMNS = {
    "group": "names the prompt with its answers", "split": "train, dev or test", "domain": "what the prompt is about",
    "prompt": "the conversation that waits for an answer", "messages": "the whole conversation",
    "answers": "what was judged", "models": "which model wrote each answer, empty if unknown",
    "ranking": "tiers of answers, best first, by their index from 0; answers in one tier are tied",
    "labeler": "who judged", "shown": "the order on the page", "all_bad": "even the best is not acceptable",
    "skipped": "why it was not judged", "ratings": "1 to 7 for each answer", "flags": "what is wrong, by answer (JSON)",
    "margin": "how clearly the best wins, 1 to 4; 0 unsaid", "rationale": "why, in the labeler's words",
    "seconds": "active time", "purpose": "gold: a test question, repeat: a second look, review: of a contested one",
    "simulated": "a program, not a person", "quarantined": "left out of training", "source": "where it comes from",
    "licence": "under which terms", "review": "accepted by a reviewer",
    "facts_json": "what a programmatic judge needs"}


def _card(material: Material, rows: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> str:
    """The dataset card: the Hub's front matter, then what a reader needs."""
    labelers = {row["labeler"] for row in rows if row.get("labeler")}
    files = "".join(f"\n  - split: {split}\n    path: {json.dumps(f'data/{split}-*')}" for split in counts)
    front = (f"---\nlicense: {json.dumps(material.licence or 'other', ensure_ascii=False)}\n"
             f"pretty_name: {json.dumps(material.name)}\ntags:\n- human-feedback\n- tunesmith\nconfigs:\n"
             f"- config_name: default\n  data_files:{files}\n---\n")
    simulated = len({row["labeler"] for row in rows if row.get("simulated")})
    who = ""
    if labelers:
        people = f"{len(labelers)} labeler{'' if len(labelers) == 1 else 's'}"
        who = (f"\n{people} judged{f', {simulated} simulated' if simulated else ''}. {_share(rows)} Free texts "
               "(`rationale`, `skipped`) are as they were written.\n")
    columns = "".join(f"| `{key}` | {COLUMNS[key]} |\n" for key in (rows[0] if rows else {}))
    table = "".join(f"| {split} | {n} |\n" for split, n in counts.items())
    return (f"{front}\n# {material.name}\n\nLicence: {_one_line(material.licence) or 'not stated'}. "
            f"Source: {_one_line(material.source) or 'not stated'}.\n{who}\n| split | rows |\n|---|---:|\n{table}\n"
            f"| column | meaning |\n|---|---|\n{columns}\nWritten by Tunesmith.\n")


def _share(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(row["labeler"] for row in rows if row["labeler"])
    _, most = counts.most_common(1)[0]
    return f"The one with the most verdicts gave {most} of {counts.total()}."


# ---- small things

def _assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _one_text(messages: Conversation) -> str:
    """A prompt as one text, for tools that know no turns."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{m.role}: {m.content}" for m in messages)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _lines(out: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    with open(out, "w", encoding="utf-8", newline="\n") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def _array(out: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    out.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return len(rows)


FORMATS: dict[str, Callable[[Material, Path], int]] = {
    "tunesmith": _tunesmith, "trl": _trl, "openai": _openai, "argilla": _argilla, "labelstudio": _labelstudio,
    "parquet": _parquet, "csv": _csv}
