"""What the worked examples' data have in common: flags, rows as JSON Lines, and people who write before they split.

Every generator is one function `make(rng, size) -> {file name: rows or text}`. Everything it writes is invented.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Files = Mapping[str, Sequence[Row] | str]


def run(about: str | None, make: Callable[[random.Random, Callable[[int], int]], Files]) -> None:
    """Write what `make` gives into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a few rows of each: to see that the commands work")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    files = make(random.Random(args.seed), lambda rows: min(rows, 12) if args.small else rows)
    for name, content in files.items():
        path = args.folder / name
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(text, encoding="utf-8")
        print(f"{path}: {'text' if isinstance(content, str) else f'{len(content)} rows'}")


def demonstration(asked: str, answer: str) -> Row:
    """A question with the answer to learn."""
    return {"messages": [said("user", asked), said("assistant", answer)]}


def prompt(asked: str, domain: str, **facts: Any) -> Row:
    """A question that waits for an answer; a rubric reads `facts`, models never see them."""
    return {"messages": [said("user", asked)], "domain": domain, "facts": facts}


def said(role: str, content: str) -> Row:
    return {"role": role, "content": content}


def unlike(draw: Callable[[], tuple[str, Any]], count: int, seen: set[str]) -> list[tuple[str, Any]]:
    """`count` draws whose texts differ from each other and from all in `seen`, which grows by them.

    Raises:
        ValueError: after a thousand draws in a row nothing new came.
    """
    found: list[tuple[str, Any]] = []
    tries = 0
    while len(found) < count:
        text, rest = draw()
        tries = 0 if text not in seen else tries + 1
        if tries > 1000:
            raise ValueError(f"only {len(found)} of {count} different texts could be drawn")
        if text not in seen:
            seen.add(text)
            found.append((text, rest))
    return found
