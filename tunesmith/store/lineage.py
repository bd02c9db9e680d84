"""Which code made a thing: the package version, and the git commit when it runs from a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import tunesmith


@cache
def code_version() -> str:
    """`0.1.0` or `0.1.0+git.e173c35d0f21`."""
    commit = git_commit(Path(tunesmith.__file__).resolve().parents[1])
    return f"{tunesmith.__version__}+git.{commit[:12]}" if commit else tunesmith.__version__


def git_commit(folder: Path) -> str:
    """The commit checked out in `folder`, read from its .git without running git; empty if there is none."""
    try:
        git = folder / ".git"
        if git.is_file():
            git = folder / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        ref = head.removeprefix("ref:").strip()
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        for place in (git, common):
            if (place / ref).is_file():
                return (place / ref).read_text().strip()
        packed = (common / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {ref}")), "")
    except (OSError, ValueError):
        return ""
