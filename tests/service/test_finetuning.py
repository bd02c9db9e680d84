"""The fine-tuning API through OpenAI's own client, from the file to an answer of the model; bodies on the wire are held
against the client's types (openai_schema).
"""

import asyncio
import csv
import io
import time

import openai
import pytest
from shop_floor import Floor, finished, preferred, reached, said, send

from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.service import recipes, trainer

ASK = [{"role": "user", "content": "say 3"}]
QUICK = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 8}}}


@pytest.fixture(scope="module")
def floor(tmp_path_factory):
    with Floor(tmp_path_factory.mktemp("floor")).open() as floor:
        yield floor


@pytest.fixture
def api(floor):
    with floor.api() as api:
        yield api


def answer(api, model):
    return api.chat.completions.create(model=model, messages=ASK, max_tokens=4, temperature=0)


def refused(call, *args, **known):
    """The error of a call that is turned down, as (status, param, code, message)."""
    with pytest.raises(openai.APIStatusError) as caught:
        call(*args, **known)
    error = caught.value
    return error.status_code, error.param, error.code, error.message


@pytest.fixture(scope="module")
def supervised(floor):
    """A job with a validation file that has succeeded."""
    with floor.api() as api:
        train = send(api, [said(n) for n in range(16)], "train.jsonl")
        valid = send(api, [said(n) for n in range(16, 20)], "valid.jsonl")
        job = api.fine_tuning.jobs.create(
            model=floor.base, training_file=train.id, validation_file=valid.id, suffix="my desk!", seed=7,
            metadata={"team": "loans"}, method={"type": "supervised", "supervised": {"hyperparameters": {
                "n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": "auto"}}})
        assert job.status == "validating_files" and job.fine_tuned_model is None and job.finished_at is None
        assert job.method.supervised.hyperparameters.learning_rate_multiplier == "auto"
        return finished(api, job.id)


def test_a_job_from_the_file_to_the_model(api, floor, supervised):
    job = supervised
    assert job.status == "succeeded" and job.error is None and job.trained_tokens > 100 and job.seed == 7
    assert job.fine_tuned_model.startswith("ft:tiny:tunesmith:my-desk-:") and job.metadata == {"team": "loans"}
    assert job.hyperparameters.to_dict() == {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0}
    assert job.created_at <= job.finished_at <= time.time() + 1
    assert job.fine_tuned_model in {m.id for m in api.models.list()}
    assert api.models.retrieve(job.fine_tuned_model).id == job.fine_tuned_model
    assert answer(api, job.fine_tuned_model).model == job.fine_tuned_model
    assert not {m.id for m in api.models.list() if m.id.startswith("ftjob-")}


def test_events_tell_the_story_and_come_in_pages(api, supervised):
    events = list(api.fine_tuning.jobs.list_events(supervised.id, limit=4))  # the client asks for page after page
    assert len({e.id for e in events}) == len(events) == 12 + 9
    messages = [e.message for e in reversed(events)]
    assert messages[0] == f"Created fine-tuning job: {supervised.id}" and "Validating training file" in messages[1]
    assert messages[2:4] == ["Files validated, moving job to queued state", "Fine-tuning job started"]
    assert messages[-2:] == [f"New fine-tuned model created: {supervised.fine_tuned_model}",
                             "The job has successfully completed"]
    metrics = [e.data for e in reversed(events) if e.type == "metrics"]
    assert [m["step"] for m in metrics] == list(range(1, 13)) and all(m["total_steps"] == 12 for m in metrics)
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]
    measured = [m["valid_loss"] for m in metrics if "valid_loss" in m]
    assert len(measured) >= 6 and measured[-1] < measured[0]
    assert all(0 <= m["train_mean_token_accuracy"] <= 1 for m in metrics)


def test_checkpoints_are_models(api, supervised):
    page = api.fine_tuning.jobs.checkpoints.list(supervised.id, limit=1)
    last, second, first = list(page)
    assert [c.step_number for c in (first, second, last)] == [4, 8, 12]  # one per epoch
    assert last.fine_tuned_model_checkpoint == supervised.fine_tuned_model
    assert first.fine_tuned_model_checkpoint == f"{supervised.fine_tuned_model}:ckpt-step-4"
    assert first.metrics.full_valid_loss == first.metrics.valid_loss > last.metrics.valid_loss
    texts = {answer(api, c.fine_tuned_model_checkpoint).model for c in (first, second, last)}
    assert texts == {c.fine_tuned_model_checkpoint for c in (first, second, last)}


def test_the_result_file_has_a_line_per_step(api, supervised):
    file = api.files.retrieve(supervised.result_files[0])
    assert (file.purpose, file.filename) == ("fine-tune-results", "step_metrics.csv")
    rows = list(csv.DictReader(io.StringIO(api.files.content(file.id).text)))
    assert [int(r["step"]) for r in rows] == list(range(1, 13))
    events = {e.data["step"]: e.data for e in api.fine_tuning.jobs.list_events(supervised.id) if e.type == "metrics"}
    assert [float(r["train_loss"]) for r in rows] == [events[n]["train_loss"] for n in range(1, 13)]
    assert float(rows[-1]["valid_loss"]) == events[12]["valid_loss"] and rows[0]["valid_loss"] == ""


def test_dpo_goes_on_from_a_fine_tuned_model(api, floor, supervised):
    file = send(api, [preferred(n) for n in range(8)])
    job = api.fine_tuning.jobs.create(
        model=supervised.fine_tuned_model, training_file=file.id, validation_file=file.id, suffix="taste", method={
            "type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 2, "batch_size": 4}}})
    job = finished(api, job.id)
    assert job.status == "succeeded", job.error
    assert job.method.dpo.hyperparameters.beta == 0.2 and job.model == supervised.fine_tuned_model
    assert answer(api, job.fine_tuned_model).choices
    metrics = [e.data for e in api.fine_tuning.jobs.list_events(job.id) if e.type == "metrics"]
    assert metrics[0]["valid_loss"] < metrics[-1]["valid_loss"] < 0.7  # newest first; log 2 at the start
    adapter = floor.workspace.adapter(job.id)
    assert adapter.lineage["parents"]["policy"].startswith(supervised.id)


def test_reinforcement_by_a_grader_from_the_bare_base(api, floor):
    file = send(api, [{"messages": [{"role": "user", "content": f"say {n}"}], "wanted": "a"} for n in range(4)])
    grader = {"type": "string_check", "name": "has an a", "operation": "like", "input": "{{sample.output_text}}",
              "reference": "{{item.wanted}}"}
    body = {"type": "reinforcement", "reinforcement": {
        "grader": grader, "hyperparameters": {"n_epochs": 1, "batch_size": 4, "compute_multiplier": 0.25}}}
    job = finished(api, api.fine_tuning.jobs.create(model=floor.base, training_file=file.id, method=body).id)
    assert job.status == "succeeded", job.error
    assert job.method.reinforcement.grader.to_dict() == grader
    assert answer(api, job.fine_tuned_model).choices
    body["reinforcement"]["grader"] = {**grader, "reference": "{{item.other}}"}
    job = finished(api, api.fine_tuning.jobs.create(model=floor.base, training_file=file.id, method=body).id)
    assert job.status == "failed" and job.error.param == "training_file" and "other" in job.error.message


def test_rlhf_from_a_file_and_from_a_set(api, floor):
    rows = [{"prompt": f"say {n}", "answers": ["aaa", "b", "aab"], "ranking": [[0], [2], [1]]} for n in range(4)]
    groups = [AnswerGroup(Prompt((Message("user", f"say {n}"),)), (Answer("aaa"), Answer("b"))) for n in range(4)]
    floor.workspace.add_groups("taste", groups)
    how = {"type": "rlhf", "rlhf": {"hyperparameters": {"n_updates": 1, "batch_size": 1, "max_tokens": 4}}}
    job = api.fine_tuning.jobs.create(model=floor.base, training_file="set:taste", method=how)
    job = finished(api, job.id)
    assert (job.status, job.error.param) == ("failed", "training_file") and "nobody has ranked" in job.error.message
    floor.workspace.add_rankings([Ranking(f"r{n}", g.id, "ann", tiers=((0,), (1,))) for n, g in enumerate(groups)])
    for source in ("set:taste", send(api, rows).id):
        job = finished(api, api.fine_tuning.jobs.create(model=floor.base, training_file=source, method=how).id)
        assert job.status == "succeeded", job.error
        parents = floor.workspace.adapter(job.id).lineage["parents"]
        assert parents == {"policy": f"{job.id}-start@1", "reward": f"{job.id}-reward@1"}
        assert answer(api, job.fine_tuned_model).choices


def test_a_paused_job_goes_on_to_the_same_bits(api, floor, supervised, monkeypatch):
    """Paused after its second step, it makes what a job makes that nobody paused."""
    asked = dict(model=floor.base, training_file=supervised.training_file, seed=3, method={
        "type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}})
    whole = finished(api, api.fine_tuning.jobs.create(**asked).id)
    steps = []

    def look(telling, real=trainer.Telling._look):
        steps.append(telling.job.id)
        if len(steps) == 2:
            assert api.fine_tuning.jobs.pause(telling.job.id).status == "paused"
        real(telling)

    monkeypatch.setattr(trainer.Telling, "_look", look)
    job = reached(api, api.fine_tuning.jobs.create(**asked).id, ("paused",))
    assert api.fine_tuning.jobs.pause(job.id).status == "paused"  # asked again, it stays so
    while floor.workspace.runs()[-1].status == "running":
        time.sleep(0.01)
    run = floor.workspace.runs()[-1]
    assert (run.status, run.latest()[0]) == ("stopped", 2)  # the checkpoint was written when it stopped
    time.sleep(0.1)
    assert api.fine_tuning.jobs.retrieve(job.id).status == "paused"
    assert api.fine_tuning.jobs.resume(job.id).status == "queued"
    job = finished(api, job.id)
    assert job.status == "succeeded" and len(steps) == 4
    made, expected = (floor.workspace.adapter(j.id).path / "adapter_model.safetensors" for j in (job, whole))
    assert made.read_bytes() == expected.read_bytes()
    lines = [e.data["step"] for e in api.fine_tuning.jobs.list_events(job.id) if e.type == "metrics"]
    assert lines == [4, 3, 2, 1]  # nothing is said twice
    content = [api.files.content(j.result_files[0]).text for j in (job, whole)]
    assert content[0] == content[1]
    status, _, _, message = refused(api.fine_tuning.jobs.resume, job.id)
    assert status == 400 and "succeeded" in message


def test_cancelling_stops_between_two_steps(api, floor, supervised, monkeypatch):
    asked = dict(model=floor.base, training_file=supervised.training_file, method=QUICK)
    floor.working.clear()
    waiting = api.fine_tuning.jobs.create(**asked)
    assert api.fine_tuning.jobs.cancel(waiting.id).status == "cancelled"
    seen = []

    def look(telling, real=trainer.Telling._look):
        seen.append(api.fine_tuning.jobs.cancel(telling.job.id))
        real(telling)

    monkeypatch.setattr(trainer.Telling, "_look", look)
    floor.working.set()
    job = finished(api, api.fine_tuning.jobs.create(**asked).id)
    while floor.workspace.runs()[-1].status == "running":
        time.sleep(0.01)
    assert job.status == "cancelled" and job.finished_at and job.fine_tuned_model is None and len(seen) == 1
    assert api.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert api.fine_tuning.jobs.retrieve(waiting.id).status == "cancelled"
    assert not [a for a in floor.workspace.adapters() if a.name in (job.id, waiting.id)]
    assert refused(api.fine_tuning.jobs.pause, job.id)[0] == 400
    assert refused(api.fine_tuning.jobs.cancel, supervised.id)[0] == 400


@pytest.mark.parametrize("rows, method, param, told", [
    ([said(1), {"messages": [{"role": "user", "content": "hi"}]}], None, "training_file", "bad.jsonl:2: a demonst"),
    ([said(1), {"messages": [{"role": "boss", "content": "hi"}]}], None, "training_file", 'bad.jsonl:2: "role" must'),
    ([said(1, weight=0)], None, "training_file", 'bad.jsonl:1: no assistant turn has a "weight" above 0'),
    ([said(1), {"messages": "hi"}], None, "training_file", 'bad.jsonl:2: "messages" must be a list'),
    ([said(1)], {"type": "dpo"}, "training_file", "bad.jsonl:1: comparisons need"),
    ([preferred(1), {**preferred(2), "preferred_output": []}], {"type": "dpo"}, "training_file", "bad.jsonl:2:"),
], ids=["no answer", "role", "weight", "messages", "not preferences", "empty"])
def test_a_bad_file_fails_the_job_naming_line_and_field(api, floor, rows, method, param, told):
    asked = {"method": method} if method else {}
    job = api.fine_tuning.jobs.create(model=floor.base, training_file=send(api, rows, "bad.jsonl").id, **asked)
    job = finished(api, job.id)
    assert (job.status, job.error.param) == ("failed", param) and told in job.error.message, job.error
    last = next(iter(api.fine_tuning.jobs.list_events(job.id)))
    assert last.level == "error" and last.message == job.error.message


def test_a_bad_validation_file_is_named(api, floor, supervised):
    bad = api.files.create(file=("v.jsonl", b'{"messages": [}'), purpose="fine-tune")
    job = api.fine_tuning.jobs.create(model=floor.base, training_file=supervised.training_file, validation_file=bad.id)
    error = finished(api, job.id).error
    assert error.param == "validation_file" and "v.jsonl:1: not valid JSON" in error.message


def test_weights_keep_turns_out_of_the_loss(api, floor):
    """Turns with weight 0 are read and not learned: the same job without them sees fewer tokens but as many learned."""
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "zzzz", "weight": 0},
             {"role": "user", "content": "two"}, {"role": "assistant", "content": "aa", "weight": 1}]
    job = api.fine_tuning.jobs.create(model=floor.base, training_file=send(api, [{"messages": turns}]).id, method={
        "type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 1}}})
    job = finished(api, job.id)
    row = next(iter(floor.workspace.dataset(recipes.train_set(floor_job(floor, job.id))).rows()))
    assert job.status == "succeeded" and [m.weight for m in row.messages] == [1, 0, 1, 1]


def floor_job(floor, id):
    from tunesmith.store import jobs

    return jobs.find(floor.workspace, id)


@pytest.mark.parametrize("change, param", [
    ({"model": "gpt-9"}, "model"), ({"training_file": "file-none"}, "training_file"),
    ({"validation_file": "file-none"}, "validation_file"), ({"seed": -1}, "seed"), ({"suffix": ""}, "suffix"),
    ({"suffix": "x" * 65}, "suffix"), ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ({"metadata": {"k": "v" * 513}}, "metadata"), ({"integrations": [{"type": "wandb"}]}, "integrations"),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size"),
    ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier"),
    ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"beta": 0.1}}, "hyperparameters.beta"),
    ({"method": {"type": "magic"}}, "method.type"),
    ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.1}}}}, "method.dpo.hyperparameters.beta"),
    ({"method": {"type": "supervised", "dpo": {}}}, "method"), ({"method": {"type": "reinforcement"}}, "method"),
    ({"method": {"type": "reinforcement", "reinforcement": {"grader": {"type": "python"}}}},
     "method.reinforcement.grader.type"),
    ({"method": {"type": "reinforcement", "reinforcement": {
        "grader": {"type": "string_check", "name": "n", "operation": "eq", "input": "a", "reference": "b"},
        "hyperparameters": {"reasoning_effort": "high"}}}}, "method.reinforcement.hyperparameters.reasoning_effort"),
    ({"model": None}, "model"), ({"speed": 9}, "speed")], ids=str)
def test_bad_requests_name_the_field(api, floor, supervised, change, param):
    body = {"model": floor.base, "training_file": supervised.training_file, **change}
    with pytest.raises(openai.BadRequestError) as caught:
        api.post("/fine_tuning/jobs", body=body, cast_to=object)
    assert caught.value.param == param, caught.value.message
    assert caught.value.code and caught.value.type == "invalid_request_error"


def test_what_is_not_there_is_404_in_openais_words(api):
    jobs = api.fine_tuning.jobs
    for call in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.checkpoints.list, jobs.list_events):
        assert refused(call, "ftjob-none")[:3] == (404, "fine_tune_id", "fine_tune_not_found")
    for call in (api.files.retrieve, api.files.delete, api.files.content):
        assert refused(call, "file-none")[:2] == (404, "id")
    assert refused(api.models.delete, "ft:none")[:3] == (404, "model", "model_not_found")
    assert refused(api.get, "/nothing", cast_to=object)[0] == 404


def test_jobs_come_in_pages_and_by_metadata(api, supervised):
    ids = [j.id for j in api.fine_tuning.jobs.list(limit=2)]
    assert len(ids) == len(set(ids)) > 4 and supervised.id in ids
    assert [j.id for j in api.fine_tuning.jobs.list(metadata={"team": "loans"})] == [supervised.id]
    assert list(api.fine_tuning.jobs.list(metadata={"team": "other"})) == []
    page = api.fine_tuning.jobs.list(limit=2)
    assert page.has_more and [j.id for j in page.get_next_page().data] == ids[2:4]
    assert refused(api.fine_tuning.jobs.list, after="ftjob-none")[0] == 404
    assert refused(api.fine_tuning.jobs.list, limit=0)[:2] == (400, "limit")


def test_the_async_client_and_a_deleted_model(floor):
    async def story():
        async with floor.async_api() as api:
            file = await api.files.create(file=("t.jsonl", b'{"prompt": "say 1", "completion": "aa"}'),
                                          purpose="fine-tune")
            job = await api.fine_tuning.jobs.create(model=floor.base, training_file=file.id, method=QUICK)
            while job.status not in ("succeeded", "failed"):
                await asyncio.sleep(0.05)
                job = await api.fine_tuning.jobs.retrieve(job.id)
            events = [e async for e in api.fine_tuning.jobs.list_events(job.id, limit=3)]
            reply = await api.chat.completions.create(model=job.fine_tuned_model, messages=ASK, max_tokens=2)
            assert reply.model == job.fine_tuned_model and len(events) > 5
            gone = await api.models.delete(job.fine_tuned_model)
            assert (gone.id, gone.deleted) == (job.fine_tuned_model, True)
            for call in (api.models.retrieve(job.fine_tuned_model), api.models.delete(job.fine_tuned_model),
                         api.chat.completions.create(model=job.fine_tuned_model, messages=ASK)):
                with pytest.raises(openai.NotFoundError):
                    await call
            with pytest.raises(openai.PermissionDeniedError):
                await api.models.delete(floor.base)
            return job

    assert asyncio.run(story()).status == "succeeded"


def test_auto_grows_with_the_file():
    sizes = {rows: recipes.resolved("supervised", {}, rows) for rows in (1, 10, 100, 1000, 100_000)}
    assert [(s["batch_size"], s["n_epochs"]) for s in sizes.values()] == [
        (1, 10), (1, 10), (4, 4), (16, 2), (16, 1)]
    assert recipes.resolved("dpo", {"beta": 0.5, "n_epochs": "auto"}, 100)["beta"] == 0.5
    assert set(recipes.resolved("dpo", {}, 9)) == {"beta", "batch_size", "n_epochs", "learning_rate_multiplier"}
