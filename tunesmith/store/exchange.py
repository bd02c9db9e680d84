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
test questions, second looks, skips and quarantined labelers, what is left unranked losing to the rest. What a format
cannot hold is counted by reason. Left out:
streaming (a set is in memory once), times of verdicts, and taking names out of free texts.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DataError, SettingsError, UserError, nearest
from tunesmith.records import AnswerGroup, Conversation, Ranking, fingerprint, turns
from tunesmith.store import foreign, sheets
from tunesmith.store.faults import storing
from tunesmith.store.material import Material, pseudonymous, standing, trained
from tunesmith.store.material import material as find
from tunesmith.store.sets import differing
from tunesmith.store.team import SHELL, quarantine, quarantined
from tunesmith.store.verdicts import first_refused, newest_verdicts

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

@dataclass
class Exported:
    """Where it went, how many rows, and what was left out, by reason."""

    path: Path
    rows: int
    skipped: Counter[str]


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
    material = find(workspace, name)
    material.licence = material.licence or licence
    if not names and format != "tunesmith":
        material = pseudonymous(material)
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
        DataError: a bad row, with file and line; a verdict's id or labeler that is taken by another. Nothing is stored.
        UserError: a bad name.
    """
    found = foreign.read(path, source)
    if found.format != "tunesmith":
        found = _as_changes(workspace, found)
    with workspace.database.read() as c:
        if bad := first_refused(c, found.rankings):
            raise DataError(bad[1], Path(path), found.lines[bad[0]])
    if others := differing(workspace, found.groups.values()):
        found.skipped["a group that is here already with other details (it stays as it is)"] += others
    groups = workspace.add_groups(name, list(found.groups.values()))
    verdicts = sum(workspace.add_rankings(found.rankings[n:n + 1000]) for n in range(0, len(found.rankings), 1000))
    held = found.quarantined & {r.labeler for r in found.rankings}
    for labeler in sorted(held - quarantined(workspace)):
        quarantine(workspace, labeler, "in quarantine where the data comes from", SHELL)
    return groups, verdicts, found.skipped


def _as_changes(workspace: Workspace, found: foreign.Judged) -> foreign.Judged:
    """A tool's newest verdict of each labeler on each group, as a change of the one that is stored, if they differ.

    Such verdicts are named by what they say, so one that goes from A to B and back to A needs a name of its own.
    """
    last = {(r.group, r.labeler): n for n, r in enumerate(found.rankings)}
    if earlier := len(found.rankings) - len(last):
        found.skipped["an earlier verdict of the same labeler"] += earlier
    rankings, lines = [], []
    with workspace.database.read() as c:
        stored = newest_verdicts(c, last)
    for (group, labeler), n in last.items():
        ranking, old = found.rankings[n], stored.get((group, labeler))
        if old and replace(ranking, id=old.id, revises=old.revises) == old:
            continue
        if old:
            ranking = replace(ranking, id=f"{found.format}-{fingerprint([ranking.id, old.id])}", revises=old.id)
        rankings.append(ranking)
        lines.append(found.lines[n])
    return replace(found, rankings=rankings, lines=lines)


# ---- pairs

def _pairs(material: Material) -> Iterator[tuple[AnswerGroup, str, str, str]]:
    """(group, labeler, better text, worse text) of every two answers in different tiers."""
    for group, labeler, tiers in trained(material):
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
    return _lines(out, (_with_verdicts(material, group) for group in material.groups))


def _with_verdicts(material: Material, group: AnswerGroup) -> dict[str, Any]:
    """Verdicts of people in quarantine go too, and say so: where they are imported they stay in quarantine."""
    given = material.rankings.get(group.id, [])
    held = sorted({r.labeler for r in given} & material.quarantined)
    row = {"group": group.to_dict(), "rankings": [r.to_dict() for r in given]}
    return {**row, "quarantined": held} if held else row


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
    """A response needs the id of a user: one made from the labeler's name. Ties have no place in these records, and
    ratings beside a ranking that was left out would be read as one, so they stay away too."""
    _only_groups(material, "argilla")
    chats = any(len(g.prompt.messages) > 1 for g in material.groups)
    records = []
    for group in material.groups:
        responses: dict[str, list[dict[str, Any]]] = {}
        for labeler, ranking in standing(material, group):
            user = str(uuid.uuid5(uuid.NAMESPACE_OID, f"tunesmith:{labeler}"))
            if ranking.skipped:
                material.skipped["a skipped group"] += 1
                continue
            if not ranking.tiers or len(ranking.tiers) == len(group.answers):
                order = [f"response-{tier[0] + 1}" for tier in ranking.tiers]
                if order:
                    responses.setdefault("ranking", []).append({"value": order, "user_id": user})
                _lost(material, ranking, "Argilla", but="ratings" if _whole(ranking.ratings) else "")
                for n, rating in enumerate(ranking.ratings if _whole(ranking.ratings) else ()):
                    responses.setdefault(f"rating-{n + 1}", []).append({"value": int(rating), "user_id": user})
            else:
                material.skipped["a verdict with ties or a partial one, for which Argilla's records have no place"] += 1
        prompt = turns(group.prompt.messages) if chats else group.prompt.messages[0].content
        fields: dict[str, Any] = {"prompt": prompt}
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
        for labeler, ranking in standing(material, group):
            tied = any(len(tier) > 1 for tier in ranking.tiers)
            ids = [[str(i) for i in tier] for tier in ranking.tiers]
            ranker = {str(n): tier for n, tier in enumerate(ids, 1)} if tied else {"rank": [i for i, in ids]}
            result = [{"id": f"{group.id[:8]}{len(annotations)}", "from_name": "rank", "to_name": "items",
                       "type": "ranker", "value": {"ranker": ranker}}] if ids else []
            _lost(material, ranking, "Label Studio")
            annotations.append({"result": result, "was_cancelled": bool(ranking.skipped), "ground_truth": False,
                                "lead_time": ranking.seconds,
                                "completed_by": people.setdefault(labeler, len(people) + 1)})
        items = [{"id": str(n), "title": f"Answer {n + 1}", "body": a.text} for n, a in enumerate(group.answers)]
        tasks.append({"id": number, "data": {"prompt": _one_text(group.prompt.messages), "items": items,
                                             "messages": turns(group.prompt.messages)}, "annotations": annotations})
    return _array(out, tasks)


def _whole(ratings: Sequence[float]) -> bool:
    """Stars come in whole numbers; a rating that is none would be another one if it was cut."""
    return all(float(r).is_integer() for r in ratings)


def _lost(material: Material, ranking: Ranking, tool: str, but: str = "") -> None:
    """Count what a verdict says that the tool's format has no place for."""
    for name in ("ratings", "all_bad", "flags", "rationale", "margin"):
        if name != but and getattr(ranking, name):
            material.skipped[f'"{name}" of a verdict, for which {tool} has no place'] += 1


# ---- small things

def _assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _one_text(messages: Conversation) -> str:
    """A prompt as one text, for tools that know no turns."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{m.role}: {m.content}" for m in messages)


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
    "parquet": sheets.write_parquet, "csv": sheets.write_csv}
