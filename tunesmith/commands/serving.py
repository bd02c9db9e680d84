"""Studio, API and the worker beside them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tunesmith import settings
from tunesmith.commands.common import open_shop
from tunesmith.terminal import Terminal

if TYPE_CHECKING:
    from tunesmith.shop import Shop


def studio(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.service.app import create_app, run_server

    chosen, shop = command.settings, open_shop(command, terminal)
    spec, engine = _engine(shop)
    app = create_app(shop.workspace, engine, base=spec, labeler=chosen.labeler, hosts=chosen.allow_host,
                     https=chosen.https, oidc=_provider(chosen))
    path = f"/rank/{chosen.groups}" if chosen.groups else "/"
    run_server(app, chosen.host, chosen.port, lambda url: terminal.say(
        f"studio: {_entrance(shop.workspace, app, url, path)}  (Ctrl+C ends it)\n{_ONCE}{_plain(chosen)}"))


def serve(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith.service.app import create_app, run_server
    from tunesmith.service.quotas import Quotas
    from tunesmith.store import keys

    chosen, shop = command.settings, open_shop(command, terminal)
    spec, engine = _engine(shop, chosen.base, chosen.rows)
    quotas = Quotas(chosen.requests_per_minute, chosen.storage_mb * 2**20, chosen.unfinished_jobs)
    app = create_app(shop.workspace, engine, base=spec, labeler=chosen.labeler, hosts=chosen.allow_host,
                     https=chosen.https, oidc=_provider(chosen), quotas=quotas, train=chosen.train,
                     courier=_courier(shop, chosen), feedback_origins=chosen.feedback_origin,
                     **_serving(shop, chosen))
    needs = ("needs a key" if keys.any_key(shop.workspace) or chosen.allow_host else
             "is open to every program on this machine until you make a key")
    run_server(app, chosen.host, chosen.port, lambda url: terminal.say(
        f"OpenAI-compatible API: {url}v1  studio: {_entrance(shop.workspace, app, url)}  (Ctrl+C ends it)\n"
        f"The API {needs}: tunesmith keys create NAME --scopes chat. {_ONCE}{_plain(chosen)}"))


def _provider(chosen: settings.Served) -> Any:
    """Where people may sign in beside here; None if nowhere."""
    from tunesmith.service import oidc

    return oidc.provider(chosen.oidc_issuer, chosen.oidc_client_id, os.environ.get(oidc.SECRET, ""),
                         chosen.oidc_domain, chosen.oidc_role)


def _serving(shop: Shop, chosen: settings.ServeSettings) -> dict[str, Any]:
    """What `create_app` is told of how to answer."""
    from tunesmith.service import guard
    from tunesmith.service.gateway import gateway
    from tunesmith.service.hub import Limits

    return {"limits": Limits(chosen.waiting, chosen.adapter_mb * 2**20, chosen.seconds),
            "guard": guard.load(chosen.guard, shop.workspace) if chosen.guard else None,
            "gateway": gateway(chosen.engine, chosen.seconds) if chosen.engine else None,
            "keeper": _keeper(shop, chosen)}


def _keeper(shop: Shop, chosen: settings.ServeSettings) -> Any:
    """What logs interactions; None without consent of who serves."""
    from tunesmith.service.interactions import Log
    from tunesmith.store.interactions import Policy
    from tunesmith.store.privacy import presidio

    if chosen.log == "off":
        return None
    more = (presidio(),) if chosen.scrub == "presidio" else ()
    return Log(shop.workspace, chosen.log, Policy(chosen.log_days, chosen.log_holdout, more))


def _courier(shop: Shop, chosen: settings.ServeSettings) -> Any:
    """Who tells webhooks of jobs that have ended; None without one."""
    from tunesmith.service import webhooks

    if not chosen.webhook:
        return None
    return webhooks.Courier(shop.workspace, chosen.webhook, webhooks.secret_of(chosen.webhook_secret))


def _engine(shop: Shop, base: str = "", rows: int = 64) -> tuple[str, Callable[[], Any]]:
    """The base to serve (the newest adapter's, if none is named), and what loads it when somebody first asks."""
    spec = base or next((str(a.base["spec"]) for a in reversed(shop.workspace.adapters())), "loan-desk")

    def engine() -> Any:
        from tunesmith.model.engine import LocalEngine
        from tunesmith.model.known import Known
        from tunesmith.model.serving import Serving

        return Serving(LocalEngine(shop.base(spec), rows, known=Known()))

    return spec, engine


def work(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import rounds
    from tunesmith.service import trainer
    from tunesmith.service.worker import Worker
    from tunesmith.store import jobs

    chosen, shop = command.settings, open_shop(command, terminal)
    if not chosen.once:
        def ended(id: str) -> None:
            terminal.say(f"{id}: {jobs.find(shop.workspace, id).status}")

        return Worker(shop.workspace, ended).run(chosen.until_idle)
    os.nice(5)  # who chats with a model does not wait for one that is trained
    hands = trainer.Hands(lambda *step: rounds.train(shop, *step), lambda *what: rounds.fresh(shop, *what))
    status = trainer.work(shop.workspace, chosen.once, chosen.token, hands)
    return terminal.result({"job": chosen.once, "status": status}, f"{chosen.once}: {status}")


_ONCE = "The studio's link signs you in, once, within 10 minutes; a new one: tunesmith team link."


def _entrance(workspace: Any, app: Any, url: str, path: str = "/") -> str:
    """The link that signs in who started the server."""
    from tunesmith.service import access
    from tunesmith.store import team

    return f"{url.rstrip('/')}{access.entrance(team.link(workspace, app.state.owner, team.SHELL), path)}"


def _plain(chosen: settings.Served) -> str:
    return "" if chosen.https or not chosen.allow_host else (
        "\nWithout https everybody on the way can read passwords: put a proxy that encrypts in front, and add --https.")
