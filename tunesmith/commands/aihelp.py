"""`tunesmith revise` and `tunesmith judge`: language models that help people."""

from __future__ import annotations

import argparse

from tunesmith.commands.common import open_shop
from tunesmith.terminal import Terminal


def revise(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import aihelp

    found = aihelp.revise(open_shop(command, terminal), command.settings)
    lines = [f"{found.changed} of {found.drafts} drafts written anew; {found.new} new on the desk {found.desk}, for a "
             "person to review: tunesmith studio"]
    if found.unfinished:
        lines += [f"{found.unfinished} drafts ran into the token limit and are left out: raise --max-tokens"]
    lines += [f'"{name}" broken by {share}' for name, share in found.broken.items()]
    lines += [f"{n} revisions not taken: {why}" for why, n in found.refused.items()]
    lines += [f"critiques without a verdict: {found.unreadable}"] if found.unreadable.value else []
    terminal.result(found.to_dict(), "\n".join(lines))


def judge(command: argparse.Namespace, terminal: Terminal) -> None:
    from tunesmith import aihelp

    found = aihelp.judge(open_shop(command, terminal), command.settings)
    lines = [f"{found.dataset.name}: {found.groups} groups judged by {found.judge}"]
    if found.reliability and found.people:
        known = found.reliability
        lines += [f"agrees with people on {known.raw}, on {known.agreement} once set right for how sure it sounds and "
                  f"for length (two people: {known.people:.1%}); its labels count {known.worth:.2f} of a person's vote",
                  f"against people: kappa {found.people.kappa:.2f}; the longer answer {found.people.longer} more often"]
    else:
        lines += [f"nobody has judged these answers: have people rank some, so that the judge can be held against them "
                  f"(tunesmith studio --groups {command.settings.groups})"]
    lines += [f"train with it: tunesmith reward --comparisons {command.settings.groups} --judged {found.dataset.name}"]
    terminal.result(found.to_dict(), "\n".join(lines))
