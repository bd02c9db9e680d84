"""Simulated labelers rank a set of answers by a written rubric: they stand in for the people of a worked example.

    python examples/cases/panel.py answers --rubric lender/rubric.toml

Each sees the rubric's score through noise of their own, so that two of them agree on 73% of the pairs, as often as
people do. Their rankings are marked simulated. Groups that somebody has ranked are left alone.
"""

from __future__ import annotations

import argparse
import os
import sys

from tunesmith.errors import TunesmithError
from tunesmith.evaluate import rubric
from tunesmith.evaluate.checklist import RubricJudge
from tunesmith.feedback import simulated
from tunesmith.store.workspace import Workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", help="a set of answers in the workspace")
    parser.add_argument("--rubric", required=True, help="what they judge by; rules only, no questions")
    parser.add_argument("--labelers", type=int, default=5)
    parser.add_argument("--each", type=int, default=2, help="labelers on each group")
    parser.add_argument("--workspace", default=os.environ.get("TUNESMITH_WORKSPACE", "workspace"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    judge = RubricJudge(rubric.parse(args.rubric))
    with Workspace.open(args.workspace) as workspace:
        done = {ranking.group for ranking in workspace.rankings(args.set)}
        groups = [group for group in workspace.groups(args.set) if group.id not in done]
        scores = [judge.score(g.prompt, [a.text for a in g.answers]) for g in groups]
        panel = simulated.panel(args.labelers, scores)
        rankings = list(simulated.judge(groups, judge, panel, per_group=args.each, seed=args.seed))
        workspace.add_rankings(rankings)
    print(f"{len(rankings)} simulated rankings of {len(groups)} groups in {args.set}")


if __name__ == "__main__":
    try:
        main()
    except TunesmithError as error:
        sys.exit(f"{error}")
