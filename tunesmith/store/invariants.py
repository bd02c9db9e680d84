"""What must hold in a workspace at any moment, checked from the rows. For tests, and for doubts after a crash.

It reads everything into memory, and knows nothing of how the counters are kept (`places`): it counts again.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tunesmith.store import tables as db
from tunesmith.store.places import OVERLAP, set_seq

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

STATES = {"live", "done", "skipped", "expired", "released"}
PURPOSES = {"normal", "gold", "repeat", "review"}


def violations(workspace: Workspace, set_name: str = "", overlap_kept: bool = True) -> list[str]:
    """Every rule that is broken, in words; empty if all is well.

    Args:
        set_name: only this set.
        overlap_kept: False where somebody lowered a project's overlap after work had begun.
    """
    with workspace.database.read() as c:
        return violations_in(c, set_name, overlap_kept)


def violations_in(c: sa.Connection, set_name: str = "", overlap_kept: bool = True) -> list[str]:
    """The same inside a transaction."""
    wanted = [set_seq(c, set_name)] if set_name else list(c.scalars(sa.select(db.sets.c.seq)))
    members = c.execute(sa.select(db.members).where(db.members.c.set_seq.in_(wanted))).all()
    claims = c.execute(sa.select(db.claims)).all()
    settings = {row.set_seq: json.loads(row.settings) for row in c.execute(sa.select(db.projects))}
    people = set(c.scalars(sa.select(db.labelers.c.name).where(sa.not_(db.labelers.c.simulated))))
    quarantines = c.execute(sa.select(db.quarantines.c.labeler, db.quarantines.c.lifted_at)).all()
    verdicts = [(row, json.loads(row.body)) for row in c.execute(sa.select(db.rankings).order_by(db.rankings.c.seq))
                if row.labeler in people]
    inside = {row.group_id for row in members}
    claims = [claim for claim in claims if claim.group_id in inside]
    verdicts = [(row, body) for row, body in verdicts if row.group_id in inside]
    held = {row.labeler for row in quarantines if not row.lifted_at}
    counting = [(row, body) for row, body in verdicts if row.labeler not in held]
    freed = {row.labeler for row in quarantines}  # others got their places
    return [*_positions(members), *_counters(members, claims, counting, settings, freed, overlap_kept),
            *_claims(claims, verdicts), *_chains(claims, verdicts)]


def _positions(members: Sequence[Any]) -> Iterator[str]:
    """The groups of a set have the places 0, 1, ..., one each."""
    places: dict[int, list[int]] = defaultdict(list)
    for row in members:
        places[row.set_seq].append(row.position)
    for seq, found in places.items():
        if sorted(found) != list(range(len(found))):
            yield f"set {seq}: {len(found)} groups do not have the places 0 to {len(found) - 1}"


def _counters(members: Sequence[Any], claims: Sequence[Any], verdicts: Sequence[Any], settings: dict[int, Any],
              freed: set[str], overlap_kept: bool) -> Iterator[str]:
    """The counters equal the rows, and nobody beyond the overlap got a place, but for those `freed` by a quarantine."""
    newest = {(row.group_id, row.labeler): body for row, body in verdicts if not body.get("purpose")}
    judged: dict[str, set[str]] = defaultdict(set)
    holding: dict[tuple[int, str], set[str]] = defaultdict(set)
    through: dict[tuple[int, str], set[str]] = defaultdict(set)
    for (group, labeler), body in newest.items():
        if not body.get("skipped"):
            judged[group].add(labeler)
    for claim in claims:
        if claim.purpose == "normal":
            through[claim.set_seq, claim.group_id].add(claim.labeler)
            if claim.state == "live":
                holding[claim.set_seq, claim.group_id].add(claim.labeler)
    everywhere: dict[str, set[str]] = defaultdict(set)
    for (_, group), labelers in holding.items():
        everywhere[group] |= labelers
    for row in members:
        overlap = settings.get(row.set_seq, {}).get("overlap", OVERLAP)
        done, taken = len(judged[row.group_id]), len(judged[row.group_id] | everywhere[row.group_id])
        where = f"group {row.group_id} of set {row.set_seq}"
        if (row.done, row.taken) != (done, taken):
            yield f"{where}: counters say {row.done} done and {row.taken} taken, the rows say {done} and {taken}"
        if row.done > row.taken:
            yield f"{where}: {row.done} done of {row.taken} taken"
        if row.open != (not row.gold and taken < overlap):
            yield f"{where}: open is {row.open} with {taken} of {overlap} places taken"
        key = row.set_seq, row.group_id
        places = ((judged[row.group_id] & through[key]) | holding[key]) - freed
        if overlap_kept and len(places) > overlap:
            yield f"{where}: {sorted(places)} got places, there are {overlap}"


def _claims(claims: Sequence[Any], verdicts: Sequence[Any]) -> Iterator[str]:
    """States are legal, a labeler holds one claim in a set, and what is judged is judged."""
    given = {(row.group_id, row.labeler, body.get("purpose") or "normal") for row, body in verdicts}
    for (labeler, seq), count in Counter((k.labeler, k.set_seq) for k in claims if k.state == "live").items():
        if count > 1:
            yield f"{labeler} holds {count} claims in set {seq}"
    for claim in claims:
        key = claim.group_id, claim.labeler, claim.purpose
        if claim.state not in STATES or claim.purpose not in PURPOSES:
            yield f"claim {claim.token} is {claim.state} for {claim.purpose}"
        if claim.state in ("done", "skipped") and key not in given:
            yield f"claim {claim.token} is {claim.state} without a verdict"
        if claim.state == "live" and key in given:
            yield f"claim {claim.token} is live, but {claim.labeler} judged its group"


def _chains(claims: Sequence[Any], verdicts: Sequence[Any]) -> Iterator[str]:
    """One accepted verdict of a labeler on a group for each purpose; later ones revise the one before."""
    chains: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row, body in verdicts:
        chains[row.group_id, row.labeler, body.get("purpose") or "normal"].append(body)
    claimed = {(k.group_id, k.labeler, k.purpose) for k in claims}
    for key, chain in chains.items():
        if key in claimed and (extra := [body["id"] for body in chain[1:] if not body.get("revises")]):
            yield f"{key[1]} judged group {key[0]} again with {extra} without revising"
        for before, body in itertools.pairwise(chain):
            if body.get("revises") and body["revises"] != before["id"]:
                yield f"verdict {body['id']} revises {body['revises']}, which is not the one before it"
        if chain[0].get("revises"):
            yield f"verdict {chain[0]['id']} revises {chain[0]['revises']}, which is not there"
