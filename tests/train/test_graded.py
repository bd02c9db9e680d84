"""GRPO and RLOO against graders: from a file to a better policy, through the same door as the command line."""

import json
from contextlib import nullcontext

import pytest
from endpoint_fake import endpoint, reply
from lab import ask, weights
from test_resume import Killed, kill_at, newest

from tunesmith import rounds
from tunesmith.errors import DataError, GraderError, SettingsError, UserError
from tunesmith.records import Prompt
from tunesmith.settings import PreferSettings
from tunesmith.shop import Shop
from tunesmith.train import grpo

LIKES = {"type": "string_check", "name": "likes", "operation": "like", "input": "{{sample.output_text}}",
         "reference": "{{item.wanted}}"}
BOTH = {"type": "multi", "name": "both", "calculate_output": "(2 * has + alike) / 3", "graders": {
    "has": LIKES, "alike": {**LIKES, "name": "alike", "type": "text_similarity", "evaluation_metric": "fuzzy_match"}}}
BOTH["graders"]["alike"].pop("operation")
JUDGE = {"type": "score_model", "name": "judge", "model": "m", "range": [0, 10],
         "input": [{"role": "user", "content": "How good is {{sample.output_text}}?"}]}


@pytest.fixture
def graded(lab, tmp_path):
    """`graded(grader, **changes)`: a run of `prefer --grader` on prompts whose rows hold `wanted`."""
    lab.workspace.add_dataset("rows", "prompts", [Prompt(ask(i), facts={"wanted": "aa"}) for i in range(40)])

    def run(spec, method="grpo", progress=None, resume=None, **changes):
        file = tmp_path / "grader.json"
        file.write_text(json.dumps(spec))
        shop = Shop(lab.workspace, lambda _: nullcontext(progress))
        settings = lab.prefer(method, **{"reward": "", "prompts": "rows", "grader": str(file), **changes})
        return rounds.resume(shop, resume) if resume else rounds.prefer(shop, settings)

    return run


def lines(lab, adapter):
    return lab.workspace.run(adapter.lineage["run"]).metrics()


@pytest.mark.parametrize("method", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_the_reward_of_a_string_check_rises(lab, graded, method):
    adapter = graded(LIKES, method, updates=10, batch=12, samples=6, lr=1e-2, warmup=0.0, no_eos="ignore")
    rewards = [line["reward"] for line in lines(lab, adapter)]
    assert rewards[-1] > rewards[0] + 0.3 and rewards[-1] > 0.6
    assert adapter.lineage["parents"] == {"policy": "sft@1"} and adapter.lineage["grader"] == LIKES
    assert {line["grader_errors"] for line in lines(lab, adapter)} == {0}


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit_without_the_file(lab, graded, tmp_path):
    whole = graded(BOTH)
    with pytest.raises(Killed):
        graded(BOTH, progress=kill_at(3))
    graded_by = tmp_path / "grader.json"
    graded_by.unlink()
    broken = newest(lab)
    shop = Shop(lab.workspace, lambda _: nullcontext(None))
    again = rounds.resume(shop, broken)
    assert weights(again) == weights(whole) and lines(lab, again) == lines(lab, whole)
    assert all(0 < line["reward_alike"] < 1 for line in lines(lab, whole))


def test_every_answer_is_judged_by_its_own_row(lab):
    asked = []

    class Counts:
        def score(self, prompt, answers):
            asked.append((prompt, answers))
            return [float(len(a)) for a in answers]

    base, settings = lab.base(), lab.prefer("grpo", reward="", grader="counts", no_eos="ignore")
    rows = [Prompt(ask(i), facts={"n": i}) for i in range(4)]
    roles = grpo.attach(base, lab.workspace.adapter("sft").path, grpo.Scoring(Counts()), settings)
    samples = grpo.collect(base, roles, [base.chat.prompt(r.messages) for r in rows], settings, 0, rows)
    assert [row for row, _ in asked] == rows
    texts = [[base.chat.text(a) for a in tree.answers] for tree in samples.trees]
    assert [answers for _, answers in asked] == texts
    assert samples.scores_GK.tolist() == [[float(len(t)) for t in group] for group in texts]


def test_what_cannot_be_graded_earns_nothing_and_is_counted(lab, graded):
    grader = {**LIKES, "input": "{{sample.output_json.answer}}"}
    adapter = graded(grader, updates=2)
    assert all(line["reward"] == 0 and line["grader_errors"] == line["sample_parse_error"] == 1
               for line in lines(lab, adapter))
    assert adapter.lineage["grader_errors"] == {"sample_parse_error": 1}


def test_an_adapter_on_the_same_base_grades(lab, graded):
    """The tiny model writes letters, not grades: it is asked, and its answers count as what they are."""
    for model in ("sft@1", "base"):
        adapter = graded({**JUDGE, "model": model, "input": [{"role": "user", "content": "rate"}],
                          "sampling_params": {"max_completions_tokens": 4}}, updates=1, batch=2, samples=2, kl=0.0)
        assert lines(lab, adapter)[0]["model_grader_parse_error"] == 1


def test_an_endpoint_grades_and_one_that_fails_stops_a_run_that_can_go_on(lab, graded, monkeypatch):
    monkeypatch.setattr("tunesmith.service.outbound.time.sleep", lambda seconds: None)
    monkeypatch.setattr("tunesmith.service.graders.time.sleep", lambda seconds: None)
    with endpoint() as server:
        def say(handler):
            said = server.asked[-1][2]["messages"][-1]["content"]
            if broken and len(server.asked) > 12:
                handler.json({"error": {"message": "no more"}}, 401)
            else:
                handler.json(reply(json.dumps({"steps": [], "result": said.count("a")})))

        server.say, broken = say, True
        options = dict(endpoint=f"http://127.0.0.1:{server.port}/v1", batch=2, samples=3, updates=4, checkpoint_every=1)
        with pytest.raises(UserError, match=r"the grader judge got no answer: .*401: no more"):
            graded(JUDGE, **options)
        run = newest(lab)
        assert run.status == "failed" and len(run.metrics()) == 2
        broken = False
        adapter = graded(JUDGE, resume=run)
    assert len(lines(lab, adapter)) == 4 and adapter.lineage["grader"] == JUDGE
    body = server.asked[0][2]
    assert body["model"] == "m" and body["response_format"]["json_schema"]["strict"] and "temperature" not in body


def test_bad_graders_are_refused_before_anything_runs(lab, graded, tmp_path):
    before = len(lab.workspace.runs())
    with pytest.raises(DataError, match=r"rows:1: this row has no item.other, which the grader"):
        graded({**LIKES, "reference": "{{item.other}}"})
    with pytest.raises(GraderError, match=r"grader\.operation"):
        graded({**LIKES, "operation": "is"})
    with pytest.raises(UserError, match='nobody here answers for the model "m"'):
        graded(JUDGE)
    with pytest.raises(UserError, match="SOME_API_KEY holds no key"):
        graded(JUDGE, endpoint="https://example.com/v1", key="SOME_API_KEY")
    with pytest.raises(DataError, match=r"no-file.json: cannot be read"):
        graded(LIKES, grader="no-file.json")
    with pytest.raises(DataError, match="is not JSON"):
        graded(LIKES, grader="{not json")
    assert len(lab.workspace.runs()) == before


@pytest.mark.parametrize(("changes", "said"), [
    ({"reward": "", "grader": ""}, "needs --reward or --grader"), ({"grader": "x"}, "needs --reward or --grader"),
    ({"endpoint": "https://x.org/v1"}, "--endpoint is for --grader"),
    ({"reward": "", "grader": "x", "key": "A_API_KEY"}, "--key is for --endpoint"),
    ({"method": "dpo", "reward": "", "prompts": "", "comparisons": "c", "grader": "x"}, "--grader is for grpo and")])
def test_settings_want_one_judge(changes, said):
    with pytest.raises(SettingsError, match=said):
        PreferSettings(**{**dict(method="grpo", policy="sft", name="n", reward="r", prompts="p"), **changes})
