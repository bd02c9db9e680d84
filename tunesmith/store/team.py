"""The team: accounts and roles, invitations, sessions, quarantine. Keys are in `keys`, the log in `audit`.

Everybody comes by invitation. What a role may do in the browser is decided in `service.access`; here it is only kept
who has which, that an admin always remains, and that every change is in the audit log.

A link's or a session's secret is returned once, to whoever asked for it; the database holds its SHA-256.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

import sqlalchemy as sa

from tunesmith.errors import NotFound, UserError, nearest
from tunesmith.store import tables as db
from tunesmith.store.audit import append, audit, entries, lock, verify_audit
from tunesmith.store.checks import valid_labeler
from tunesmith.store.database import insert_once
from tunesmith.store.passwords import check_password, digest, fits, hash_password, new_secret
from tunesmith.store.places import settle_all_of
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

__all__ = ["Account", "Invitation", "Quarantine", "Role", "accept", "account", "accounts", "admit", "audit",
           "end_session", "end_sessions", "enter", "entries", "from_now", "invitation", "invitations", "invite", "lift",
           "link", "link_for", "may_grant", "new_account", "owner", "quarantine", "quarantined", "quarantines",
           "reset_password", "session", "sessions", "set_active", "set_password", "set_role", "sign_in", "spelled",
           "start_session", "verify_audit", "withdraw"]

Role = Literal["admin", "manager", "reviewer", "labeler", "viewer", "api"]
ROLES: tuple[str, ...] = get_args(Role)
GRANTS = {"admin": ROLES, "manager": ("reviewer", "labeler", "viewer")}
"""Which roles somebody may give away, and whose holders they may change."""

SESSION_DAYS = 30
INVITATION_DAYS = 7
LINK_MINUTES = 10
SHELL = "command line"
"""The actor of what is done by who can read the workspace's files anyway."""


@dataclass(frozen=True, slots=True)
class Account:
    """A person who signs in (or, with the role "api", a program); the name is the labeler's name."""

    name: str
    role: str
    active: bool
    password: bool
    created: str


@dataclass(frozen=True, slots=True)
class Invitation:
    """A link that makes an account; `digest` names it without giving it away. `name` is "" if the person chooses."""

    digest: str
    role: str
    name: str
    by: str
    created: str
    expires: str


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A labeler whose judgements are left out, from `at` until `lifted_at` ("" while it lasts)."""

    labeler: str
    reason: str
    by: str
    at: str
    lifted_by: str
    lifted_at: str


# ---- accounts

def owner(workspace: Workspace, name: str) -> Account:
    """The account of who starts the studio at the command line, made as an admin if it is new.

    Raises:
        UserError: the name cannot be an account's, or the account was switched off.
    """
    found = _find(workspace, name) or new_account(workspace, name, "admin", SHELL)
    if not found.active:
        raise UserError(f'the account "{found.name}" is switched off; turn it on: '
                        f'tunesmith team activate "{found.name}"')
    return found


def new_account(workspace: Workspace, name: str, role: str, by: str, password: str = "") -> Account:
    """Make an account; without a password it can be entered by a link only.

    Raises:
        UserError: a bad or taken name, an unknown role, a weak password.
    """
    _known_role(role)
    name = _account_name(name)
    hashed = hash_password(check_password(password, name)) if password else ""

    def write(c: sa.Connection) -> None:
        _insert_account(c, name, role, hashed)
        append(c, by, "account", name, {"role": role})

    workspace.database.write(write)
    return account(workspace, name)


def account(workspace: Workspace, name: str) -> Account:
    """
    Raises:
        NotFound: naming the nearest.
    """
    if found := _find(workspace, name):
        return found
    raise NotFound(f'no account "{name}"{nearest(name, [a.name for a in accounts(workspace)])}')


def accounts(workspace: Workspace) -> list[Account]:
    """Everybody, by name; also those switched off."""
    with workspace.database.read() as c:
        return [_account(row) for row in c.execute(sa.select(db.accounts).order_by(db.accounts.c.name))]


def set_role(workspace: Workspace, name: str, role: str, by: str) -> None:
    """Change what somebody may do; it ends their sessions.

    Raises:
        NotFound: no such account.
        UserError: an unknown role, or the last admin.
    """
    _known_role(role)

    def write(c: sa.Connection) -> None:
        before = _one(c, name)
        if before.role == role:
            return
        _admin_remains(c, before)
        c.execute(sa.update(db.accounts).where(db.accounts.c.name == name).values(role=role))
        _end_sessions(c, name)
        append(c, by, "role", name, {"from": before.role, "to": role})

    workspace.database.write(write)


def set_active(workspace: Workspace, name: str, active: bool, by: str) -> None:
    """Switch an account off (its sessions end, its keys stop) or on again. Its judgements stay.

    Raises:
        NotFound: no such account.
        UserError: the last admin.
    """
    def write(c: sa.Connection) -> None:
        before = _one(c, name)
        if before.active == active:
            return
        if not active:
            _admin_remains(c, before)
            _end_sessions(c, name)
        c.execute(sa.update(db.accounts).where(db.accounts.c.name == name).values(active=active))
        append(c, by, "activate" if active else "deactivate", name)

    workspace.database.write(write)


def set_password(workspace: Workspace, name: str, password: str, by: str, keep: str = "") -> None:
    """Give an account another password; it ends the account's sessions but `keep`, a session's secret.

    Raises:
        NotFound: no such account.
        UserError: a weak password, or a program's account.
    """
    hashed = hash_password(check_password(password, name))

    def write(c: sa.Connection) -> None:
        if _one(c, name).role == "api":
            raise UserError(f'"{name}" is an account of programs: it has keys, no password')
        c.execute(sa.update(db.accounts).where(db.accounts.c.name == name).values(password=hashed))
        _end_sessions(c, name, keep)
        append(c, by, "password", name)

    workspace.database.write(write)


def reset_password(workspace: Workspace, name: str, by: str) -> str:
    """Take a forgotten password away and end the sessions; the secret of a link with which the person comes back.

    Raises:
        NotFound: no such account.
        UserError: it is switched off or a program's.
    """
    def write(c: sa.Connection) -> None:
        _may_enter(_one(c, name))
        c.execute(sa.update(db.accounts).where(db.accounts.c.name == name).values(password=""))
        _end_sessions(c, name)
        append(c, by, "reset", name)

    workspace.database.write(write)
    return link(workspace, name, by, minutes=INVITATION_DAYS * 24 * 60)


def sign_in(workspace: Workspace, name: str, password: str) -> Account | None:
    """The account if the password is its own. An unknown name takes as long as a wrong password."""
    name = spelled(name)
    with workspace.database.read() as c:
        row = c.execute(sa.select(db.accounts).where(db.accounts.c.name == name)).first()
    right = fits(password, row.password if row and row.active else "")
    return _account(row) if right and row else None


def spelled(name: str) -> str:
    """The name as it is stored, however somebody typed it."""
    return unicodedata.normalize("NFC", name).strip()


def may_grant(role: str, other: str) -> bool:
    """Whether somebody of `role` may give `other` away, or change an account that has it."""
    return other in GRANTS.get(role, ())


# ---- invitations and links

def invite(workspace: Workspace, role: str, by: str, name: str = "", days: float = INVITATION_DAYS) -> str:
    """The secret of a link that makes one account. Who is invited under a `name` takes over its judgements.

    Raises:
        UserError: an unknown role, a role of programs, or a name that has an account.
    """
    _known_role(role)
    if role == "api":
        raise UserError("a program needs a key, no invitation: tunesmith keys create")
    if name:
        name = _account_name(name)
        if _find(workspace, name):
            raise UserError(f'"{name}" has an account already; to let them in again use a reset link')
    secret = new_secret()
    row = {"digest": digest(secret), "role": role, "account": name, "by": by, "created": now(),
           "expires": from_now(days=days)}

    def write(c: sa.Connection) -> None:
        c.execute(sa.insert(db.invitations).values(**row))
        append(c, by, "invite", name, {"role": role, "invitation": row["digest"][:12]})

    workspace.database.write(write)
    return secret


def invitations(workspace: Workspace) -> list[Invitation]:
    """Those that still work, newest first."""
    query = sa.select(db.invitations).where(*_open(), db.invitations.c.role != "")
    with workspace.database.read() as c:
        return [_invitation(row) for row in c.execute(query.order_by(db.invitations.c.created.desc()))]


def invitation(workspace: Workspace, secret: str) -> Invitation | None:
    """The invitation of a link's secret, if it still works."""
    with workspace.database.read() as c:
        row = c.execute(sa.select(db.invitations).where(*_open(secret), db.invitations.c.role != "")).first()
    return _invitation(row) if row else None


def withdraw(workspace: Workspace, invitation: str, by: str) -> None:
    """Let an invitation, named by its digest, work no more.

    Raises:
        NotFound: it does not work any more, or never did.
    """
    def write(c: sa.Connection) -> None:
        done = c.execute(sa.update(db.invitations).where(*_open(), db.invitations.c.digest == invitation)
                         .values(withdrawn=True))
        if not done.rowcount:
            raise NotFound("this invitation was used, withdrawn or has expired already")
        append(c, by, "withdraw", invitation[:12])

    workspace.database.write(write)


def accept(workspace: Workspace, secret: str, name: str, password: str) -> Account:
    """Use an invitation up and make the account.

    Raises:
        NotFound: the invitation does not work any more.
        UserError: a bad or taken name, a weak password; the invitation can still be used.
    """
    asked = invitation(workspace, secret)
    if asked is None:
        raise _used_up()
    name = asked.name or _account_name(name)
    hashed = hash_password(check_password(password, name))

    def write(c: sa.Connection) -> None:
        _use(c, secret, name)
        if not asked.name:
            if "@" in name:  # whoever has that address could sign in to it by OpenID Connect
                raise UserError("choose a name without @, or ask for an invitation under your address")
            _not_anothers(c, name)
        _insert_account(c, name, asked.role, hashed)
        append(c, name, "join", name, {"role": asked.role, "by": asked.by, "invitation": asked.digest[:12]})

    workspace.database.write(write)
    return account(workspace, name)


def admit(workspace: Workspace, name: str, role: str = "") -> Account | None:
    """The account of somebody whom another place signed in under `name`: theirs, or a new one without a password if
    they were invited under this name or, with a `role`, in any case. None if they are strangers.

    Raises:
        UserError: the name cannot be an account's, or somebody else judged under it.
    """
    name = _account_name(name)

    def write(c: sa.Connection) -> str:
        lock(c)
        i = db.invitations.c
        if known := next((n for n in c.scalars(sa.select(db.accounts.c.name)) if _alike(n) == _alike(name)), ""):
            return known
        waiting = sa.select(db.invitations).where(*_open(), i.role != "", i.account != "").order_by(i.created.desc())
        asked = next((row for row in c.execute(waiting) if _alike(row.account) == _alike(name)), None)
        if asked is not None:
            c.execute(sa.update(db.invitations).where(i.digest == asked.digest).values(used_by=asked.account))
            _insert_account(c, asked.account, asked.role, "")
            append(c, asked.account, "join", asked.account, {"role": asked.role, "by": asked.by, "how": "oidc",
                                                             "invitation": asked.digest[:12]})
            return str(asked.account)
        if not role:
            return ""
        _not_anothers(c, name)
        _insert_account(c, name, role, "")
        append(c, name, "join", name, {"role": role, "how": "oidc"})
        return name

    found = workspace.database.write(write)
    return account(workspace, found) if found else None


def link(workspace: Workspace, name: str, by: str, minutes: float = LINK_MINUTES) -> str:
    """The secret of a link that signs `name` in, once.

    Raises:
        NotFound: no such account.
        UserError: it is switched off, or a program's.
    """
    secret = new_secret()

    def write(c: sa.Connection) -> None:
        _may_enter(_one(c, name))
        c.execute(sa.insert(db.invitations).values(digest=digest(secret), role="", account=name, by=by, created=now(),
                                                   expires=from_now(minutes=minutes)))
        append(c, by, "link", name)

    workspace.database.write(write)
    return secret


def link_for(workspace: Workspace, secret: str) -> Account | None:
    """Whom a sign-in link would let in, if it still works."""
    with workspace.database.read() as c:
        name = c.scalar(sa.select(db.invitations.c.account).where(*_open(secret), db.invitations.c.role == ""))
    return _find(workspace, name) if name else None


def enter(workspace: Workspace, secret: str) -> str:
    """Use a sign-in link up; the secret of a new session.

    Raises:
        NotFound: it was used, or has expired.
    """
    def write(c: sa.Connection) -> str:
        name = c.scalar(sa.select(db.invitations.c.account).where(*_open(secret), db.invitations.c.role == ""))
        if name is None:
            raise _used_up()
        _use(c, secret, name)
        _may_enter(_one(c, name))
        return _insert_session(c, name, "link")

    return workspace.database.write(write)


# ---- sessions

def start_session(workspace: Workspace, name: str, how: str = "password") -> str:
    """Sign somebody in for `SESSION_DAYS`; the secret that the browser keeps.

    Raises:
        NotFound: no such account.
        UserError: it is switched off, or a program's.
    """
    def write(c: sa.Connection) -> str:
        _may_enter(_one(c, name))
        return _insert_session(c, name, how)

    return workspace.database.write(write)


def session(workspace: Workspace, secret: str) -> Account | None:
    """Whose session this is, if it has not ended."""
    query = (sa.select(db.accounts).join(db.sessions, db.sessions.c.account == db.accounts.c.name)
             .where(db.sessions.c.digest == digest(secret), db.sessions.c.expires > now(), db.accounts.c.active))
    with workspace.database.read() as c:
        row = c.execute(query).first()
    return _account(row) if row else None


def sessions(workspace: Workspace, name: str) -> int:
    """In how many browsers somebody is signed in."""
    with workspace.database.read() as c:
        return c.scalar(sa.select(sa.func.count()).select_from(db.sessions).where(
            db.sessions.c.account == name, db.sessions.c.expires > now())) or 0


def end_session(workspace: Workspace, secret: str) -> None:
    """Sign out here."""
    workspace.database.write(lambda c: c.execute(sa.delete(db.sessions).where(db.sessions.c.digest == digest(secret))))


def end_sessions(workspace: Workspace, name: str, by: str) -> None:
    """Sign out everywhere."""
    def write(c: sa.Connection) -> None:
        _end_sessions(c, name)
        append(c, by, "sign-out", name, {"where": "everywhere"})

    workspace.database.write(write)


# ---- quarantine

def quarantine(workspace: Workspace, labeler: str, reason: str, by: str) -> None:
    """Leave a labeler's judgements out until it is lifted. They stay stored, and the person may go on; the places that
    they held are free, so that others judge those groups too.

    Raises:
        NotFound: nobody of that name has judged or has an account.
        UserError: no reason, or in quarantine already.
    """
    reason = reason.strip()
    if not reason or len(reason) > 2000:
        raise UserError("a quarantine needs a reason of 1 to 2000 characters: the person may ask for it")

    def write(c: sa.Connection) -> None:
        lock(c)
        _known_labeler(c, labeler)
        if c.scalar(_quarantined(labeler)):
            raise UserError(f'"{labeler}" is in quarantine already')
        c.execute(sa.insert(db.quarantines).values(labeler=labeler, reason=reason, by=by, at=now()))
        settle_all_of(c, labeler)
        append(c, by, "quarantine", labeler, {"reason": reason})

    workspace.database.write(write)


def lift(workspace: Workspace, labeler: str, reason: str, by: str) -> None:
    """End a quarantine; the judgements count again.

    Raises:
        NotFound: the labeler is not in quarantine.
    """
    def write(c: sa.Connection) -> None:
        seq = c.scalar(_quarantined(labeler))
        if seq is None:
            raise NotFound(f'"{labeler}" is not in quarantine')
        c.execute(sa.update(db.quarantines).where(db.quarantines.c.seq == seq).values(lifted_by=by, lifted_at=now()))
        settle_all_of(c, labeler)
        append(c, by, "lift", labeler, {"reason": reason.strip()[:2000]})

    workspace.database.write(write)


def quarantined(workspace: Workspace) -> frozenset[str]:
    """The labelers whose judgements are left out now."""
    with workspace.database.read() as c:
        return frozenset(c.scalars(sa.select(db.quarantines.c.labeler).where(db.quarantines.c.lifted_at == "")))


def quarantines(workspace: Workspace, labeler: str = "") -> list[Quarantine]:
    """All quarantines, also lifted ones, newest first; of one labeler if named."""
    q = db.quarantines.c
    query = sa.select(q.labeler, q.reason, q.by, q.at, q.lifted_by, q.lifted_at).order_by(q.seq.desc())
    with workspace.database.read() as c:
        return [Quarantine(*row) for row in c.execute(query.where(q.labeler == labeler) if labeler else query)]


# ---- inside a transaction

def _insert_account(c: sa.Connection, name: str, role: str, hashed: str) -> None:
    lock(c)  # two people may choose names that only look different
    taken = {_alike(n) for n in c.scalars(sa.select(db.accounts.c.name))}
    simulated = c.scalar(sa.select(db.labelers.c.simulated).where(db.labelers.c.name == name))
    if _alike(name) in taken or simulated:
        raise UserError(f'the name "{name}" is taken; choose another')
    c.execute(sa.insert(db.accounts).values(name=name, role=role, password=hashed, active=True, created=now()))


def _insert_session(c: sa.Connection, name: str, how: str) -> str:
    secret = new_secret()
    c.execute(sa.delete(db.sessions).where(db.sessions.c.expires <= now()))
    c.execute(sa.insert(db.sessions).values(digest=digest(secret), account=name, created=now(),
                                            expires=from_now(days=SESSION_DAYS)))
    append(c, name, "sign-in", name, {"how": how})
    return secret


def _end_sessions(c: sa.Connection, name: str, keep: str = "") -> None:
    c.execute(sa.delete(db.sessions).where(db.sessions.c.account == name, db.sessions.c.digest != digest(keep)))
    c.execute(sa.update(db.invitations).where(*_open(), db.invitations.c.role == "", db.invitations.c.account == name)
              .values(withdrawn=True))  # a link on its way would be a session too


def _not_anothers(c: sa.Connection, name: str) -> None:
    if c.scalar(sa.select(db.rankings.c.seq).where(db.rankings.c.labeler == name).limit(1)):
        raise UserError(f'somebody already judged as "{name}"; choose another name, '
                        "or ask for an invitation under this name if that was you")


def _use(c: sa.Connection, secret: str, name: str) -> None:
    if not c.execute(sa.update(db.invitations).where(*_open(secret)).values(used_by=name)).rowcount:
        raise _used_up()


def _admin_remains(c: sa.Connection, leaving: Account) -> None:
    lock(c)  # two admins may leave at once
    others = sa.select(sa.func.count()).select_from(db.accounts).where(
        db.accounts.c.role == "admin", db.accounts.c.active, db.accounts.c.name != leaving.name)
    if leaving.role == "admin" and leaving.active and not c.scalar(others):
        raise UserError(f'"{leaving.name}" is the last admin; make somebody else an admin first')


def _one(c: sa.Connection, name: str) -> Account:
    row = c.execute(sa.select(db.accounts).where(db.accounts.c.name == name)).first()
    if row is None:
        raise NotFound(f'no account "{name}"{nearest(name, c.scalars(sa.select(db.accounts.c.name)).all())}')
    return _account(row)


def _known_labeler(c: sa.Connection, name: str) -> None:
    if c.scalar(sa.select(db.labelers.c.name).where(db.labelers.c.name == name)):
        return
    if not c.scalar(sa.select(db.accounts.c.name).where(db.accounts.c.name == name)):
        known: Sequence[str] = c.scalars(sa.select(db.labelers.c.name)).all()
        raise NotFound(f'no labeler "{name}"{nearest(name, known)}')
    insert_once(c, db.labelers, {"name": name}, {"simulated": False, "role": "labeler", "created": now()})


def _quarantined(labeler: str) -> sa.Select[Any]:
    return sa.select(db.quarantines.c.seq).where(db.quarantines.c.labeler == labeler, db.quarantines.c.lifted_at == "")


def _open(secret: str | None = None) -> list[Any]:
    """Of an invitation or link that still works."""
    i = db.invitations.c
    return [i.used_by == "", ~i.withdrawn, i.expires > now(), *([] if secret is None else [i.digest == digest(secret)])]


# ---- small things

def _find(workspace: Workspace, name: str) -> Account | None:
    with workspace.database.read() as c:
        row = c.execute(sa.select(db.accounts).where(db.accounts.c.name == name)).first()
    return _account(row) if row else None


def _account(row: Any) -> Account:
    return Account(row.name, row.role, bool(row.active), bool(row.password), row.created)


def _invitation(row: Any) -> Invitation:
    return Invitation(row.digest, row.role, row.account, row.by, row.created, row.expires)


def _account_name(name: str) -> str:
    name = spelled(name)
    if name.casefold() == SHELL:
        raise UserError(f'the name "{name}" is taken; choose another')
    return valid_labeler(name)


def _alike(name: str) -> str:
    """Equal for names that people could take for one another."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _known_role(role: str) -> None:
    if role not in ROLES:
        raise UserError(f'unknown role "{role}"{nearest(role, ROLES)}')


def _may_enter(found: Account) -> None:
    if found.role == "api":
        raise UserError(f'"{found.name}" is an account of programs: it has keys and does not sign in')
    if not found.active:
        raise UserError(f'the account "{found.name}" is switched off')


def _used_up() -> NotFound:
    return NotFound("this link does not work any more: it was used, withdrawn or has expired; ask for a new one")


def from_now(**time: float) -> str:
    """A moment that much later, as the store writes it."""
    moment = datetime.strptime(now(), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC) + timedelta(**time)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
