import subprocess
import sys

import pytest


def test_runs_and_models(client, workspace):
    run = workspace.start_run("sft", {"lr": 0.1}, 0, {})
    run.log(1, {"loss": 3.0})
    run.log(2, {"loss": 2.25})
    page = client.get("/runs").text
    assert run.id in page and "running" in page and "2.25" in page and "3.0" not in page
    page = client.get("/adapters").text
    assert "tone@2" in page and "judge@1" in page and "tiny" in page


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
