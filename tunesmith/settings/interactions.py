"""Settings of the interaction log: what a server keeps, and what is done with it."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from tunesmith.settings.common import Settings


class Logged(Settings):
    """What a server keeps of what its users say and do."""

    log: Literal["off", "asked", "all"] = Field(
        "off", description="chat requests that are kept, scrubbed, for later training: none; those that ask for it "
        "(store: true); all but those that decline, which is for services that tell their users so")
    log_days: float = Field(90, ge=0, description="that they are kept; 0: until you purge them")
    log_holdout: float = Field(0.05, ge=0, lt=1, description="share of the users whose traffic never feeds training")
    scrub: Literal["rules", "presidio"] = Field(
        "rules", description="what finds personal data before anything is kept; presidio: its models look for names "
        "and places too, slowly")
    feedback_origin: tuple[str, ...] = Field((), description="sites whose pages may send what their users did, such as "
                                             "https://app.example.com")

    @field_validator("feedback_origin")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"https?://[a-z0-9.-]+(:\d+)?", origin):
                raise ValueError(f"{origin!r} is no origin: give scheme and host, as in https://app.example.com")
        return origins


class InteractionsSettings(Settings):
    """what users of served models said and did: ls, show, export, forget, purge"""

    action: Literal["ls", "show", "export", "forget", "purge"] = Field(
        "ls", description="ls: what there is, and what should be trained again; show ID; export: JSON lines; forget "
        "USER: erase what they said and did; purge: delete what is over")
    which: str = Field("", description="show: the id of a completion; forget: a user's id, or their pseudonym")
    out: str = Field("", description="export: the new file, .jsonl or .jsonl.gz")
    source: str = Field("", description="export: only of this origin, such as serve or langfuse")
    since: str = Field("", description="export: only from this time on, such as 2026-11-21")
    user: str = Field("", description="export: only of this user (what a person may ask you for)")
    days: float = Field(0, ge=0, description="purge: all that is older, beside what is over by its own date")
