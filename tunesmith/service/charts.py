"""Small pictures of the pages as inline SVG, beside `evaluate.svg`: days as bars, an interval in a table's cell, a
graph of what was made from what. No script; colours are classes of `charts.css`, so that they follow the theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from itertools import pairwise
from math import isfinite

from markupsafe import Markup

from tunesmith.statistics import Interval

Point = tuple[float, float]
HEIGHT, LEFT, BOTTOM, TOP = 190, 44, 26, 10


def days(counts: Mapping[date, int], until: date, length: int, width: int) -> Markup:
    """Verdicts per day as bars, `length` days up to `until`; each bar says its figure to who points at it."""
    shown = [until - timedelta(length - 1 - n) for n in range(length)]
    values = [counts.get(day, 0) for day in shown]
    top = _round_up(max([*values, 1]))
    wide, deep = (width - LEFT - 4) / length, HEIGHT - TOP - BOTTOM
    body = []
    for share in (0, 0.5, 1):
        y = round(HEIGHT - BOTTOM - share * deep, 1)
        body.append(f'<line class="grid" x1="{LEFT}" x2="{width}" y1="{y}" y2="{y}"/>'
                    f'<text class="tick" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{top * share:,.4g}</text>')
    for n, (day, value) in enumerate(zip(shown, values)):
        x, high = LEFT + n * wide, max(value / top * deep, 1.5 if value else 0)
        weekend = " weekend" if day.weekday() > 4 else ""
        body.append(f'<g><title>{day:%A %d %B}: {value}</title><rect class="hit" x="{x:.1f}" y="{TOP}" '
                    f'width="{wide:.1f}" height="{deep}"/><rect class="bar-of-day{weekend}" x="{x + wide * .14:.1f}" '
                    f'y="{HEIGHT - BOTTOM - high:.1f}" width="{wide * .72:.1f}" height="{high:.1f}" rx="2"/></g>')
        if (length - 1 - n) % 7 == 0:
            body.append(f'<text class="tick" x="{x + wide / 2:.1f}" y="{HEIGHT - 8}" '
                        f'text-anchor="{"end" if n == length - 1 else "middle"}">{day:%d %b}</text>')
    said = ", ".join(f"{day:%d %B} {value}" for day, value in zip(shown, values) if value)
    return _svg(f"days w{width}", width, HEIGHT, "Verdicts per day", said or "none", body)


def whisker(interval: Interval, span: Point, reference: float | None = None, tone: str = "") -> Markup:
    """An interval on an axis of its own, for a cell that also says it in words (hidden from screen readers)."""
    if not isfinite(interval.value):
        return Markup("")
    wide, high = 96, 14

    def across(value: float) -> float:
        share = (min(max(value, span[0]), span[1]) - span[0]) / (span[1] - span[0])
        return round(4 + share * (wide - 8), 1)

    low, up = (across(v) if isfinite(v) else across(e) for v, e in zip((interval.low, interval.high), span))
    mark = "" if reference is None else f'<line class="reference" x1="{across(reference)}" x2="{across(reference)}" ' \
                                        f'y1="0" y2="{high}"/>'
    return Markup(f'<svg class="whisker-cell {escape(tone)}" viewBox="0 0 {wide} {high}" width="{wide}" '
                  f'height="{high}" aria-hidden="true" focusable="false"><line class="axis" x1="4" x2="{wide - 4}" '
                  f'y1="7" y2="7"/>{mark}<line class="whisker" x1="{low}" x2="{up}" y1="7" y2="7"/>'
                  f'<circle class="dot" cx="{across(interval.value)}" cy="7" r="3.6"/></svg>')


# ---- a graph of what was made from what

@dataclass(frozen=True, slots=True)
class Node:
    """A thing: `from_` are the names of what it was made from; `href` where a click leads ("" nowhere)."""

    name: str
    label: str
    note: str
    kind: str
    href: str = ""
    from_: tuple[str, ...] = ()


BOX_WIDE, BOX_HIGH, GAP_WIDE, GAP_HIGH = 168, 46, 48, 16


def graph(nodes: Sequence[Node], title: str, chosen: str = "") -> Markup:
    """Boxes in columns, from left to right; a thing stands right of all that it was made from, and no line runs
    through a box."""
    places = _places(nodes)
    columns = max((x for x, _ in places.values()), default=0) + 1
    rows = max((y for _, y in places.values()), default=0) + 1
    body = [_edge(places, parent, node.name) for node in nodes for parent in node.from_ if parent in places]
    body += [_box(node, _corner(places[node.name]), node.name == chosen) for node in nodes]
    wide, high = columns * (BOX_WIDE + GAP_WIDE) - GAP_WIDE + 4, rows * (BOX_HIGH + GAP_HIGH) - GAP_HIGH + 4
    return Markup(f'<svg class="lineage" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" role="group" '
                  f'aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>')


def _edge(places: Mapping[str | tuple[str, str, int], tuple[int, int]], parent: str, child: str) -> str:
    """A curve from box to box, by way of the free places in the columns between."""
    (first, _), (last, _) = places[parent], places[child]
    stops = [places[parent], *(places[parent, child, x] for x in range(first + 1, last)), places[child]]
    path = ""
    for one, two in pairwise(stops):
        (x0, y0), (x1, y1) = _corner(one), _corner(two)
        a, b, c, d = x0 + BOX_WIDE, y0 + BOX_HIGH / 2, x1, y1 + BOX_HIGH / 2
        bend = GAP_WIDE * .6
        path += f"{'L' if path else 'M'}{a} {b}C{a + bend} {b} {c - bend} {d} {c} {d}"
    return f'<path class="edge" d="{path}"/>'


def _box(node: Node, corner: Point, chosen: bool) -> str:
    x, y = corner
    inner = (f'<title>{escape(node.label)}: {escape(node.note)}</title>'
             f'<rect class="box-of {escape(node.kind)}{" chosen" if chosen else ""}" x="{x}" y="{y}" '
             f'width="{BOX_WIDE}" height="{BOX_HIGH}" rx="10"/>'
             f'<text class="name" x="{x + 12}" y="{y + 20}">{escape(_cut(node.label, 19))}</text>'
             f'<text class="note-of" x="{x + 12}" y="{y + 36}">{escape(_cut(node.note, 24))}</text>')
    return f'<a href="{escape(node.href)}">{inner}</a>' if node.href else f"<g>{inner}</g>"


def _places(nodes: Sequence[Node]) -> dict[str | tuple[str, str, int], tuple[int, int]]:
    """Column and row of each node, and of each (parent, child, column) that a line passes; rows follow those of the
    parents, so that few lines cross."""
    known = {node.name: node for node in nodes}
    depth: dict[str, int] = {}

    def column(name: str, seen: frozenset[str] = frozenset()) -> int:
        if name not in depth:
            parents = [p for p in known[name].from_ if p in known and p not in seen and p != name]
            depth[name] = 1 + max((column(p, seen | {name}) for p in parents), default=-1)
        return depth[name]

    for node in nodes:
        column(node.name)
    places: dict[str | tuple[str, str, int], tuple[int, int]] = {}
    for x in range(max(depth.values(), default=-1) + 1):
        wishes: list[tuple[float, str | tuple[str, str, int]]] = []
        for node in nodes:
            rows = [places[p if depth[p] == x - 1 else (p, node.name, x - 1)][1]
                    for p in node.from_ if p in known and depth[p] < depth[node.name] and depth[node.name] == x]
            if depth[node.name] == x:
                wishes.append((sum(rows) / len(rows) if rows else 0.0, node.name))
            wishes += [(places[p if depth[p] == x - 1 else (p, node.name, x - 1)][1], (p, node.name, x))
                       for p in node.from_ if p in known and depth[p] < x < depth[node.name]]
        free = 0
        for wish, key in sorted(wishes, key=lambda one: one[0]):
            row = max(free, round(wish))
            places[key], free = (x, row), row + 1
    return places


def _corner(place: tuple[int, int]) -> Point:
    return 2 + place[0] * (BOX_WIDE + GAP_WIDE), 2 + place[1] * (BOX_HIGH + GAP_HIGH)


def _svg(name: str, wide: float, high: float, title: str, description: str, body: Sequence[str]) -> Markup:
    return Markup(f'<svg class="{name}" viewBox="0 0 {wide} {high}" role="img" xmlns="http://www.w3.org/2000/svg" '
                  f'aria-label="{escape(title)}: {escape(description)}">{"".join(body)}</svg>')


def _round_up(value: int) -> int:
    """The next even number of one or two leading digits, so that half of it is a whole number."""
    if value <= 10:
        return value + value % 2
    power = 10 ** (len(str(value)) - 2)
    return -(-value // (2 * power)) * 2 * power


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest - 1]}…"
