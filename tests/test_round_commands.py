"""What the command line says of rounds that ended."""

from tunesmith.cli import main
from tunesmith.store import loops
from tunesmith.store.workspace import Workspace


def test_a_round_that_was_taken_back_is_not_what_the_loop_serves(tmp_path, capsys):
    def shown():
        assert main(["--workspace", str(tmp_path / "ws"), "round", "show", "shop"]) == 0
        return capsys.readouterr().out

    with Workspace.open(tmp_path / "ws") as workspace:
        found = loops.record(workspace, loops.begin(workspace, "shop", "start@1", {}), "ppo", {"adapter": "cand@1"})
        loops.adopt(workspace, found, "me")
        assert "shop is cand@1 from now on" in shown()
        loops.roll_back(workspace, "shop", "me")
        after = shown()
    assert "cand@1 was taken back: shop is start@1 now" in after and "from now on" not in after
