"""Judgements as tables: Parquet with a dataset card, and CSV. One row per verdict, per unjudged group, or per row of a
dataset; `tunesmith import --as rankings` reads both again."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.records import Demonstration, Prompt, turns
from tunesmith.store.material import Material

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What makes a spreadsheet read a cell as a formula."""
SPLITS = ("train", "dev", "test")


def table(material: Material) -> list[dict[str, Any]]:
    """One row per verdict, per unjudged group, or per row of a dataset."""
    if material.rows:
        return [_plain_row(row) for row in material.rows]
    rows = []
    for group in material.groups:
        base = {"group": group.id, "split": _split(group.prompt.split), "domain": group.prompt.domain,
                "prompt": turns(group.prompt.messages), "answers": [a.text for a in group.answers],
                "models": [a.model for a in group.answers]}
        for r in material.rankings.get(group.id, []):
            rows.append({**base, "id": r.id, "revises": r.revises,
                         "ranking": [list(t) for t in r.tiers], "labeler": r.labeler, "shown": list(r.shown),
                         "all_bad": r.all_bad, "skipped": r.skipped, "ratings": list(r.ratings), "margin": r.margin,
                         "flags": json.dumps(dict(r.flags), sort_keys=True), "rationale": r.rationale,
                         "seconds": r.seconds, "purpose": r.purpose, "simulated": r.simulated,
                         "quarantined": r.labeler in material.quarantined, "labels": [], "pairs": [], "weight": 1.0})
        if group.id not in material.rankings:
            rows.append({**base, "id": "", "revises": "", "ranking": [list(t) for t in group.tiers],
                         "labeler": group.labeler, "shown": list(group.shown), "all_bad": False, "skipped": "",
                         "ratings": [], "margin": 0, "flags": "{}", "rationale": "", "seconds": 0.0, "purpose": "",
                         "simulated": False, "quarantined": False, "labels": list(group.labels),
                         "pairs": [[float(x) for x in (p.better, p.worse, p.p, p.weight)] for p in group.pairs],
                         "weight": float(group.weight)})
    return rows


def _plain_row(row: Demonstration | Prompt) -> dict[str, Any]:
    if isinstance(row, Demonstration):
        return {"messages": turns(row.messages), "source": row.source, "licence": row.licence, "review": row.review,
                "split": "train"}
    return {"prompt": turns(row.messages), "domain": row.domain, "split": _split(row.split),
            "facts_json": json.dumps(dict(row.facts), sort_keys=True)}


def write_csv(material: Material, out: Path) -> int:
    rows = table(material)
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


def write_parquet(material: Material, out: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = table(material)
    schema = _schema(pa, rows)
    (out / "data").mkdir(parents=True)
    counts: dict[str, int] = {}
    for split in sorted({row["split"] for row in rows}, key=lambda s: (SPLITS.index(s) if s in SPLITS else 9, s)):
        part = [row for row in rows if row["split"] == split]
        counts[split] = len(part)
        pq.write_table(pa.Table.from_pylist(part, schema), out / "data" / f"{split}-00000-of-00001.parquet")
    (out / "README.md").write_text(_card(material, rows, counts), encoding="utf-8")
    return len(rows)


def _schema(pa: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    turn = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    known = {"prompt": turn, "messages": turn, "answers": pa.list_(pa.string()), "models": pa.list_(pa.string()),
             "ranking": pa.list_(pa.list_(pa.int32())), "shown": pa.list_(pa.int32()),
             "ratings": pa.list_(pa.float64()), "margin": pa.int32(), "seconds": pa.float64(), "all_bad": pa.bool_(),
             "simulated": pa.bool_(), "quarantined": pa.bool_(), "labels": pa.list_(pa.float64()),
             "pairs": pa.list_(pa.list_(pa.float64())), "weight": pa.float64()}
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
    "facts_json": "what a programmatic judge needs", "id": "names the verdict",
    "revises": "the labeler's own verdict that this one replaces",
    "labels": "of a dataset: what was said of each answer, 0 bad to 1 good, or a rating",
    "pairs": "of a dataset: better, worse, probability that it is, weight", "weight": "how much it counts"}


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


def _split(name: str) -> str:
    """A split as part of a file's name; older workspaces may hold any text."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name) or "train"


def _one_line(text: str) -> str:
    return " ".join(text.split())
