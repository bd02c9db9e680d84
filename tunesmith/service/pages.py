"""Jinja with everything escaped: text of models and people is data, never markup."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tunesmith import __version__
from tunesmith.service.assets import ADDRESS
from tunesmith.service.words import NAMES, SPEAKERS

_ENVIRONMENT = Environment(loader=PackageLoader("tunesmith.service"), autoescape=True, undefined=StrictUndefined,
                           trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: Any) -> str:
    """A page of `templates/`."""
    return _ENVIRONMENT.get_template(template).render(version=__version__, **values)


def moment(value: Any) -> datetime | None:
    """The store's time (ISO text, seconds or a datetime) as an aware datetime; None if it is none of these."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    try:
        return moment(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return None


def when(value: Any) -> str:
    """`2026-11-21 08:15` in the machine's own time zone."""
    at = moment(value)
    return f"{at.astimezone():%Y-%m-%d %H:%M}" if at else ""


def age(value: Any) -> str:
    """How long ago that was: `12 min`."""
    at = moment(value)
    seconds = (datetime.now(UTC) - at).total_seconds() if at else 0.0
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def brief(value: Any) -> str:
    """A metric in four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_ENVIRONMENT.globals.update(static=ADDRESS, SPEAKERS=SPEAKERS, NAMES=NAMES)
def capped(count: int, most: int = 1000) -> str:
    """A count that may be larger than was counted."""
    return f"{count}+" if count >= most else str(count)


_ENVIRONMENT.filters.update(capped=capped, when=when, age=age, brief=brief)
