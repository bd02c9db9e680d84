"""The simplest summary: the first two sentences of a thread's newest mail, held against the rubric.

    python examples/cases/lead.py emails
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from tunesmith.evaluate import rubric
from tunesmith.records import Prompt
from tunesmith.statistics import wilson


def lead(prompt: Prompt) -> str:
    """The newest mails' first two sentences: the last one is often only "Will do." """
    mails = [line.split(": ", 1)[1] for line in prompt.messages[-1].content.splitlines() if " to " in line]
    sentences = re.findall(r"[^.!?]+[.!?]", " ".join(mails[-2:]))
    return "".join(sentences[:2]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="what email_summaries.py wrote")
    parser.add_argument("--seed", type=int, default=0, help="changes nothing: there is nothing to draw")
    folder = parser.parse_args().folder
    rules = rubric.parse(folder / "rubric.toml")
    lines = (folder / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [Prompt.from_dict(json.loads(line)) for line in lines]
    kept = [rules.kept(p, lead(p)) for p in prompts]
    for name in kept[0]:
        found = [row[name] for row in kept if row[name] is not None]
        print(f"{name}: {wilson(sum(found), len(found))}")


if __name__ == "__main__":
    main()
