"""Trains the built-in toxicity classifier and measures it on what it did not see.

    python -m tunesmith.evaluate.train_toxicity --data DIR --out tunesmith/evaluate/toxicity.safetensors \
        --figures docs/results/toxicity.json

What it learns from, all under open licences: tweets with the votes of annotators (Davidson et al. 2017, MIT), replies
from DiaSafety that insult or are biased, against safe ones (Sun et al. 2022, Apache-2.0), sentence halves from
RealToxicityPrompts with their scores (Gehman et al. 2020, Apache-2.0), statements from ToxiGen's seeds (Hartvigsen et
al. 2022, MIT), and neutral sentences about groups of people that are written here, so that naming a group alone says
little (the cure of Dixon et al. 2018). The identity templates that measure this (CC BY 4.0) are never learned from.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit

from tunesmith import statistics
from tunesmith.evaluate.toxicity import BUCKETS, GROUPS, TOXIC, Toxicity, features
from tunesmith.statistics import Floats, Interval

NEUTRAL = ("I am {}.", "my friend is {} and works at the library", "Our new colleague is {}.",
           "{} people live here too.", "she is proud to be {}", "The {} community met on Sunday to sing.",
           "he is {}, and so is his sister",
           "Are you {}?", "A {} woman opened the shop next door.", "being {} is part of who I am",
           "the {} man thanked the nurse", "We read a book by a {} author.")
"""Neutral sentences about people, ours."""
UNSAFE = ("Offending User", "Biased Opinion")
"""Kinds of DiaSafety whose unsafe replies are toxic by themselves; of the others only the safe replies are used."""
HELD_OUT = 5
"""One in five of what has no split of its own."""
STRENGTHS = (0.1, 0.3, 1.0, 3.0)
"""Penalties that are tried: λ of λ/2 |w|² beside the summed loss."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text, its probability of being toxic as people or their stand-in said, where it is from, and for what."""

    text: str
    toxic: float
    source: str
    held_out: bool = False
    weight: float = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("TUNESMITH_DATA")
    parser.add_argument("--data", type=Path, default=data, required=data is None, help="folder with the open sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figures", type=Path, help="where to write what was measured, as JSON")
    parser.add_argument("--without-neutral", action="store_true", help="leave our neutral sentences out, to compare")
    chosen = parser.parse_args()
    texts = [t for t in read(chosen.data) if not (chosen.without_neutral and t.source == "neutral")]
    model = train([t for t in texts if not t.held_out])
    model.save(chosen.out)
    found = measure(model, [t for t in texts if t.held_out])
    print(json.dumps(found, indent=1))
    if chosen.figures:
        chosen.figures.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def read(data: Path) -> Iterator[Text]:
    """All texts; equal ones are on one side."""
    for row in _rows(data / "evaluations/hate_offensive_tweets.jsonl.gz"):
        toxic = (row["hate_speech"] + row["offensive_language"]) / row["count"]
        yield Text(row["text"], toxic, "tweets", row["split"] != "train")
    for row in _rows(data / "evaluations/diasafety.jsonl.gz"):
        unsafe = row["label"] == "Unsafe"
        if not unsafe or row["category"] in UNSAFE:
            yield Text(row["response"], float(unsafe), "diasafety", row["split"] != "train")
    for row in _rows(data / "evaluations/real_toxicity_prompts.jsonl.gz"):
        held = drawn(row["prompt"])
        for part in ("prompt", "continuation"):
            if (score := row[f"{part}_scores"].get("toxicity")) is not None:
                yield Text(row[part], score, "realtoxicity", held)
    for row in _rows(data / "evaluations/toxigen_statements.jsonl.gz"):
        yield Text(row["text"], float(row["label"] == "hate"), "toxigen", drawn(row["text"]), 2.0)
    for row in _rows(data / "evaluations/identity_madlibs.jsonl.gz"):
        yield Text(row["text"], float(row["label"] == "BAD"), "madlibs", True)
    for group in GROUPS:
        for sentence in NEUTRAL:
            yield Text(sentence.format(group), 0.0, "neutral", weight=3.0)


def drawn(text: str) -> bool:
    """One text in `HELD_OUT`, the same ones every time."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % HELD_OUT == 0


def train(texts: Sequence[Text]) -> Toxicity:
    """Logistic regression with soft targets. A tenth of the training texts chooses the penalty and calibrates: the
    logits are scaled and shifted to its labels (Platt 1999)."""
    x, y, weight = matrix([t.text for t in texts]), _toxic(texts), np.array([t.weight for t in texts])
    inner = np.array([int(hashlib.sha256(b"tune" + t.text.encode()).hexdigest(), 16) % 10 == 0 for t in texts])
    fits = {s: fit(x[~inner], y[~inner], weight[~inner], s) for s in STRENGTHS}
    losses = {s: loss(x[inner] @ w + b, y[inner]) for s, (w, b) in fits.items()}
    best = min(losses, key=lambda s: losses[s])
    print(f"penalty: {', '.join(f'{s:g} {v:.4f}' for s, v in losses.items())}; {best:g}")
    w, b = fits[best]
    slope, shift = platt(x[inner] @ w + b, y[inner])
    scale = float(np.abs(w).max()) / 127
    return Toxicity(np.round(w / scale).astype(np.int8), slope * scale, slope * b + shift)


def matrix(texts: Sequence[str]) -> csr_array:
    """Rows of unit length, [N, BUCKETS]."""
    found = [features(t) for t in texts]
    sizes = np.array([len(f) for f in found])
    values = np.repeat(1 / np.sqrt(np.maximum(1, sizes)), sizes).astype(np.float32)
    return csr_array((values, np.concatenate(found), np.concatenate([[0], np.cumsum(sizes)])),
                     shape=(len(texts), BUCKETS))


def fit(x: csr_array, y: Floats, weight: Floats, strength: float) -> tuple[Floats, float]:
    """Weights and bias with the least Σ weight · cross-entropy + strength/2 |w|²."""
    used = np.unique(x.indices)  # the other weights stay 0
    x = x[:, used]
    transposed = x.T.tocsr()

    def value(v: Floats) -> tuple[float, Floats]:
        z = x @ v[:-1] + v[-1]
        error = weight * (expit(z) - y)
        total = float((weight * (np.logaddexp(0, z) - y * z)).sum() + strength / 2 * (v[:-1] @ v[:-1]))
        return total, np.append(transposed @ error + strength * v[:-1], error.sum())

    found = minimize(value, np.zeros(used.size + 1), jac=True, method="L-BFGS-B", options={"maxiter": 150}).x
    weights = np.zeros(BUCKETS)
    weights[used] = found[:-1]
    return weights, float(found[-1])


def platt(z: Floats, y: Floats) -> tuple[float, float]:
    """Slope and shift of the logits with the least cross-entropy."""
    found = minimize(lambda v: loss(v[0] * z + v[1], y), np.array([1.0, 0.0]), method="Nelder-Mead").x
    return float(found[0]), float(found[1])


def loss(z: Floats, y: Floats) -> float:
    """Mean cross-entropy of logits against soft labels."""
    return float((np.logaddexp(0, z) - y * z).mean())


def measure(model: Toxicity, texts: Sequence[Text]) -> dict[str, Any]:
    """AUC and calibration by source, and what goes wrong by group on the identity templates."""
    found: dict[str, Any] = {}
    for source in dict.fromkeys(t.source for t in texts):
        part = [t for t in texts if t.source == source]
        p, y = np.array(model.probability([t.text for t in part])), _toxic(part)
        found[source] = {"texts": len(part), "toxic": float((y >= TOXIC).mean()), **_figures(p, y)}
    madlibs = [t for t in texts if t.source == "madlibs"]
    p, y = np.array(model.probability([t.text for t in madlibs])), _toxic(madlibs)
    found["groups"] = {}
    for group in GROUPS:
        of = np.array([f" {group} " in f" {t.text.lower()} " for t in madlibs], dtype=bool)
        if (bad := of & (y == 1)).sum() >= 20 and (good := of & (y == 0)).sum() >= 20:
            found["groups"][group] = {
                "auc": statistics.auc(p[of], y[of]),
                "false alarms": statistics.wilson(float((p[good] >= TOXIC).sum()), int(good.sum())).to_dict(),
                "missed": statistics.wilson(float((p[bad] < TOXIC).sum()), int(bad.sum())).to_dict()}
    return found


def _figures(p: Floats, y: Floats) -> dict[str, Any]:
    """AUC with a bootstrap interval over texts, Brier score, calibration, and errors at the threshold."""
    toxic = y >= TOXIC
    rng = np.random.default_rng(0)
    draws = [statistics.auc(p[i], toxic[i]) for i in rng.integers(0, len(p), (1000, len(p)))]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    calibrated = statistics.calibration(p, y)
    bins = [{"predicted": b.predicted, "observed": b.observed.to_dict()} for b in calibrated.bins]
    return {"auc": Interval(statistics.auc(p, toxic), float(low), float(high), len(p)).to_dict(),
            "ece": calibrated.ece, "brier": calibrated.brier, "bins": bins,
            "false alarms": statistics.wilson(float((p[~toxic] >= TOXIC).sum()), int((~toxic).sum())).to_dict(),
            "missed": statistics.wilson(float((p[toxic] < TOXIC).sum()), int(toxic.sum())).to_dict()}


def _toxic(texts: Sequence[Text]) -> Floats:
    return np.array([t.toxic for t in texts], dtype=np.float64)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()
