"""Keys of programs: `sk-` and 256 random bits, shown once; the database holds their SHA-256."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tunesmith.errors import NotFound, UserError, nearest
from tunesmith.store import tables as db
from tunesmith.store import team
from tunesmith.store.audit import append
from tunesmith.store.database import pack
from tunesmith.store.passwords import digest, new_secret
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

SCOPES: dict[str, str] = {
    "rank": "judge answers, review demonstrations",
    "read": "read figures, runs, models",
    "data": "bring data in and take it out",
    "manage": "change projects, the queue, the team",
    "chat": "talk to the models under /v1",
    "files": "send, read and delete files under /v1",
    "fine_tuning": "start and steer fine-tuning jobs under /v1, delete the models they made",
}
ALLOWED: dict[str, tuple[str, ...]] = {
    "admin": tuple(SCOPES), "manager": tuple(SCOPES), "api": tuple(SCOPES),
    "reviewer": ("rank", "read"), "labeler": ("rank",), "viewer": ("read",),
}
"""The scopes that the keys of a role may have. A key that had more before its account lost a role has them no more."""


MOST_DAYS = 36525


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `hint` is what may be shown of it; `expires` and `revoked` are times, "" for never."""

    id: str
    account: str
    name: str
    hint: str
    scopes: tuple[str, ...]
    created: str
    expires: str
    revoked: str

    @property
    def works(self) -> bool:
        """Neither revoked nor expired."""
        return not self.revoked and not (self.expires and self.expires <= now())


def create_key(workspace: Workspace, account: str, name: str, scopes: Sequence[str], by: str,
               days: float = 0) -> tuple[Key, str]:
    """A new key of an account and its secret; `days` 0 never expires, no more than `MOST_DAYS`.

    Raises:
        NotFound: no such account.
        UserError: no or unknown scopes, one that the account's role does not allow, a bad name.
    """
    name = name.strip()
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise UserError("a key needs a name of 1 to 64 printable characters: say what will use it")
    if unknown := [s for s in scopes if s not in SCOPES]:
        raise UserError(f'unknown scope "{unknown[0]}"{nearest(unknown[0], SCOPES)}')
    if not scopes:
        raise UserError(f"a key needs at least one scope: {', '.join(SCOPES)}")
    role = team.account(workspace, account).role
    if above := [s for s in scopes if s not in ALLOWED[role]]:
        raise UserError(f'"{account}" is {role}; its keys cannot have the scope "{above[0]}"')
    if not 0 <= days <= MOST_DAYS:
        raise UserError(f"a key lasts up to {MOST_DAYS} days (100 years), or for ever with 0, not {days:g} days")
    secret = f"sk-{new_secret()}"
    key = Key(secrets.token_hex(8), account, name, f"sk-...{secret[-4:]}", tuple(s for s in SCOPES if s in scopes),
              now(), team.from_now(days=days) if days > 0 else "", "")

    def write(c: sa.Connection) -> None:
        c.execute(sa.insert(db.api_keys).values(
            id=key.id, digest=digest(secret), hint=key.hint, account=account, name=name, scopes=pack(key.scopes),
            created=key.created, expires=key.expires))
        append(c, by, "key", key.id, {"account": account, "name": name, "scopes": list(key.scopes)})

    workspace.database.write(write)
    return key, secret


def keys(workspace: Workspace, account: str = "") -> list[Key]:
    """All keys, also revoked ones, newest first; of one account if named."""
    query = sa.select(db.api_keys).order_by(db.api_keys.c.created.desc())
    with workspace.database.read() as c:
        return [_key(row) for row in c.execute(query.filter_by(account=account) if account else query)]


def revoke_key(workspace: Workspace, id: str, by: str, account: str = "") -> None:
    """End a key at once; only one of `account` if that is named.

    Raises:
        NotFound: no such key, or it was revoked before.
    """
    where = [db.api_keys.c.id == id, db.api_keys.c.revoked == "", *([db.api_keys.c.account == account] * bool(account))]

    def write(c: sa.Connection) -> None:
        if not c.execute(sa.update(db.api_keys).where(*where).values(revoked=now())).rowcount:
            raise NotFound(f'no key "{id}" that works')
        append(c, by, "revoke", id)

    workspace.database.write(write)


def revoke_keys(workspace: Workspace, account: str, by: str) -> int:
    """End all keys of an account at once; how many worked."""
    def write(c: sa.Connection) -> int:
        k = db.api_keys.c
        ids = c.scalars(sa.select(k.id).where(k.account == account, k.revoked == "")).all()
        c.execute(sa.update(db.api_keys).where(k.id.in_(ids)).values(revoked=now()))
        for id in ids:
            append(c, by, "revoke", id)
        return len(ids)

    return workspace.database.write(write)


def key(workspace: Workspace, secret: str) -> tuple[team.Account, Key] | None:
    """The account and the key of a secret, if both work; the key with the scopes that the account still allows."""
    wanted = digest(secret)
    with workspace.database.read() as c:
        row = c.execute(sa.select(db.api_keys).where(db.api_keys.c.digest == wanted)).first()
        who = row and c.execute(sa.select(db.accounts).where(db.accounts.c.name == row.account)).first()
    if not row or not who or not hmac.compare_digest(row.digest, wanted) or not who.active:
        return None
    found = _key(row)
    found = replace(found, scopes=tuple(s for s in found.scopes if s in ALLOWED[who.role]))
    return (team.Account(who.name, who.role, True, bool(who.password), who.created), found) if found.works else None


def any_key(workspace: Workspace) -> bool:
    """Whether a key was ever made; revoking the last one must not open what keys closed."""
    with workspace.database.read() as c:
        return c.scalar(sa.select(db.api_keys.c.id).limit(1)) is not None


def _key(row: sa.Row[tuple[object, ...]]) -> Key:
    return Key(row.id, row.account, row.name, row.hint, tuple(json.loads(row.scopes)), row.created, row.expires,
               row.revoked)
