"""The interaction log: what users of served models said, were answered, and did next.

`add` keeps exchanges and `react` what users did, late or twice; `interactions` reads both again, a page at a time.
Nothing passes `add` or `react` as it came: texts are scrubbed (`privacy`), users and conversations become pseudonyms,
tokens (which spell the text) are dropped. Two links are found here, so that clients need not say them: an exchange
that goes on behind an answer is its `follow_up`, a second answer to the same question of the same user within
`AGAIN` is its `regenerate`. Both rest on keyed digests of what was said; no text is kept for them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, get_args

import sqlalchemy as sa

from tunesmith.errors import DataError, NotFound, nearest
from tunesmith.records import Conversation, Interaction, Message, Reaction
from tunesmith.store import tables as db
from tunesmith.store.database import pack
from tunesmith.store.fields import short
from tunesmith.store.privacy import Detector, digest, pseudonym, scrub, secret_of
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

AGAIN = timedelta(hours=1)
MOST_EVENTS = 100
"""Of one interaction; whoever sends more is not describing what a person did."""
LONGEST_ID = 128
LONGEST_TEXT = 100_000
CHUNK = 200
PAGE = 1000
Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Policy:
    """How the log keeps what it is given: for how many days (0: until somebody purges it), which share of the users
    stays out of training, and what finds personal data beside the rules."""

    days: float = 0
    holdout: float = 0.0
    more: tuple[Detector, ...] = ()


# ---- in

def add(workspace: Workspace, interactions: Iterable[Interaction], policy: Policy | None = None) -> int:
    """Keep exchanges, and the events that they carry; how many exchanges were new. An id that is there stays as it is,
    only events that it lacks are added.

    Links are found among what is in the log already: give the exchanges in the order in which they happened.

    Raises:
        DataError: an exchange or an event that cannot be what it says, naming its id.
        StorageError: not stored.
    """
    policy, secret, rest, new = policy or Policy(), secret_of(workspace.root), iter(interactions), 0
    while chunk := [*islice(rest, CHUNK)]:
        entries = [_entry(secret, policy, interaction) for interaction in chunk]
        new += workspace.database.write(partial(_insert, entries=entries))
    return new


def react(workspace: Workspace, reactions: Sequence[tuple[str, Event]], more: Sequence[Detector] = (),
          source: str = "") -> Counter[str]:
    """Append what users did: (interaction's id, event) each. How many were `stored`, `known` already, of an `unknown`
    interaction (or of another `source`, if one is named), or beyond what one interaction may have (`too_many`).

    Raises:
        DataError: an event that cannot be what it says; nothing is stored.
        StorageError: not stored.
    """
    checked = [(of, check_event(event, of)) for of, event in reactions]
    secret, ids = secret_of(workspace.root), {of for of, _ in checked}
    with workspace.database.read() as c:
        i = db.interactions.c
        wanted = sa.select(i.id, i.body).where(i.id.in_(ids))
        rows = c.execute(wanted.where(i.source == source) if source else wanted).all()
    scopes = {row.id: json.loads(row.body)["scope"] for row in rows}
    clean = [(of, _scrubbed(event, secret, scopes[of], more)) for of, event in checked if of in scopes]

    def write(c: sa.Connection) -> Counter[str]:
        seqs = _seqs(c, ids)
        return _insert_events(c, [(seqs[of], event) for of, event in clean if of in seqs])

    done = workspace.database.write(write)
    return done + Counter(unknown=len(checked) - done.total())


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row to insert, its events, and the digest of what was said up to the answer that it goes on behind."""

    values: Mapping[str, Any]
    events: tuple[Event, ...]
    behind: str

    @property
    def first(self) -> bool:
        """The first of several answers to one request, whose ids end in .1, .2, ..."""
        _, dot, number = self.values["id"].rpartition(".")
        return not (dot and number.isdecimal())


def _entry(secret: bytes, policy: Policy, it: Interaction) -> _Entry:
    _check(it)
    opening = _until(it.messages, "user") or it.messages
    scope = digest(secret, "scope", it.user, *_flat(opening))[:16]
    clean = partial(scrub, secret=secret, scope=scope, more=policy.more)
    whole = (*it.messages, Message("assistant", it.answer.text))
    user = pseudonym(secret, "user", it.user)
    # without a name of its own, a conversation is known by how it began
    talk = pseudonym(secret, "talk", it.user, it.conversation or " ".join(_flat(_until(whole, "assistant"))))
    mark = partial(digest, secret, "said", it.user, it.conversation)
    created = moment(it.created, "created") if it.created else now()
    kept = replace(
        it, messages=tuple(replace(m, content=clean(m.content)) for m in it.messages), events=(), user=user,
        answer=replace(it.answer, text=clean(it.answer.text), tokens=(), sampling=_numbers(it.answer.sampling)),
        conversation=talk, turn=it.turn or sum(m.role == "assistant" for m in it.messages), created=created,
        holdout=it.holdout or _chosen(secret, user or talk, policy.holdout))
    values = {name: getattr(kept, name) for name in ("id", "conversation", "turn", "user", "source", "holdout")}
    values |= {"model": kept.answer.model, "body": _packed({**kept.to_dict(), "scope": scope}, it), "created": created,
               "asked": mark(*_flat(it.messages))[:16] if it.user or it.conversation else "",
               "said": mark(*_flat(whole))[:16], "expires": later(created, days=policy.days) if policy.days else ""}
    behind = _until(it.messages, "assistant", last=True)
    events = tuple(_scrubbed(check_event(e, it.id), secret, scope, policy.more) for e in it.events)
    return _Entry(values, events, mark(*_flat(behind))[:16] if behind else "")


def _insert(c: sa.Connection, entries: Sequence[_Entry]) -> int:
    by_id = {e.values["id"]: e for e in entries}
    there = _seqs(c, by_id)
    fresh = [e for id, e in by_id.items() if id not in there]
    if fresh:
        c.execute(sa.insert(db.interactions), [dict(e.values) for e in fresh])
    seqs = _seqs(c, by_id)
    events = [(seqs[e.values["id"]], event) for e in entries for event in e.events]
    _insert_events(c, [*events, *_links(c, [e for e in fresh if e.first])])
    return len(fresh)


def _links(c: sa.Connection, entries: Sequence[_Entry]) -> Iterator[tuple[int, Event]]:
    """(seq of an earlier exchange, event that says how a new one follows it)."""
    i = db.interactions.c
    said, asked = {e.behind for e in entries} - {""}, {e.values["asked"] for e in entries} - {""}
    rows = c.execute(sa.select(i.seq, i.id, i.said, i.asked, i.created)
                     .where(i.said.in_(said) | i.asked.in_(asked)).order_by(i.created, i.seq)).all()
    for e in entries:
        id, created = e.values["id"], e.values["created"]
        before = [row for row in rows if row.created <= created and row.id != id
                  and not row.id.startswith(f"{id}.")]
        since = later(created, seconds=-AGAIN.total_seconds())
        for type, earlier in (("follow_up", [row for row in before if e.behind and row.said == e.behind]),
                              ("regenerate", [row for row in before if e.values["asked"] and row.created >= since
                                              and row.asked == e.values["asked"] and row.created < created])):
            newest = earlier[-1].created if earlier else ""  # answers shown together have one time
            yield from ((row.seq, {"type": type, "value": id, "at": created, "id": f"{type}:{id}"[:LONGEST_ID]})
                        for row in earlier if row.created == newest)


def _insert_events(c: sa.Connection, events: Sequence[tuple[int, Event]]) -> Counter[str]:
    e = db.interaction_events.c
    there = set(c.execute(sa.select(e.interaction_seq, e.id).where(e.interaction_seq.in_({seq for seq, _ in events}))
                          ).tuples()) if events else set()
    counts, done, rows = Counter(seq for seq, _ in there), Counter[str](), []
    for seq, event in events:
        outcome = ("known" if (seq, event["id"]) in there else "too_many" if counts[seq] >= MOST_EVENTS else "stored")
        done[outcome] += 1
        if outcome == "stored":
            there.add((seq, event["id"]))
            counts[seq] += 1
            rows.append({"interaction_seq": seq, "id": event["id"], "type": event["type"], "created": now(),
                         "body": pack({"value": event["value"], "at": event["at"]})})
    if rows:
        c.execute(sa.insert(db.interaction_events), rows)
    return done


def _seqs(c: sa.Connection, ids: Iterable[str]) -> dict[str, int]:
    rows = c.execute(sa.select(db.interactions.c.id, db.interactions.c.seq).where(db.interactions.c.id.in_(list(ids))))
    return {row.id: row.seq for row in rows}


# ---- checks

def check_event(event: Event, of: str) -> Event:
    """`{"type", "value", "at", "id"}` with every field there and in its usual form: `at` is now if unsaid.

    Raises:
        DataError: naming the field and the interaction.
    """
    where = f"event of {short(of)}"
    type, id = event.get("type"), event.get("id")
    if not isinstance(type, str) or type not in _VALUES:
        raise DataError(f'{where}: unknown "type" {short(type)}{nearest(str(type), get_args(Reaction))}')
    _check_id(id, f'{where}: "id"')
    wanted, read = _VALUES[type]
    try:
        value = read(event.get("value", ""))
    except (ValueError, TypeError) as e:
        raise DataError(f'{where}: the "value" of a {type} is {wanted}, got {short(event.get("value"))}') from e
    if type == "select_variant" and of not in value:
        raise DataError(f"{where}: it was chosen, so it must be among the shown")
    if type in ("regenerate", "follow_up"):  # whoever says it, it is one event
        id = f"{type}:{value}"[:LONGEST_ID]
    return {"type": type, "value": value, "at": moment(event["at"], "at") if event.get("at") else now(), "id": id}


def moment(value: Any, name: str) -> str:
    """A time as the store writes it, from ISO 8601 (UTC where no zone is said) or seconds since 1970.

    Raises:
        DataError: neither of them, or a year in which nobody logged anything, such as 0001, some tools' "unknown".
    """
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            time = datetime.fromtimestamp(value, UTC)
        else:
            time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, OSError) as e:
        raise DataError(f'"{name}" must be a time such as 2026-11-21T07:42:13Z, got {short(value)}') from e
    if not 1970 <= time.year < 2100:
        raise DataError(f'"{name}" must be a time from 1970 to 2099, got {short(value)}')
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def later(time: str, **by: float) -> str:
    """A stored time, moved."""
    moved = datetime.strptime(time, "%Y-%m-%dT%H:%M:%S.%fZ") + timedelta(**by)
    return f"{moved.isoformat(timespec='microseconds')}Z"  # strftime does not pad years before 1000


def _check(it: Interaction) -> None:
    _check_id(it.id, "the interaction's id")
    if not it.messages or it.messages[-1].role not in ("user", "tool"):
        raise DataError(f"interaction {it.id}: its messages must end with what the answer replies to")
    for name, longest in (("user", 10_000), ("conversation", 10_000), ("source", 64), ("consent", 64), ("arm", 64)):
        if len(getattr(it, name)) > longest:
            raise DataError(f'interaction {it.id}: "{name}" has more than {longest} characters')
    if not 0 < it.propensity <= 1:
        raise DataError(f'interaction {it.id}: "propensity" is a probability above 0, got {it.propensity}')


def _check_id(id: Any, what: str) -> None:
    try:
        _id(id)
    except ValueError as e:
        raise DataError(f"{what} must be 1 to {LONGEST_ID} printable characters, got {short(id)}") from e


def _id(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_ID or not value.isprintable():
        raise ValueError
    return value


def _within(low: float, high: float, value: Any) -> float:
    if isinstance(value, str) or not low <= (number := float(value)) <= high:
        raise ValueError
    return int(number) if number.is_integer() else number


def _yes(value: Any) -> int:
    if value not in (0, 1):
        raise ValueError
    return int(value)


def _text(value: Any, least: int = 0) -> str:
    if not isinstance(value, str) or not least <= len(value) <= LONGEST_TEXT:
        raise ValueError
    return value


def _shown(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not 2 <= len(set(value)) == len(value) <= 16:
        raise ValueError
    return [_id(one) for one in value]


_VALUES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "thumb": ("1 (up) or 0 (down)", _yes),
    "rating": ("a number from 0 (worst) to 1 (best)", partial(_within, 0, 1)),
    "copy": ("the share that was copied, above 0 up to 1", partial(_within, 1e-9, 1)),
    "regenerate": ("the id of the new answer's interaction", _id),
    "edit": ("the text as the user changed it", partial(_text, least=1)),
    "select_variant": ("the ids of 2 to 16 interactions as they were shown", _shown),
    "follow_up": ("the id of the interaction that goes on", _id),
    "abandon": ('a text, perhaps ""', _text), "complaint": ('a text, perhaps ""', _text),
    "report": ('a text, perhaps ""', _text),
    "dwell_ms": ("a number of milliseconds", partial(_within, 0, 1e9)),
    "code_run_ok": ("1 or 0", _yes), "ticket_resolved": ("1 or 0", _yes)}


# ---- out

def interactions(workspace: Workspace, *, since: str = "", source: str = "", user: str = "",
                 holdout: bool | None = False) -> Iterator[Interaction]:
    """The log in the order in which it was written, a page in memory at a time.

    Args:
        since: only exchanges from this time on (ISO 8601).
        source: only of this origin, such as "serve".
        user: only of this user: an id as the application knows it, or a pseudonym.
        holdout: False leaves out the users whose traffic never feeds training, True gives only these, None all.
    """
    i = db.interactions.c
    query = sa.select(i.seq, i.body).order_by(i.seq).limit(PAGE)
    for column, wanted in ((i.source, source), (i.user, user and pseudonym(secret_of(workspace.root), "user", user)),
                           (i.holdout, holdout)):
        if wanted not in ("", None):
            query = query.where(column == wanted)
    if since:
        query = query.where(i.created >= moment(since, "since"))
    last = -1
    while True:
        with workspace.database.read() as c:
            rows = c.execute(query.where(i.seq > last)).all()
            events = _events(c, [row.seq for row in rows])
        if not rows:
            return
        for row in rows:
            yield _interaction(row, events.get(row.seq, ()))
        last = rows[-1].seq


def interaction(workspace: Workspace, id: str) -> Interaction:
    """One exchange with its events.

    Raises:
        NotFound: nobody stored it, or it is gone.
    """
    i = db.interactions.c
    with workspace.database.read() as c:
        row = c.execute(sa.select(i.seq, i.body).where(i.id == id)).first()
        if row is None:
            raise NotFound(f'no interaction "{id}" in the log; it was not logged, or its time was over')
        return _interaction(row, _events(c, [row.seq]).get(row.seq, ()))


def summary(workspace: Workspace) -> list[dict[str, Any]]:
    """What the log holds, by source and model: exchanges, users, events, of which time, how many held out."""
    i, e = db.interactions.c, db.interaction_events.c
    count = sa.func.count
    per = sa.select(i.source, i.model, count().label("interactions"), count(i.user.distinct()).label("users"),
                    sa.func.min(i.created).label("first"), sa.func.max(i.created).label("last"),
                    sa.func.sum(sa.cast(i.holdout, sa.Integer)).label("held out")).group_by(i.source, i.model)
    events = sa.select(i.source, i.model, count().label("events")).join_from(
        db.interaction_events, db.interactions, i.seq == e.interaction_seq).group_by(i.source, i.model)
    with workspace.database.read() as c:
        done = {(row.source, row.model): row.events for row in c.execute(events)}
        rows = c.execute(per.order_by(i.source, i.model)).mappings().all()
    return [{**row, "events": done.get((row["source"], row["model"]), 0)} for row in rows]


def _events(c: sa.Connection, seqs: Sequence[int]) -> dict[int, list[Event]]:
    e, found = db.interaction_events.c, dict[int, list[Event]]()
    if seqs:
        for row in c.execute(sa.select(db.interaction_events).where(e.interaction_seq.in_(seqs)).order_by(e.seq)):
            found.setdefault(row.interaction_seq, []).append({"type": row.type, **json.loads(row.body), "id": row.id})
    return found


def _interaction(row: Any, events: Iterable[Event]) -> Interaction:
    return Interaction.from_dict({**json.loads(row.body), "events": events})


# ---- small helpers

def _packed(body: Mapping[str, Any], it: Interaction) -> str:
    try:
        return pack(body)
    except (ValueError, TypeError) as e:
        raise DataError(f"interaction {it.id} cannot be stored: {e}") from e


def _scrubbed(event: Event, secret: bytes, scope: str, more: Sequence[Detector]) -> Event:
    if event["type"] in ("edit", "abandon", "complaint", "report"):
        return {**event, "value": scrub(event["value"], secret, scope, more)}
    return event


def _numbers(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Stop texts and token ids may spell what somebody said; temperatures and the like cannot."""
    return {k: v for k, v in sampling.items() if isinstance(v, int | float) and math.isfinite(v)}


def _chosen(secret: bytes, who: str, share: float) -> bool:
    return int(digest(secret, "holdout", who)[:8], 16) < share * 2**32


def _flat(messages: Conversation) -> list[str]:
    return [text for m in messages for text in (m.role, m.content)]


def _until(messages: Conversation, role: str, last: bool = False) -> Conversation:
    """The messages up to the first (or last) one of a role; none if nobody has it."""
    at = [n for n, m in enumerate(messages) if m.role == role]
    return messages[:at[-1 if last else 0] + 1] if at else ()
