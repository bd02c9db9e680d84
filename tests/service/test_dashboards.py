import subprocess
import sys

import pytest

from tunesmith.service import charts
from tunesmith.service.dashboards import nodes, plots


def test_runs_and_models(client, workspace):
    run = workspace.start_run("sft", {"lr": 0.1}, 0, {})
    run.log(1, {"loss": 3.0})
    run.log(2, {"loss": 2.25})
    page = client.get("/runs").text
    assert run.id in page and "running" in page and "2.25" in page and "3.0" not in page
    page = client.get("/adapters").text
    assert "tone@2" in page and "judge@1" in page and "tiny" in page


def test_a_run_has_curves_settings_and_what_happened(client, workspace):
    run = workspace.start_run("sft", {"adapter": {"rank": 8}, "data": "<b>demos</b>"}, 3, {"demos": "abc"})
    page = client.get(f"/runs/{run.id}").text
    assert "No curves yet" in page and "running" in page and "data-pending" in page
    for step in range(1, 6):
        run.log(step, {"loss": 3.0 / step, "held_out_loss": 3.5 / step, "lr": 1e-3, "note": "text", "odd": None})
    page = client.get(f"/runs/{run.id}").text
    assert page.count("<figure>") == 2 and "0.6 training, 0.7 held out" in page  # loss with held-out loss, lr
    assert "adapter.rank" in page and "&lt;b&gt;demos&lt;/b&gt;" in page and "<b>demos" not in page
    run.finish("finished", {"loss": 0.6})
    page = client.get(f"/runs/{run.id}").text
    assert "data-pending" not in page and "finished" in page and "What happened" in page
    assert client.get("/runs/sft-20200101").status_code == 404


def test_alarms_stand_on_top_while_a_run_goes_on_and_once_each(client, workspace):
    run = workspace.start_run("ppo", {}, 0, {})
    assert 'id="alarms"' not in client.get(f"/runs/{run.id}").text
    for step, text in ((4, "answers with one same opening (<i>thanks</i>): 90%"), (7, "gold fell"), (7, "gold fell")):
        run.event("alarm", step=step, text=text)  # the last one twice: its step was made again after a kill
    page = client.get(f"/runs/{run.id}").text
    top = page[page.index('id="alarms"'):page.index("</ul>", page.index('id="alarms"'))]
    assert "2 alarms" in top and top.count("gold fell") == 1 and "After update 4" in top
    assert "&lt;i&gt;thanks" in top and "<i>" not in top


def test_a_run_whose_process_is_gone_is_lost(client, workspace):
    run = workspace.start_run("ppo", {}, 0, {})
    run.release()
    page = client.get(f"/runs/{run.id}").text
    assert "lost" in page and f"tunesmith runs resume {run.id}" in page and "data-pending" not in page
    assert "lost" in client.get("/runs").text


def test_programs_follow_a_run(client, workspace):
    run = workspace.start_run("sft", {}, 0, {})
    for step in (1, 2, 3):
        run.log(step, {"loss": step})
    answer = client.get(f"/api/runs/{run.id}?after=1").json()
    assert answer["status"] == "running" and [m["step"] for m in answer["metrics"]] == [2, 3]
    assert client.get("/api/runs/none").json()["error"]["code"] == "not_found"


def test_long_runs_are_thinned_and_keep_their_last_point():
    steps = range(1, 100_001)
    found = plots({"loss": (steps, [1.0] * len(steps)), "kl": (steps, steps), "once": ([1], [2.0])})
    assert [c["title"] for c in found] == ["loss", "kl"] and found[1]["last"] == "1e+05"
    assert len(found[1]["svg"]) < 20_000


@pytest.fixture
def family(workspace):
    """tone@3 from tone@2, judge@2 from tone@3, polite@1 from both; other@1 from nothing of it."""
    def make(name, role="policy", **parents):
        return str(workspace.publish_adapter(name, role, {"spec": "tiny", "hash": "0"},
                                             lambda f: (f / "adapter_config.json").write_text("{}") and None,
                                             {"parents": parents, "run": f"{name}-run", "cost": {"kwh": 0.25}}))

    make("tone", model="tone@2")
    make("judge", "reward", model="tone@3")
    make("polite", policy="tone@3", reward="judge@2")
    make("other")


def test_the_lineage_is_a_graph(client, workspace, family):
    page = client.get("/adapters").text
    assert page.count('class="box-of') == 8 and page.count('href="/adapters/polite%401"') >= 1
    places = charts._places(nodes(workspace.adapters()))
    column = {key: place[0] for key, place in places.items()}
    assert column["base tiny"] < column["tone@2"] < column["tone@3"] < column["judge@2"] < column["polite@1"]
    assert len(set(places.values())) == len(places)  # nothing lies on another, lines through columns included
    assert ("tone@3", "polite@1", column["judge@2"]) in places
    page = client.get("/adapters/polite").text
    assert "tone@3" in page and "kwh" in page and "0.25" in page and "other@1" not in page and "judge@1" not in page
    page = client.get("/adapters/tone@3").text
    assert "polite@1" in page and "box-of policy chosen" in page
    assert client.get("/adapters/tonne").status_code == client.get("/adapters/tone@9").status_code == 404


def test_a_circle_or_a_lost_parent_does_no_harm():
    made_from = [("a", ("b",)), ("b", ("a",)), ("<c>", ("gone",))]
    found = charts.graph([charts.Node(name, name, "", "policy", "", parents) for name, parents in made_from], "t")
    assert found.count("box-of") == 3 and "<c>" not in found


def test_reports_are_listed(client, workspace):
    assert "No reports yet" in client.get("/reports").text
    (workspace.root / "reports" / "week-1").mkdir(parents=True)
    (workspace.root / "reports" / "week-1" / "report.html").write_text("<h1>Better</h1>")
    assert "/reports/week-1" in client.get("/reports").text


@pytest.mark.parametrize("path", ["/runs", "/adapters", "/reports", "/adapters/tone", "/runs/x", "/api/runs/x"])
def test_labelers_see_no_figures(client_as, path):
    assert client_as("labeler").get(path).status_code == 403
    assert client_as("viewer").get(path).status_code in (200, 404)


def test_reports_are_shown_in_a_sandbox(client, workspace):
    folder = workspace.root / "reports" / "week-1"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<h1>Better</h1>")
    answer = client.get("/reports/week-1")
    assert answer.text == "<h1>Better</h1>"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox;") and "script-src" not in policy and "default-src 'none'" in policy
    assert "week-1" in client.get("/").text


@pytest.mark.parametrize("name", ["%2e%2e", "..%2f..%2fsecret", "%252e%252e", "week-1%00", "..%5csecret", "linked",
                                  "/etc", "C:", ".hidden", "a/b"])
def test_reports_never_leave_their_folder(client, workspace, tmp_path, name):
    (workspace.root / "reports").mkdir()
    outside = tmp_path / "outside"
    for folder in (outside, workspace.root, workspace.root / "reports" / ".hidden"):
        folder.mkdir(exist_ok=True)
        (folder / "report.html").write_text("secret")
    (workspace.root / "reports" / "linked").symlink_to(outside)
    answer = client.get(f"/reports/{name}")
    assert answer.status_code == 404 and "secret" not in answer.text.replace("..\\secret", "").replace("../secret", "")


def test_the_studio_starts_without_torch(tmp_path):
    code = ("import sys; from tunesmith.service import create_app; from tunesmith.store.workspace import Workspace; "
            "create_app(Workspace.open(sys.argv[1])); "
            "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))")
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "ws"], check=False).returncode == 0
