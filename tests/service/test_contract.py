"""Schemathesis throws what it can think of at every route of files, uploads and jobs: no 5xx, and the schema holds.

It is no dependency: install it apart (`pip install schemathesis`) and put it on the PATH, or name it in
TUNESMITH_SCHEMATHESIS.
"""

import io
import json
import os
import shutil
import subprocess

import pytest
from service_fakes import FakeEngine, running

from tunesmith.service import create_app
from tunesmith.store import blobs, jobs

PROGRAM = os.environ.get("TUNESMITH_SCHEMATHESIS") or shutil.which("schemathesis")
CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not PROGRAM, reason="schemathesis is not installed")
def test_no_request_breaks_the_server(workspace, tmp_path):
    sender = blobs.Sender("me")
    file = blobs.add(workspace, io.BytesIO(b'{"prompt": "a", "completion": "b"}'), sender, "a.jsonl", "fine-tune")
    upload = blobs.new_upload(workspace, sender, "a.jsonl", "fine-tune", 3)
    part, _ = blobs.add_part(workspace, upload.id, io.BytesIO(b"abc"))
    method = {"type": "supervised", "supervised": {"hyperparameters": {
        "n_epochs": 1, "batch_size": 1, "learning_rate_multiplier": 1.0}}}
    job = jobs.create(workspace, {"model": "tiny", "base": "tiny", "start": "", "training_file": file.id,
                                  "validation_file": None, "method": method, "suffix": None, "seed": 1,
                                  "metadata": None, "name": "ft:tiny:tunesmith::1"}, "me")
    app = create_app(workspace, FakeEngine, base="tiny")
    spec = known(app.openapi(), {"/v1/files": file.id, "/v1/uploads": upload.id, "/v1/fine_tuning": job.id,
                                 "/v1/models": "tiny"}, part)
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    with running(app) as url:
        done = subprocess.run(
            [PROGRAM, "run", str(tmp_path / "spec.json"), "--url", url, "--checks", CHECKS, "--phases", "fuzzing",
             "--max-examples", "30", "--request-timeout", "30", "--seed", "1"], cwd=tmp_path, capture_output=True,
            text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def known(spec, ids, part):
    """The routes of this test, asked half of the time for what is there: random ids find nothing."""
    paths = {}
    for path, verbs in spec["paths"].items():
        prefix = next((p for p in ids if path.startswith(p)), None)
        if prefix and "graders" not in path:
            for verb in verbs.values():
                for parameter in verb.get("parameters", []):
                    if parameter["in"] == "path":
                        parameter["schema"] = {"anyOf": [{"const": ids[prefix]}, {"type": "string"}]}
            paths[path] = verbs
    complete = spec["components"]["schemas"]["Complete"]["properties"]["part_ids"]
    complete["items"] = {"anyOf": [{"const": part}, complete["items"]]}
    return {**spec, "paths": paths}
