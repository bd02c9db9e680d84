"""Servers that may write answers besides the workspace's own models: name, address, model, and where the key is.

A key itself is never stored: `key_variable` names the environment variable of the server's process that holds it.
It must end in _API_KEY, so that nobody can have any other secret of the environment sent to a server of their choice.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tunesmith.errors import NotFound, UserError, nearest
from tunesmith.store import tables as db
from tunesmith.store.audit import append
from tunesmith.store.checks import valid_name
from tunesmith.store.database import insert_once
from tunesmith.store.runs import now

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

LONGEST_MODEL = 200


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server and one of its models."""

    name: str
    url: str
    model: str
    key_variable: str = ""
    by: str = ""
    created: str = ""


def check_endpoint(endpoint: Endpoint) -> Endpoint:
    """
    Raises:
        UserError: a bad name, model or variable. Whether the address may be asked is `service.outbound`'s business.
    """
    valid_name(endpoint.name, "name of an endpoint")
    if not endpoint.model.strip() or len(endpoint.model) > LONGEST_MODEL or not endpoint.model.isprintable():
        raise UserError(f"which model? its name has 1 to {LONGEST_MODEL} printable characters")
    if endpoint.key_variable and not re.fullmatch(r"[A-Z][A-Z0-9_]{0,55}_API_KEY", endpoint.key_variable):
        raise UserError(f'"{endpoint.key_variable[:64]}" cannot hold a key: name an environment variable that ends in '
                        "_API_KEY, such as OPENAI_API_KEY")
    return endpoint


def key_of(endpoint: Endpoint) -> str:
    """The key from the environment, "" if the endpoint needs none.

    Raises:
        UserError: the variable is not set.
    """
    if not endpoint.key_variable:
        return ""
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(f"the environment variable {endpoint.key_variable} holds no key; set it where Tunesmith is "
                        "started")
    return key


def add_endpoint(workspace: Workspace, endpoint: Endpoint, by: str) -> Endpoint:
    """Remember a server.

    Raises:
        UserError: see `check_endpoint`; or the name is taken.
    """
    check_endpoint(endpoint)
    about = {"url": endpoint.url, "model": endpoint.model, "key_variable": endpoint.key_variable}

    def write(c: sa.Connection) -> None:
        if not insert_once(c, db.endpoints, {"name": endpoint.name}, {**about, "by": by, "created": now()}):
            raise UserError(f'there is an endpoint "{endpoint.name}" already; remove it first or choose another name')
        append(c, by, "endpoint.add", endpoint.name, about)

    workspace.database.write(write)
    return find_endpoint(workspace, endpoint.name)


def remove_endpoint(workspace: Workspace, name: str, by: str) -> None:
    """Forget a server; its answers stay.

    Raises:
        NotFound: naming the nearest.
    """
    find_endpoint(workspace, name)

    def write(c: sa.Connection) -> None:
        if c.execute(sa.delete(db.endpoints).where(db.endpoints.c.name == name)).rowcount:
            append(c, by, "endpoint.remove", name, {})

    workspace.database.write(write)


def endpoints(workspace: Workspace) -> list[Endpoint]:
    """All of them, by name."""
    with workspace.database.read() as c:
        return [Endpoint(**row) for row in c.execute(sa.select(db.endpoints).order_by(db.endpoints.c.name)).mappings()]


def find_endpoint(workspace: Workspace, name: str) -> Endpoint:
    """
    Raises:
        NotFound: naming the nearest.
    """
    known = {e.name: e for e in endpoints(workspace)}
    if name not in known:
        raise NotFound(f'no endpoint "{name}"{nearest(name, known)}')
    return known[name]
