"""Small plots as inline SVG: lines with bands, intervals on one axis, points. No script, no font, no network.

A plot is 400 units wide, so that its text is readable where it is shown smallest, on a phone of 390 px. Colours are
CSS classes (`s0` to `s4`, `grid`, `axis`) that the page defines for light, dark and print; series differ in dash and
marker too. Every plot has a title and a description for those who do not see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10

from markupsafe import Markup

WIDTH, HEIGHT = 400, 236
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 12, 42
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 3")
COUNTED = ("step", "round")
"""Axes without fractions."""
COLOURS = len(DASHES)
LETTER = 6.3
"""Mean width of a letter at 12 units."""
SMOOTH_FROM = 60
"""A line of more points is drawn faintly, with its running mean on top."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Points with a name; `band` is (low, high) for each point, where there is one."""

    label: str
    points: Sequence[Point]
    band: Sequence[Point] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One interval with its name and the text of its value."""

    label: str
    value: float
    low: float
    high: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class _Axes:
    """Data to page. The y axis grows upwards."""

    x: tuple[float, float]
    y: tuple[float, float]
    top: float = TOP

    def at(self, point: Point) -> Point:
        (x0, x1), (y0, y1) = self.x, self.y
        return (LEFT + (point[0] - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - (point[1] - y0) / (y1 - y0) * (HEIGHT - BOTTOM - self.top))


def lines(series: Sequence[Series], *, title: str, description: str, x_label: str, y_label: str,
          dots: Sequence[Point] = ()) -> Markup:
    """Lines over a shared x axis, each with an optional band, and single dots. Values that are not finite leave a gap
    out."""
    kept = [_finite(s) for s in series]
    legend, top = _legend(kept)
    axes = _axes([*dots, *(p for s in kept for p in (*s.points, *_corners(s)))], top)
    body = []
    for n, s in enumerate(kept):
        if s.band:
            edge = [(x, hi) for (x, _), (_, hi) in zip(s.points, s.band)]
            edge += [(x, lo) for (x, _), (lo, _) in zip(s.points, s.band)][::-1]
            body.append(f'<polygon class="band s{n % COLOURS}" points="{_path(axes, edge)}"/>')
        crowded = len(s.points) > SMOOTH_FROM
        body.append(_line(axes, s.points, n, "faint" if crowded else ""))
        if crowded:
            body.append(_line(axes, _running_mean(s.points, len(s.points) // 30), n))
        elif len(s.points) <= 2:
            body += [_marker(axes, p, n, f"{s.label}: {p[1]:.4g}") for p in s.points]
    body += [_marker(axes, p, 0, f"{p[0]:,.4g}: {p[1]:.4g}") for p in dots]
    return _svg(title, description, [*_grid(axes, x_label, y_label), *legend, *body])


def scatter(series: Sequence[Series], *, title: str, description: str, x_label: str, y_label: str,
            joined: bool = False, diagonal: bool = False) -> Markup:
    """Points, joined in their order if asked; `band` becomes a bar; `diagonal` draws y = x over the unit square."""
    kept = [_finite(s) for s in series]
    legend, top = _legend(kept)
    axes = _Axes((0, 1), (0, 1), top) if diagonal else _axes([p for s in kept for p in (*s.points, *_corners(s))], top)
    body = [f'<polyline class="reference" points="{_path(axes, [(0, 0), (1, 1)])}"/>'] if diagonal else []
    for n, s in enumerate(kept):
        if joined:
            body.append(_line(axes, s.points, n, "faint"))
        body += [f'<polyline class="line s{n % COLOURS}" points="{_path(axes, [(x, lo), (x, hi)])}"/>'
                 for (x, _), (lo, hi) in zip(s.points, s.band)]
        body += [_marker(axes, p, n, f"{s.label}: {p[0]:.4g}, {p[1]:.4g}") for p in s.points]
    return _svg(title, description, [*_grid(axes, x_label, y_label), *legend, *body])


def intervals(rows: Sequence[Row], *, title: str, description: str, reference: float | None = 0.5,
              span: Point = (0.0, 1.0), percent: bool = True) -> Markup:
    """One interval per row on a shared axis, the name above it, with a dashed line at `reference`."""
    rows = [r for r in rows if isfinite(r.value)]
    step, left, right = 42, 14, 14
    height = step * len(rows) + 26

    def across(value: float) -> float:
        share = (min(max(value, span[0]), span[1]) - span[0]) / (span[1] - span[0])
        return round(left + share * (WIDTH - left - right), 1)

    def tick(value: float) -> str:
        x = across(value)
        shown = f"{value:.0%}" if percent else f"{value:.3g}"
        return (f'<line class="grid" x1="{x}" x2="{x}" y1="4" y2="{height - 20}"/>'
                f'<text class="tick" x="{x}" y="{height - 6}" text-anchor="middle">{shown}</text>')

    body = [tick(v) for v in _ticks(*span)]
    if reference is not None:
        x = across(reference)
        body.append(f'<line class="reference" x1="{x}" x2="{x}" y1="2" y2="{height - 20}"/>')
    for n, r in enumerate(rows):
        y = step * n + 32
        low, high = (across(v) if isfinite(v) else across(e) for v, e in zip((r.low, r.high), span))
        body.append(
            f'<text class="name" x="{left}" y="{y - 14}">{escape(r.label)}</text>'
            f'<text class="figure" x="{WIDTH - right}" y="{y - 14}" text-anchor="end">{escape(r.text)}</text>'
            f'<path class="whisker s0" d="M{low} {y}H{high}M{low} {y - 5}v10M{high} {y - 5}v10"/>'
            f'<circle class="dot s0" cx="{across(r.value)}" cy="{y}" r="4"><title>{escape(r.label)}: {escape(r.text)}'
            "</title></circle>")
    return _svg(title, description, body, height)


def _svg(title: str, description: str, body: Sequence[str], height: float = HEIGHT) -> Markup:
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" xmlns="http://www.w3.org/2000/svg">'
                  f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(body)}</svg>")


def _finite(s: Series) -> Series:
    keep = [n for n, p in enumerate(s.points) if all(map(isfinite, p))]
    band = [s.band[n] for n in keep] if s.band else ()
    return Series(s.label, [s.points[n] for n in keep], band if all(isfinite(v) for b in band for v in b) else ())


def _corners(s: Series) -> list[Point]:
    return [(x, edge) for (x, _), ends in zip(s.points, s.band) for edge in ends]


def _axes(points: Sequence[Point], top: float) -> _Axes:
    return _Axes(_padded([p[0] for p in points], 0.0), _padded([p[1] for p in points], 0.06), top)


def _padded(values: Sequence[float], share: float) -> Point:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        return low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    floor_at_zero = low >= 0 and low - share * (high - low) < 0
    return 0.0 if floor_at_zero else low - share * (high - low), high + share * (high - low)


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers between low and high."""
    raw = (high - low) / most
    power = 10.0 ** floor(log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = -floor(-low / step + 1e-9)
    return [round(n * step, 10) for n in range(first, first + most + 2) if n * step <= high + 1e-9 * step]


def _grid(axes: _Axes, x_label: str, y_label: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    out = []
    for v in _ticks(*axes.y):
        y = round(axes.at((0, v))[1], 1)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
                   f'<text class="tick" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{_number(v)}</text>')
    for v in _ticks(*axes.x):
        if x_label in COUNTED and v != int(v):
            continue
        x = round(axes.at((v, 0))[0], 1)
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        out.append(f'<text class="tick" x="{x}" y="{bottom + 16}" text-anchor="{anchor}">{_number(v)}</text>')
    out.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
               f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
               f"{escape(x_label)}</text>"
               f'<text class="label" transform="translate(11 {(axes.top + bottom) / 2}) rotate(-90)" '
               f'text-anchor="middle">{escape(y_label)}</text>')
    return out


def _legend(series: Sequence[Series]) -> tuple[list[str], float]:
    """The names of two series or more in rows above the plot, and where the plot then begins."""
    if len(series) < 2:
        return [], TOP
    out, x, y = [], float(LEFT), 12.0
    for n, s in enumerate(series):
        width = 30 + LETTER * len(s.label) + 12
        if x + width > WIDTH and x > LEFT:
            x, y = float(LEFT), y + 17
        out.append(f'<line class="line s{n % COLOURS}" stroke-dasharray="{DASHES[n % COLOURS]}" x1="{x}" x2="{x + 22}" '
                   f'y1="{y}" y2="{y}"/><text class="tick" x="{x + 28}" y="{y + 4}">{escape(s.label)}</text>')
        x += width
    return out, y + 14


def _line(axes: _Axes, points: Sequence[Point], n: int, extra: str = "") -> str:
    dash = "" if extra else f' stroke-dasharray="{DASHES[n % COLOURS]}"'
    return f'<polyline class="line s{n % COLOURS} {extra}"{dash} points="{_path(axes, points)}"/>'


def _marker(axes: _Axes, point: Point, n: int, text: str) -> str:
    x, y = (round(v, 1) for v in axes.at(point))
    shape = (f'<circle class="dot s{n % COLOURS}" cx="{x}" cy="{y}" r="4">',
             f'<rect class="dot s{n % COLOURS}" x="{x - 3.5}" y="{y - 3.5}" width="7" height="7">')[n % 2]
    return f"{shape}<title>{escape(text)}</title></{shape[1:].split()[0]}>"


def _path(axes: _Axes, points: Sequence[Point]) -> str:
    return " ".join("{:.1f},{:.1f}".format(*axes.at(p)) for p in points)


def _running_mean(points: Sequence[Point], reach: int) -> list[Point]:
    """Mean of y over `reach` neighbours on both sides, fewer at the ends."""
    total = [0.0]
    for _, y in points:
        total.append(total[-1] + y)
    out = []
    for n, (x, _) in enumerate(points):
        first, end = max(0, n - reach), min(len(points), n + reach + 1)
        out.append((x, (total[end] - total[first]) / (end - first)))
    return out


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}".replace("-", "−")
