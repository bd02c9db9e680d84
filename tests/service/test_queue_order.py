"""Whose verdicts decide which groups are asked first."""

from service_fakes import group

from tunesmith.records import Ranking
from tunesmith.service.figures import _ranked
from tunesmith.store import team
from tunesmith.store.workspace import Workspace


def test_somebody_in_quarantine_has_no_say_in_the_order(workspace, tmp_path):
    """The order is the one of a workspace where eve, who turns everything round, has never been."""
    many = [group(f"Question {n}?", "yes", "no") for n in range(30)]

    def fill(w, *people):
        w.add_groups("s", many)
        w.add_rankings([Ranking(f"{who}{n}", g.id, who, ((1,), (0,)) if who == "eve" else ((0,), (1,)))
                        for n, g in enumerate(many) for who in people])

    fill(workspace, "ann", "bob", "cid", "eve")
    _, heard = _ranked(workspace, "s", 0)
    team.quarantine(workspace, "eve", "the scale upside down", "me")
    ranked, priority = _ranked(workspace, "s", 0)
    with Workspace.open(tmp_path / "other") as other:
        fill(other, "ann", "bob", "cid")
        found = _ranked(other, "s", 0)
    assert priority == found[1] != heard and ranked.first == found[0].first
    assert ranked.first[0][2].startswith("3 labelers")
