"""The script of docs/migrate.md, with OpenAI's client against this server's own API, which speaks OpenAI's."""

import io
import json
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from service_fakes import FakeEngine, running
from test_migrate import CHAT, RESULTS, arguments

from tunesmith.migrate import migrate
from tunesmith.service import create_app
from tunesmith.settings import MigrateSettings
from tunesmith.store import blobs, jobs
from tunesmith.store.workspace import Workspace

PAGE = Path(__file__).parents[2] / "docs/migrate.md"
SCRIPT = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


@pytest.fixture
def url(workspace):
    with running(create_app(workspace, FakeEngine, base="tiny")) as url:
        yield url


def test_what_it_exports_can_be_migrated(workspace, url, tmp_path):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="x")
    rows = "".join(json.dumps(row) + "\n" for row in CHAT)
    chat = client.files.create(file=("faq.jsonl", rows.encode()), purpose="fine-tune")
    results = blobs.add(workspace, io.BytesIO(RESULTS.encode()), blobs.Sender("me"), "step_metrics.csv",
                        "fine-tune-results")
    id = client.fine_tuning.jobs.create(model="tiny", training_file=chat.id, seed=3, suffix="faq-bot").id
    token = jobs.claim(workspace, id, "w").token
    body = jobs.find(workspace, id).body
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 2,
                                                                       "learning_rate_multiplier": 0.5}}}
    jobs.move(workspace, id, token, "validating_files", "queued", "x", body={**body, "method": method})
    jobs.move(workspace, id, token, "queued", "running", "x")
    assert jobs.succeed(workspace, id, token, f"ft:tiny:org:faq-bot:{id}", "m@1", [results.id], 10, (1, {}))
    (tmp_path / "export.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(tmp_path / "export.py"), str(tmp_path / "out")], text=True,
                          capture_output=True, env={"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "x"})
    assert done.returncode == 0, done.stderr
    assert "2 files and 1 jobs" in done.stdout
    exported = json.loads((tmp_path / "out/jobs.json").read_text())
    assert FineTuningJob.model_validate(exported[0]).status == "succeeded"
    with Workspace.open(tmp_path / "there") as there:
        plan, = migrate(there, MigrateSettings(folder=str(tmp_path / "out"))).plans
        assert (plan.name, plan.data, plan.why) == ("faq-bot", "faq", "") and plan.used["train_loss"] == 0.75
        settings = arguments(*plan.commands(""))
        assert (settings.seed, settings.epochs, settings.batch, settings.lr) == (3, 3, 2, 5e-4)
