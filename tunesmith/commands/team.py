"""Who may come in: people and programs."""

from __future__ import annotations

import argparse

from tunesmith.commands.common import open_shop, which
from tunesmith.terminal import Terminal, table


def keys(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.store import keys, team

    workspace = open_shop(command, terminal).workspace
    if command.action == "ls":
        rows = [{"id": k.id, "name": k.name, "account": k.account, "key": k.hint, "scopes": " ".join(k.scopes),
                 "works": "yes" if k.works else "revoked" if k.revoked else "expired", "created": k.created}
                for k in keys.keys(workspace)]
        return terminal.result({"keys": rows}, table(rows))
    if command.action == "revoke":
        keys.revoke_key(workspace, id := which(command), team.SHELL)
        return terminal.result({"revoked": id}, f"{id} works no more")
    if command.account not in {a.name for a in team.accounts(workspace)}:
        team.new_account(workspace, command.account, "admin" if command.account == "me" else "api", team.SHELL)
    key, secret = keys.create_key(workspace, command.account, which(command), command.scopes, team.SHELL, command.days)
    return terminal.result({"id": key.id, "key": secret, "scopes": list(key.scopes), "expires": key.expires},
                           f"{secret}\nIt is shown only now. It may: {', '.join(key.scopes)}; of {key.account}; "
                           f"to end it: tunesmith keys revoke {key.id}")


def team(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.service import access
    from tunesmith.store import team

    workspace = open_shop(command, terminal).workspace
    shell, url = team.SHELL, command.url.rstrip("/")
    if command.action == "ls":
        rows = [{"name": a.name, "role": a.role, "active": "yes" if a.active else "no",
                 "password": "yes" if a.password else "no", "created": a.created} for a in team.accounts(workspace)]
        return terminal.result({"team": rows}, table(rows))
    if command.action == "audit":
        count, head = team.verify_audit(workspace)
        lines = [f"{e.at}  {e.actor}  {e.action}  {e.object}  {e.detail or ''}" for e in team.entries(workspace)[::-1]]
        return terminal.result({"entries": count, "head": head}, "\n".join(
            [*lines, f"{count} entries, unaltered; the newest has the digest {head}"]))
    if command.action == "invite":
        secret = team.invite(workspace, command.role or "labeler", shell, command.which)
        return _link(terminal, f"{url}/invite?key={secret}", f"once, for {team.INVITATION_DAYS} days")
    if command.action == "link":
        secret = team.link(workspace, command.which or "me", shell)
        return _link(terminal, f"{url}{access.entrance(secret)}", f"once, for {team.LINK_MINUTES} minutes")
    name = which(command)
    if command.action == "reset":
        secret = team.reset_password(workspace, name, shell)
        return _link(terminal, f"{url}{access.entrance(secret, '/account')}", f"once, for {team.INVITATION_DAYS} days")
    if command.action == "role":
        team.set_role(workspace, name, command.role or "labeler", shell)
    else:
        team.set_active(workspace, name, command.action == "activate", shell)
    now = team.account(workspace, name)
    return terminal.result({"name": name, "role": now.role, "active": now.active},
                           f"{name} is {now.role}{'' if now.active else ', switched off'}")


def _link(terminal: Terminal, link: str, works: str) -> None:
    terminal.result({"link": link}, f"{link}\nIt works {works}.")
