"""The same API in front of a vLLM or llama.cpp server: names, keys, quotas and guard are ours, the writing is theirs.

    tunesmith serve --engine vllm=http://127.0.0.1:8001
    tunesmith serve --engine llamacpp=http://127.0.0.1:8080

A request goes on as it is, but for `model`. Adapters are handed over in the format that each server takes:

- vLLM is told to load the adapter's own PEFT folder when it is first asked for (POST /v1/load_lora_adapter; start it
  with --enable-lora, --max-lora-rank and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True), and once more if it has forgotten it.
- llama.cpp takes GGUF files when it starts: `tunesmith adapters export desk@2 --format gguf-lora --out desk@2.gguf`,
  then `llama-server -m base.gguf --lora desk@2.gguf --lora-init-without-apply`; each request says which of them it
  wants. A server that lists models by name (llama-cpp-python's) is asked for the model called `desk@2`.

Which base that server runs cannot be seen from here: start it on the one that the adapters were trained on.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from tunesmith.contracts import Token
from tunesmith.errors import MissingExtra, SettingsError
from tunesmith.records import Conversation, conversation
from tunesmith.service import openai, outbound, wire
from tunesmith.service.guard import Guard, Route
from tunesmith.service.hub import Card, Hub
from tunesmith.service.interactions import Exchange, Log
from tunesmith.service.refusals import Refusal
from tunesmith.service.wire import Choice, EventStream

if TYPE_CHECKING:
    import httpx

KINDS = ("vllm", "llamacpp")
LARGEST = 64 * 2**20
Json = dict[str, Any]


def gateway(engine: str, seconds: float = 600.0) -> Gateway:
    """The gateway to `KIND=URL`.

    Raises:
        SettingsError: neither `vllm=` nor `llamacpp=`, or no address.
        MissingExtra: httpx is not installed.
    """
    kind, found, url = engine.partition("=")
    if kind not in KINDS or not found:
        raise SettingsError(f'--engine "{engine}": write vllm=URL or llamacpp=URL, as vllm=http://127.0.0.1:8001')
    target = outbound.parse(url)
    return Gateway(kind, target.url.removesuffix("/v1"), seconds)


class Gateway:
    """One server behind this one. `transport` is for tests."""

    def __init__(self, kind: str, url: str, seconds: float = 600.0, transport: Any = None):
        try:
            import httpx
        except ImportError as error:
            raise MissingExtra("httpx", "gateway") from error
        self.kind, self.url = kind, url
        self._failed = httpx.HTTPError
        self._client = httpx.AsyncClient(
            base_url=url, timeout=httpx.Timeout(seconds, connect=5.0), transport=transport, trust_env=False,
            limits=httpx.Limits(max_connections=None))
        self._handed: set[str] = set()
        self._base = ""

    def router(self, hub: Hub, guard: Guard | None = None, keeper: Log | None = None) -> APIRouter:
        """The routes under /v1; `keeper` logs what users agree to."""
        routes = openai.listing(hub)

        @routes.post("/chat/completions")
        async def chat(request: Request, body: Annotated[Json, Body()]) -> Any:
            card = _card(hub, body)
            if guard and (route := guard.route(card.name, card.adapter)):
                return await self._judged(request, body, card, hub, guard, route, keeper)
            id = wire.head("chatcmpl", card.shown)["id"]
            exchange = keeper.begin(request, body, _said(body), card.shown, id, card.arm,
                                    card.propensity) if keeper else None
            return await self._pass_on(request, "/v1/chat/completions", body, card, hub, exchange)

        @routes.post("/completions")
        async def complete(request: Request, body: Annotated[Json, Body()]) -> Any:
            card = _card(hub, body)
            if guard and guard.route(card.name, card.adapter):
                raise Refusal(f"{card.name} is guarded, and guarded models behind a gateway answer chat only: use "
                              "/v1/chat/completions.", param="model", code="unsupported_parameter")
            return await self._pass_on(request, "/v1/completions", body, card, hub)

        return routes

    async def _pass_on(self, request: Request, path: str, body: Json, card: Card, hub: Hub,
                       exchange: Exchange | None = None) -> Any:
        reply = await wire.unless_gone(request, self._send(path, body, card, hub))
        if body.get("stream"):
            frames = self._frames(reply, card, hub, exchange)
            return EventStream(wire.guarded(path, exchange.followed(frames) if exchange else frames),
                               *([exchange.close] if exchange else []))
        made = await wire.unless_gone(request, self._read(reply))
        _count(hub, card, made.get("usage"))
        if exchange:
            made["id"] = exchange.about.id
            exchange.whole([_choice(c) for c in made["choices"]])
        return JSONResponse({**made, "model": card.shown})

    async def _send(self, path: str, body: Json, card: Card, hub: Hub) -> httpx.Response:
        """The other server's answer, its body not yet read; an adapter that it has forgotten is handed over again.

        Raises:
            Refusal: what the other server says, or that it cannot be reached.
        """
        for last in (False, True):
            sent = {**body, **await self._target(card, hub)}
            reply = await self._ask("POST", path, sent)
            if reply.status_code == 404 and card.adapter in self._handed and not last:
                self._handed.discard(card.adapter)
                await reply.aclose()
                continue
            break
        if reply.status_code != 200:
            raise await self._refusal(reply)
        return reply

    async def _target(self, card: Card, hub: Hub) -> Json:
        """What a request says so that this model answers it."""
        if self.kind == "llamacpp" and (loaded := await self._gguf()) is not None:
            ids = [a["id"] for a in loaded if PurePosixPath(str(a.get("path", ""))).stem == card.adapter]
            if card.adapter and not ids:
                raise self._not_there(card)
            return {"lora": [{"id": a["id"], "scale": float(a["id"] in ids)} for a in loaded]}
        if not card.adapter:
            return {"model": await self._base_name()}
        if self.kind == "vllm":
            await self._hand_over(card, hub)
        elif card.adapter not in [m["id"] for m in (await self._get("/v1/models"))["data"]]:
            raise self._not_there(card)
        return {"model": card.adapter}

    async def _hand_over(self, card: Card, hub: Hub) -> None:
        if card.adapter in self._handed:
            return
        adapter = await run_in_threadpool(hub.workspace.adapter, card.adapter)
        reply = await self._ask("POST", "/v1/load_lora_adapter",
                                {"lora_name": card.adapter, "lora_path": str(adapter.path.resolve())})
        await reply.aread()
        if reply.status_code == 404:
            raise Refusal(f"The vLLM at {self.url} loads no adapters: start it with --enable-lora and "
                          "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.", status=502)
        if reply.status_code != 200 and "already" not in reply.text:
            raise await self._refusal(reply)
        self._handed.add(card.adapter)

    def _not_there(self, card: Card) -> Refusal:
        return Refusal(f"The llama.cpp at {self.url} was not started with {card.adapter}: tunesmith adapters export "
                       f"{card.adapter} --format gguf-lora --out {card.adapter}.gguf, and start it with --lora "
                       f"{card.adapter}.gguf --lora-init-without-apply.", status=404, param="model",
                       code="model_not_found")

    async def _gguf(self) -> list[Json] | None:
        """The adapters of a llama-server; None if this one is of another kind."""
        reply = await self._ask("GET", "/lora-adapters")
        await reply.aread()
        return list(reply.json()) if reply.status_code == 200 else None

    async def _base_name(self) -> str:
        if not self._base:
            models = (await self._get("/v1/models"))["data"]
            self._base = str(next((m for m in models if not m.get("parent")), models[0])["id"])
        return self._base

    # ---- the guard

    async def _judged(self, request: Request, body: Json, card: Card, hub: Hub, guard: Guard, route: Route,
                      keeper: Log | None) -> Any:
        """Asked for whole, judged, and only then sent, streamed if that was asked for."""
        n, logprobs = int(body.get("n") or 1), bool(body.get("logprobs"))
        options = body.get("stream_options") or {}
        plain = {k: v for k, v in body.items() if k not in ("stream", "stream_options")}
        sent = {**plain, "n": max(n, route.samples), "logprobs": True}
        reply = await wire.unless_gone(request, self._send("/v1/chat/completions", sent, card, hub))
        made = await wire.unless_gone(request, self._read(reply))
        _count(hub, card, made.get("usage"))
        said = _said(body)
        choices = (await guard.judge(route, card.shown, said, [_choice(c) for c in made["choices"]], hub.score))[:n]
        answer = openai.Reply(card.shown, made["usage"]["prompt_tokens"], logprobs, bool(options.get("include_usage")))
        if exchange := keeper and keeper.begin(request, body, said, card.shown, answer.id, card.arm, card.propensity):
            exchange.whole(choices)
        if body.get("stream"):
            return EventStream(wire.guarded(request.url.path, answer.replay(choices)))
        return JSONResponse(answer.whole(choices))

    # ---- the connection

    async def _ask(self, method: str, path: str, body: Json | None = None) -> httpx.Response:
        try:
            made = self._client.build_request(method, path, json=body)
            return await self._client.send(made, stream=True)
        except self._failed as error:
            raise Refusal(f"The server at {self.url} does not answer: {type(error).__name__}.", status=502) from error

    async def _get(self, path: str) -> Json:
        return await self._read(await self._ask("GET", path))

    async def _read(self, reply: httpx.Response) -> Json:
        try:
            raw = b""
            async for chunk in reply.aiter_bytes():
                raw += chunk
                if len(raw) > LARGEST:
                    raise Refusal(f"The server at {self.url} answers without an end.", status=502)
            found = json.loads(raw)
        except (ValueError, self._failed) as error:
            raise Refusal(f"The server at {self.url} did not answer with JSON.", status=502) from error
        finally:
            await reply.aclose()
        if not isinstance(found, dict):
            raise Refusal(f"The server at {self.url} did not answer as an OpenAI-compatible server does.", status=502)
        return found

    async def _frames(self, reply: httpx.Response, card: Card, hub: Hub,
                      exchange: Exchange | None = None) -> AsyncGenerator[str, None]:
        """Its events, with the model's name that was asked for; of one that is logged, with the log's id."""
        ours = {"model": card.shown, **({"id": exchange.about.id} if exchange else {})}
        try:
            async with aclosing(reply.aiter_lines()) as lines:  # type: ignore[type-var]
                async for line in lines:
                    if not line.startswith("data:") or line[5:].strip() == "[DONE]":
                        continue
                    event = json.loads(line[5:])
                    if "error" in event:
                        raise Refusal(str(event["error"].get("message", "")), status=502)
                    _count(hub, card, event.get("usage"))
                    if exchange:
                        _overhear(exchange, event)
                    yield wire.frame({**event, **ours})
        except self._failed as error:
            raise Refusal(f"The server at {self.url} broke off.", status=502) from error
        finally:
            await reply.aclose()

    async def _refusal(self, reply: httpx.Response) -> Refusal:
        """The other server's refusal in OpenAI's words; its own failures are a bad gateway."""
        raw = await reply.aread()
        await reply.aclose()
        try:
            found = json.loads(raw)
            error = found.get("error", found) if isinstance(found, dict) else {}
            error = error if isinstance(error, dict) else {"message": str(error)}
        except ValueError:
            error = {}
        status = reply.status_code if reply.status_code < 500 else 502
        message = str(error.get("message") or error.get("detail") or f"it answered {reply.status_code}")[:2000]
        param, code = (error[k] if isinstance(error.get(k), str) else None for k in ("param", "code"))
        wait = {"retry-after": reply.headers["retry-after"]} if "retry-after" in reply.headers else None
        return Refusal(message, status=status, param=param, code=code, headers=wait)


def _card(hub: Hub, body: Mapping[str, Any]) -> Card:
    if not isinstance(body.get("model"), str):
        raise Refusal("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
    return openai.find(hub, body["model"], body)


def _choice(found: Mapping[str, Any]) -> Choice:
    content = (found.get("logprobs") or {}).get("content") or []
    tokens = [Token(t["token"], bytes(t.get("bytes") or t["token"].encode()), t["logprob"]) for t in content]
    return Choice(found["message"].get("content") or "", str(found.get("finish_reason") or "stop"), tokens, len(tokens))


def _overhear(exchange: Exchange, event: Json) -> None:
    for choice in event.get("choices", ()):
        exchange.heard(choice["index"], choice["delta"].get("content") or "", choice.get("finish_reason"))


def _said(body: Json) -> Conversation:
    return conversation([{"role": m["role"], "content": _text(m.get("content"))} for m in body["messages"]])


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _count(hub: Hub, card: Card, usage: Any) -> None:
    if usage:
        hub.metrics.started(card.shown, usage.get("prompt_tokens", 0))
        hub.metrics.tokens.labels(card.shown, "completion").inc(usage.get("completion_tokens", 0))
