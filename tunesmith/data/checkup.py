"""What the figures of a data set mean: sentences with what to do, and the sections of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.data.health import FOREIGN, MANY_DUPLICATES, MUCH_NOISE, MUCH_TOXIC, TOXIC, UNCOVERED, Health
from tunesmith.data.topics import Topics
from tunesmith.statistics import Interval

Sentence = dict[str, str]
Section = dict[str, Any]


def verdict(health: Health) -> list[Sentence]:
    """Plain sentences, the headline first: what is wrong for sure, then what is fine."""
    said = list(_said(health))
    wrong = [s for s in said if s["tone"] == "watch"]
    head = (f"{health.name}: {len(wrong)} of {len(said)} looks found something to mend." if wrong else
            f"{health.name}: nothing to mend in {len(said)} looks.")
    return [{"text": head, "tone": "watch" if wrong else "better"}, *wrong, *(s for s in said if s not in wrong)]


def _said(health: Health) -> Iterator[Sentence]:
    f, name = health.figures, health.name
    twins = f["duplicates"]
    both = twins["exact"].value + twins["near"].value
    yield _one(both > MANY_DUPLICATES, f"{both:.1%} of the rows repeat another one "
               f"({twins['exact'].value:.1%} word for word)", f"tunesmith data dedupe {name}")
    if "leakage" in f:
        leaked = sum(e["leaked"] for e in f["leakage"]["evaluations"].values())
        yield _one(leaked > 0, f"{leaked} evaluation items stand in {f['leakage']['leaky']} of its rows",
                   f"tunesmith data decontaminate {name}")
    if "private" in f:
        share = f["private"]["rows"]
        yield _one(share.value > 0, f"{share:.2%} of the rows hold what looks like personal data",
                   "look at the kinds below, and scrub them where they come from")
    if "languages" in f:
        main, *others = [(k, i) for k, i in f["languages"].items() if k != "unclear"] or [("unclear", None)]
        strange = max((i.low for _, i in others), default=0.0)
        alien = f"{len(others)} other language{'' if len(others) == 1 else 's'}"
        yield _one(strange > FOREIGN, f"most of it is {main[0]}; of {alien} there are traces" if others else
                   f"all of it is {main[0]}", "keep only what your users speak")
    if "toxicity" in f:
        worst = f["toxicity"]["answers"] if f["toxicity"]["answers"].n else f["toxicity"]["questions"]
        yield _one(worst.low > MUCH_TOXIC, f"{worst} of its answers are toxic to the classifier",
                   "review these before training")
    if "labels" in f:
        share = f["labels"]["share"]
        if f["labels"].get("trusted", True):
            yield _one(share.low > MUCH_NOISE, f"about {share} of the labels are wrong",
                       "have the suspects looked at again; more of the same will not help")
        else:
            yield _one(False, "how many labels are wrong cannot be told: a classifier agrees with only "
                       f"{f['labels']['classifier']} of them", "")
    if "topics" in f and f["topics"].uncovered:
        share = f["topics"].uncovered
        yield _one(share.low > UNCOVERED, f"{share} of what people ask is unlike anything in it (5% would be usual)",
                   "collect demonstrations for the topics below that people ask more about")


def _one(wrong: bool, text: str, cure: str) -> Sentence:
    text = text[0].upper() + text[1:]
    return {"text": f"{text}: {cure}." if wrong else f"{text}.", "tone": "watch" if wrong else "info"}


def sections(health: Health) -> list[Section]:
    """The tables and plots of the report, as `evaluate.page` draws them."""
    return [s for s in (_lengths(health), _duplicates(health), _private(health), _leakage(health), _languages(health),
                        _toxicity(health), _labels(health), _topics(health)) if s]


def to_json(value: Any) -> Any:
    """Figures as report.json keeps them."""
    if isinstance(value, Interval):
        return value.to_dict()
    if isinstance(value, Topics):
        return {"topics": [{"words": list(t.words), "share": t.share, "reference": t.reference} for t in value.topics],
                "uncovered": to_json(value.uncovered)}
    if isinstance(value, Mapping):
        return {k: to_json(v) for k, v in value.items()}
    return [to_json(v) for v in value] if isinstance(value, list | tuple) else value


def _section(title: str, note: str, head: list[str], rows: list[list[Any]], **more: Any) -> Section:
    return {"title": title, "note": note, "tables": [{"title": title, "head": head, "rows": rows}], **more}


def _lengths(health: Health) -> Section:
    found = health.figures["lengths"]
    quantiles = list(next(iter(found.values()), {}))
    return _section("Length", "Words, by the share of rows that have at most so many.", ["", *quantiles],
                    [[what, *row.values()] for what, row in found.items()])


def _duplicates(health: Health) -> Section:
    found = health.figures["duplicates"]
    return _section("Duplicates", f"Nearly: {found['threshold']:.0%} of the runs of five words are the same.",
                    ["", "Share of rows"], [["word for word", str(found["exact"])], ["nearly", str(found["near"])]])


def _private(health: Health) -> Section | None:
    if "private" not in (f := health.figures):
        return None
    kinds = sorted(f["private"]["kinds"].items(), key=lambda x: -x[1]) or [("none", 0)]
    return _section("Personal data", "By rules and checksums; names of people are not looked for.", ["Kind", "Rows"],
                    [list(k) for k in kinds])


def _leakage(health: Health) -> Section | None:
    if "leakage" not in (f := health.figures):
        return None
    rows = [[name, e["items"], e["leaked"], f"{e['share']['value']:.1%} [{e['share']['low'] * 100:.1f}, "
             f"{e['share']['high'] * 100:.1f}]", e["too_short"]] for name, e in f["leakage"]["evaluations"].items()]
    return _section("Evaluations that leak", "An item leaks through a row that holds most of its runs of words.",
                    ["Evaluation", "Items", "Found in the data", "Share", "Too short to look for"], rows)


def _languages(health: Health) -> Section | None:
    if "languages" not in (f := health.figures):
        return None
    shown = list(f["languages"].items())[:8]
    return _section("Language", "Of whole rows in the sample, by py3langid.", ["Language", "Share of rows"],
                    [[language, str(i)] for language, i in shown], figures=[_bars("Languages", dict(shown))])


def _toxicity(health: Health) -> Section | None:
    if "toxicity" not in (f := health.figures):
        return None
    return _section("Toxicity", f"Texts that the classifier gives {TOXIC:.0%} or more; docs/toxicity_card.md says "
                    "where it is wrong.", ["", "Toxic"], [[what, str(i)] for what, i in f["toxicity"].items() if i.n])


def _labels(health: Health) -> Section | None:
    if "labels" not in (f := health.figures):
        return None
    found = f["labels"]
    rows = [["wrong labels, estimated", str(found["share"])]]
    if "classifier" in found:
        rows += [["classifier that judged agrees with the labels", str(found["classifier"])],
                 ["labels", found["labels"]]]
    section = _section("Wrong labels", f"By {found['how']}.", ["", ""], rows)
    if found.get("suspects"):
        section["tables"].append({"title": "Labels that may be meant for others", "head": ["Given", "Likelier", "Rows"],
                                  "rows": found["suspects"]})
    return section


def _topics(health: Health) -> Section | None:
    if "topics" not in (f := health.figures):
        return None
    rows = [[", ".join(t.words), f"{t.share:.1%}", *([f"{t.reference:.1%}"] if t.reference is not None else [])]
            for t in f["topics"].topics]
    asked = ["Of what people ask"] if f["topics"].uncovered else []
    return _section("Topics", "Groups of questions by the words that set them apart.", ["Topic", "Of the data", *asked],
                    rows)


def _bars(title: str, shares: Mapping[str, Interval]) -> dict[str, Any]:
    return {"kind": "intervals", "title": title, "caption": "", "rows": [
        {"label": label, **i.to_dict()} for label, i in shares.items()]}
