"""Settings of servers."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from tunesmith.settings.common import Settings
from tunesmith.settings.interactions import Logged


class Served(Settings):
    """What all servers share."""

    host: str = Field("127.0.0.1", description="the address to listen on; one that other machines reach needs "
                      "--allow-host")
    labeler: str = Field("me", description="your account, made as an admin if it is new; your judgements have its name")
    allow_host: tuple[str, ...] = Field((), description="names that people may call this server by, beside localhost")
    https: bool = Field(False, description="a proxy in front of this server encrypts: cookies are for https only")

    oidc_issuer: str = Field("", description="where people may sign in with OpenID Connect (https://...), beside "
                             "passwords; the client's secret is read from TUNESMITH_OIDC_SECRET")
    oidc_client_id: str = Field("", description="the name that the OpenID Connect provider gave this studio")
    oidc_domain: str = Field("", description="everybody with a verified e-mail address of this domain may come in; "
                             "default: only addresses that were invited")
    oidc_role: str = Field("labeler", description="what they are then: labeler, viewer or reviewer")

    @field_validator("allow_host")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]", name):
                raise ValueError(f"{name!r} is no host name: give it without http:// and without a port")
        return names


class StudioSettings(Served):
    """rank in the browser"""

    port: int = Field(8400, ge=0, le=65535)
    groups: str = Field("", description="the set to rank; default: the newest")


class ServeSettings(Logged, Served):
    """OpenAI-compatible API + studio"""

    port: int = Field(8000, ge=0, le=65535)
    base: str = Field("", description="default: the base of the newest adapter")
    engine: str = Field("", description="another server that writes: vllm=URL or llamacpp=URL (default: this process)")
    rows: int = Field(64, ge=1, description="answers that are written at a time")
    waiting: int = Field(256, ge=1, description="requests that may be open, those that wait included")
    seconds: float = Field(600.0, gt=0, description="within which a request must be answered")
    adapter_mb: int = Field(1024, ge=1, description="of adapters that stay in memory")
    guard: str = Field("", description="a file that says which answers are kept back (docs/serving.md)")
    train: bool = Field(True, description="work on fine-tuning jobs too; without, start tunesmith work beside it")
    requests_per_minute: int = Field(0, ge=0, description="that each key may make under /v1; 0: any number")
    storage_mb: int = Field(10_240, ge=0, description="of files that each key may store; 0: any number")
    unfinished_jobs: int = Field(100, ge=0, description="that each key may have; 0: any number")
    webhook: tuple[str, ...] = Field((), description="addresses (https://HOST/PATH) that hear when a fine-tuning job "
                                     "has ended")
    webhook_secret: str = Field("TUNESMITH_WEBHOOK_SECRET", description="the environment variable with the secret that "
                                "signs: whsec_ and base64")


class WorkSettings(Settings):
    """work on fine-tuning jobs, without a server"""

    until_idle: bool = Field(False, description="end when no job is unfinished")
    once: str = Field("", description="work on this job alone, in this process; for the worker itself")
    token: int = Field(0, ge=0, description="with --once: the token of the claim")
