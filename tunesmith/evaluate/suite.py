"""What every suite shares: items that are put to a model, a row of findings for each, and what rows say together.

A suite is a list of items, a way to put them to a model, and the figures that its rows give. `run` asks and keeps
each row on disk as it comes, so that a run that was stopped goes on where it was; `section` puts models side by side,
with intervals and paired tests, for the report. Nothing here loads a model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import numpy as np

from tunesmith import statistics
from tunesmith.contracts import Engine, Read, Reader, Sampling
from tunesmith.errors import DataError, UserError
from tunesmith.records import Answer, Conversation
from tunesmith.statistics import Floats, Interval

Row = Mapping[str, Any]
"""What was found at one item: numbers and booleans are figures (None where one does not apply), text is for samples."""


class Columns(dict[str, Floats]):
    """Figures of `rows` rows by key; nan where one does not apply, and everywhere for a key that no row has."""

    def __init__(self, rows: int, found: Mapping[str, Floats]):
        super().__init__(found)
        self.rows = rows

    def __missing__(self, key: str) -> Floats:
        return np.full(self.rows, nan)

    def at(self, places: Any) -> Columns:
        """Some of the rows."""
        return _Some(self, places)


class _Some(Columns):
    """Some rows of other columns, taken when they are asked for: a figure drawn a thousand times reads few of them."""

    def __init__(self, whole: Columns, places: Any):
        super().__init__(len(places), {})
        self._whole, self._places = whole, places

    def __missing__(self, key: str) -> Floats:
        self[key] = found = self._whole[key][self._places]
        return found


RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to put to a model. Items of one `cluster` are no independent evidence (paraphrases, a template's
    variants); a sample takes from every `stratum` its share."""

    id: str
    about: Any
    stratum: str = ""
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a suite says: the mean of the rows' `key`, or `of` all their columns where it is no mean.

    `chance` is what guessing gives and `human` what people reach, None where nobody knows; both are printed beside
    the models.
    """

    key: str
    label: str
    unit: Literal["%", "words", "tokens", "nats", ""] = "%"
    better: Literal["higher", "lower", ""] = "higher"
    help: str = ""
    chance: float | None = None
    human: float | None = None
    headline: bool = False
    of: Callable[[Columns], float] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under test: `engine` writes as its adapter `model` ("" is the bare base); `reader` tells how likely
    texts are, where somebody can."""

    name: str
    engine: Engine
    model: str = ""
    reader: Reader | None = None
    fingerprint: str = ""

    def answers(self, prompts: Sequence[Conversation | str], sampling: Sampling, n: int = 1) -> list[list[Answer]]:
        """n answers to each prompt; plain text is continued without a template."""
        return self.engine.sample(prompts, sampling, n=n, model=self.model)

    def read(self, contexts: Sequence[Conversation | str], texts: Sequence[Sequence[str]], cut: bool = False
             ) -> list[list[Read]]:
        """`contracts.Reader.read` as this model.

        Raises:
            UserError: nobody can tell how likely a text is to it.
        """
        if self.reader is None:
            raise UserError(f"{self.name} only writes: this suite needs the log-probs of given texts")
        return self.reader.read(contexts, texts, model=self.model, cut=cut)


class Suite(Protocol):
    """Items, how to put them to a model, and what the rows mean.

    about: what it measures, in a sentence for people who have never heard of it. source: whose test it is, and under
    which licence the items are. version: changes whenever rows of before would mean something else.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def figures(self) -> tuple[Figure, ...]: ...

    def items(self) -> Sequence[Item]:
        """All of them, in one order."""
        ...

    def measure(self, subject: Subject, items: Sequence[Item]) -> Iterable[Row]:
        """A row for each item, in order, yielded as soon as it is known (a batch at a time)."""
        ...


class Section(TypedDict, total=False):
    """A suite in report.json. `rows`: {"key", "label", "unit", "better", "help", "chance", "human", "headline",
    "measurable", "models": {name: interval}, "changes": [{"model", "baseline", "difference": interval, "p"}]}."""

    name: str
    title: str
    about: str
    source: str
    items: int
    of: int
    rows: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    notes: list[str]


def sample(items: Sequence[Item], count: int, seed: int = 0) -> list[Item]:
    """About `count` items, from every stratum its share, the same ones whoever asks; 0: all of them. A small stratum
    gives at least one, and half of what it would if all were of one size: the rare kind must be seen too.

    A larger sample holds the smaller one, so that more can be asked later and nothing is asked twice.
    """
    if not count or count >= len(items):
        return list(items)
    strata: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        strata[item.stratum].append(item)
    chosen: set[str] = set()
    for found in strata.values():
        share = max(1, round(count * len(found) / len(items)), count // (2 * len(strata)))
        chosen |= {i.id for i in sorted(found, key=lambda i: _drawn(seed, i.cluster or i.id, i.id))[:share]}
    return [i for i in items if i.id in chosen]


def run(suite: Suite, subject: Subject, items: Sequence[Item], kept: Path | None = None,
        progress: Callable[[int], None] | None = None) -> list[Row]:
    """A row for each item. Rows that `kept` holds of this very model and suite are taken from there, new ones added.

    Raises:
        DataError: the suite gave too few rows, or two items have one id.
    """
    if twice := [i for i, n in Counter(i.id for i in items).items() if n > 1]:
        raise DataError(f'{suite.name}: two items are called "{twice[0]}"')
    known = _known(kept, suite, subject)
    missing = [i for i in items if i.id not in known]
    if progress:
        progress(len(items) - len(missing))
    if missing:
        rows = iter(suite.measure(subject, missing))
        with _writer(kept, suite, subject, fresh=not known) as write:
            for item in missing:
                row = next(rows, None)
                if row is None:
                    raise DataError(f'{suite.name} gave no row for the item "{item.id}"')
                known[item.id] = dict(row)
                write(item.id, row)
                if progress:
                    progress(1)
    return [known[i.id] for i in items]


def columns(rows: Sequence[Row]) -> Columns:
    """The rows' figures."""
    keys = dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, bool | int | float))
    return Columns(len(rows), {key: np.array([nan if (v := row.get(key)) is None else float(v) for row in rows])
                               for key in keys})


def interval(figure: Figure, rows: Sequence[Row], clusters: Sequence[str] = (), seed: int = 0) -> Interval:
    """The figure with its 95% interval: bootstrap over clusters, Wilson's for shares of independent items."""
    found = columns(rows)
    if figure.of is None:
        x, groups = _applying(found[figure.key], clusters)
        if len(set(groups)) == len(groups):
            return statistics.mean_interval(x, seed=seed)
        return statistics.bootstrap_ratio(*_sums(x, groups), seed=seed)
    draws = np.array([figure.of(found.at(places)) for places in _drawn_items(len(rows), clusters, seed)])
    draws = draws[~np.isnan(draws)]
    ends = np.quantile(draws, [0.025, 0.975]) if draws.size else (nan, nan)
    return Interval(figure.of(found), float(ends[0]), float(ends[1]), len(rows))


def change(figure: Figure, rows: Sequence[Row], baseline: Sequence[Row], clusters: Sequence[str] = (), seed: int = 0
           ) -> tuple[Interval, float]:
    """Paired difference of a figure between two models on the same items, and the p-value of "there is none".

    The p-value is that of flipping signs at random, cluster by cluster (for a share: McNemar's test); of figures
    that are no means, twice the share of resamples beyond 0.
    """
    a, b = columns(rows), columns(baseline)
    if figure.of is None:
        x, groups = _applying(a[figure.key] - b[figure.key], clusters)
        sums, counts = _sums(x, groups)
        return statistics.bootstrap_ratio(sums, counts, seed=seed), statistics.sign_flip(sums, seed=seed)
    of = figure.of
    draws = np.array([of(a.at(places)) - of(b.at(places)) for places in _drawn_items(len(rows), clusters, seed)])
    draws = draws[~np.isnan(draws)]
    value = of(a) - of(b)
    if not draws.size or isnan(value):
        return Interval(value, nan, nan, len(rows)), 1.0
    low, high = np.quantile(draws, [0.025, 0.975])
    beyond = min((draws <= 0).mean(), (draws >= 0).mean())
    return Interval(value, float(low), float(high), len(rows)), float(min(1.0, 2 * max(beyond, 1 / draws.size)))


def section(suite: Suite, items: Sequence[Item], rows_by_model: Mapping[str, Sequence[Row]], *, samples: int = 3,
            notes: Iterable[str] = (), seed: int = 0) -> Section:
    """The suite as the report shows it: models in training order, each compared with all before it.

    A figure whose models all lie at chance says nothing about them: it is marked as not measurable at this size.
    """
    models, clusters = list(rows_by_model), [i.cluster or i.id for i in items]
    told = []
    for f in suite.figures:
        found = {m: interval(f, rows, clusters, seed) for m, rows in rows_by_model.items()}
        if all(isnan(i.value) for i in found.values()):
            continue
        changes = []
        for n, m in reversed(list(enumerate(models))):
            for other in reversed(models[:n]):
                difference, p = change(f, rows_by_model[m], rows_by_model[other], clusters, seed)
                changes.append({"model": m, "baseline": other, "difference": difference.to_dict(), "p": p})
        measurable = f.chance is None or not all(i.low <= f.chance <= i.high for i in found.values())
        told.append({**{k: v for k, v in asdict(f).items() if k != "of"}, "measurable": measurable,
                     "models": {m: i.to_dict() for m, i in found.items()}, "changes": changes})
    shown = sorted(range(len(items)), key=lambda n: _drawn(seed, "shown", items[n].id))[:samples]
    return {"name": suite.name, "title": suite.title, "about": suite.about, "source": suite.source,
            "items": len(items), "of": len(suite.items()), "rows": told, "notes": list(notes), "samples": [
                {"item": items[n].id, "stratum": items[n].stratum,
                 "answers": {m: {k: v for k, v in rows[n].items() if isinstance(v, str)}
                             for m, rows in rows_by_model.items()}} for n in sorted(shown)]}


def _drawn(seed: int, *parts: str) -> str:
    return hashlib.sha256("\0".join((str(seed), *parts)).encode()).hexdigest()


def _applying(x: Floats, clusters: Sequence[str]) -> tuple[Floats, list[str]]:
    """The values that are there, with their clusters."""
    applies = ~np.isnan(x)
    names = clusters or [str(n) for n in range(len(x))]
    return x[applies], [names[int(n)] for n in np.flatnonzero(applies)]


def _sums(x: Floats, clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and number of the values of each cluster."""
    _, at = np.unique(np.array(clusters), return_inverse=True)
    return np.bincount(at, x).astype(float), np.bincount(at).astype(float)


def _drawn_items(count: int, clusters: Sequence[str], seed: int) -> Iterable[Any]:
    """Items of clusters drawn with replacement, `RESAMPLES` times."""
    names = np.array(clusters or [str(n) for n in range(count)])
    _, at = np.unique(names, return_inverse=True)
    order = np.argsort(at, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(at))[:-1])
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        yield np.concatenate([members[c] for c in rng.integers(0, len(members), len(members))])


def _header(suite: Suite, subject: Subject) -> dict[str, str]:
    return {"suite": suite.name, "version": suite.version, "model": subject.name, "fingerprint": subject.fingerprint}


def _known(kept: Path | None, suite: Suite, subject: Subject) -> dict[str, Row]:
    """Rows of an earlier run of the same suite on the same model; none of any other, and no half-written one."""
    if kept is None or not kept.exists():
        return {}
    first, *lines = kept.read_text(encoding="utf-8").split("\n")
    with_end = lines[:-1]  # what comes behind the last line end was cut off
    try:
        if json.loads(first) != _header(suite, subject):
            return {}
        return {entry["item"]: entry["row"] for entry in map(json.loads, with_end)}
    except (ValueError, KeyError, TypeError):
        return {}


@contextmanager
def _writer(path: Path | None, suite: Suite, subject: Subject, fresh: bool) -> Iterator[Callable[[str, Row], None]]:
    """Appends rows to a file, a line each, flushed as they come; without a path it drops them."""
    if path is None:
        yield lambda item, row: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if fresh:
        path.write_text(json.dumps(_header(suite, subject)) + "\n", encoding="utf-8")
    else:  # go on behind the last whole line
        whole = path.read_bytes()
        path.write_bytes(whole[:whole.rfind(b"\n") + 1])
    with path.open("a", encoding="utf-8") as file:
        def write(item: str, row: Row) -> None:
            file.write(json.dumps({"item": item, "row": row}, ensure_ascii=False) + "\n")
            file.flush()

        yield write
