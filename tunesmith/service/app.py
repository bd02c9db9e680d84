"""The application, and how it binds to a port of this machine."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import uvicorn
from fastapi import Depends, FastAPI

from tunesmith import __version__
from tunesmith.errors import UserError
from tunesmith.service import access, accounts, dashboards, desk, live, manage, queue, rank, refusals, rounds, sources
from tunesmith.service import guard as answer_guard
from tunesmith.service.assets import Assets
from tunesmith.service.figures import Board
from tunesmith.service.hub import Hub, Limits, ServingEngine
from tunesmith.service.quotas import Quotas, Rates
from tunesmith.service.security import LOOPBACK, MAX_BODY, Guard, require_named
from tunesmith.service.worker import Worker
from tunesmith.store import team

if TYPE_CHECKING:
    from tunesmith.service.gateway import Gateway
    from tunesmith.service.interactions import Log
    from tunesmith.service.oidc import Provider
    from tunesmith.service.webhooks import Courier
    from tunesmith.store.workspace import Workspace


def create_app(workspace: Workspace, engine: Callable[[], ServingEngine] | None = None, *, base: str = "base",
               labeler: str = "me", max_body: int = MAX_BODY, hosts: Sequence[str] = (),
               https: bool = False, quotas: Quotas | None = None, limits: Limits | None = None,
               guard: answer_guard.Guard | None = None, gateway: Gateway | None = None,
               train: bool = False, courier: Courier | None = None,
               oidc: Provider | None = None, keeper: Log | None = None,
               feedback_origins: Sequence[str] = ()) -> FastAPI:
    """The studio, and with an `engine` the API too.

    `engine` is called on the first request that needs it, so the pages answer at once and without torch. `base` is
    the base's name in /v1/models and the `spec` that adapters must have been trained on. `labeler` is the account of
    who starts it, made as an admin if it is new. `hosts` are the names, beside loopback's, that it may be called by;
    `https` says that a proxy in front of it encrypts. `quotas` hold for each key under /v1. `limits` are the
    engine's; `guard` keeps risky answers back; with a `gateway` another server writes instead of the engine. `train`
    works on fine-tuning jobs beside it; `courier` tells webhooks when they end. `keeper` logs interactions; pages of
    `feedback_origins` may tell it what their users did.

    Raises:
        UserError: `labeler` cannot be an account's name or is switched off.
    """
    hub = Hub(workspace, engine, base, limits) if engine else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with Worker(workspace) if train else nullcontext(), courier or nullcontext():
            if keeper:
                keeper.start()
            yield
        if hub:
            hub.close()
        if keeper:
            keeper.close()

    app = FastAPI(title="Tunesmith", version=__version__, docs_url=None, redoc_url=None, openapi_url=None,
                  lifespan=lifespan)
    app.state.workspace, app.state.hub, app.state.hosts, app.state.https = workspace, hub, tuple(hosts), https
    app.state.quotas = quotas or Quotas()
    app.state.rates = Rates(app.state.quotas.requests_per_minute)
    app.state.owner = team.owner(workspace, labeler).name
    refusals.install(app)
    app.add_middleware(Guard, max_body=max_body, hosts=hosts, https=https, feedback_origins=feedback_origins)
    for pages in (accounts, rank, desk, sources, live, rounds, dashboards):
        app.include_router(pages.router(workspace))
    app.state.oidc = oidc is not None
    if oidc is not None:
        from tunesmith.service import oidc as elsewhere

        app.include_router(elsewhere.router(workspace, oidc))
    board = Board(workspace)
    for staff in (manage, queue):
        app.include_router(staff.router(workspace, board))
    if hub:
        from tunesmith.service import completions, files, finetuning, graders, interactions, metrics, openai

        writers = [gateway.router(hub, guard, keeper)] if gateway else [openai.router(hub, guard, keeper),
                                                                        completions.router(hub, guard)]
        for routes in writers:
            app.include_router(routes, dependencies=[Depends(access.chat)])
        app.include_router(metrics.router(hub.metrics), dependencies=[Depends(access.program("read"))])
        for routes in (files.router(workspace), finetuning.router(workspace, hub), graders.router(workspace, hub)):
            app.include_router(routes)
        if keeper:
            keeper.metrics = hub.metrics
            app.include_router(interactions.router(keeper))
        if guard:
            guard.count = lambda model: hub.metrics.guarded.labels(model).inc()
            app.include_router(answer_guard.router(guard))
    else:
        app.add_api_route("/v1/{path:path}", _no_engine, methods=["GET", "POST"], include_in_schema=False)
    app.mount("/static", Assets())
    return app


def _no_engine(path: str) -> None:
    raise refusals.Refusal("This server is the studio only; start the API with: tunesmith serve", status=404)


def open_server(app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> tuple[uvicorn.Server, socket.socket, str]:
    """A server on a bound socket, and its URL; port 0 takes any free one. Start it with `server.run([socket])`.

    Raises:
        UserError: another machine could reach the host and the app has no name for it, or the port is taken.
    """
    require_named(host, app.state.hosts)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1" if host == "localhost" else host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use; choose another with --port, or --port 0 for a free one") from error
        raise UserError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
                            ws="none", timeout_graceful_shutdown=3)
    return uvicorn.Server(config), listener, _address(app, host, listener.getsockname()[1])


def _address(app: FastAPI, host: str, port: int) -> str:
    """What people type. A proxy that encrypts listens at the usual port of the first name."""
    if app.state.https and app.state.hosts:
        return f"https://{app.state.hosts[0]}"
    name = host if host in LOOPBACK else app.state.hosts[0]
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def run_server(app: FastAPI, host: str = "127.0.0.1", port: int = 0, announce: Callable[[str], None] = print) -> None:
    """Serve until Ctrl+C; `announce` is called with the URL (it ends in a slash) once the port is open.

    Raises:
        UserError: see `open_server`.
    """
    server, listener, url = open_server(app, host, port)
    announce(f"{url}/")
    with listener, suppress(KeyboardInterrupt):  # uvicorn raises it again after its shutdown
        server.run([listener])
