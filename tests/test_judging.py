"""Judges by the name on the command line: what each name makes, and what comes out of it."""

import contextlib
import re

import pytest
import tiny
from endpoint_fake import endpoint, reply

from tunesmith import judging
from tunesmith.errors import DataError, NotFound, UserError
from tunesmith.model import adapters
from tunesmith.records import Answer, Message, Prompt, Ranking
from tunesmith.shop import Shop
from tunesmith.store import endpoints as stored
from tunesmith.store import work

PROMPTS = [Prompt((Message("user", f"q{n}"),)) for n in range(5)]
DRAWN = {"base": [Answer(f"short {n}") for n in range(5)],
         "tuned": [Answer(f"much longer {n}" if n else "short 0") for n in range(5)]}


@pytest.fixture
def shop(workspace):
    return Shop(workspace, lambda _: contextlib.nullcontext(lambda *a: None))


def run(shop, spec, tmp_path, **options):
    return judging.outcomes(shop, judging.find(shop, spec, **options), PROMPTS, DRAWN, name="look", folder=tmp_path)


def test_people_find_the_answers_and_their_verdicts_are_read(shop, tmp_path):
    with pytest.raises(UserError, match=r"4 groups .*studio --groups look, judge, and give this command again"):
        run(shop, "people", tmp_path)
    n = 0
    while claim := work.claim(shop.workspace, "look", "ann"):
        order = sorted(claim.shown, key=lambda i: -len(claim.group.answers[i].text))
        work.submit(shop.workspace, Ranking(f"v{n}", claim.group.id, "ann", tuple((i,) for i in order), claim.shown),
                    claim.token)
        n += 1
    found, notes = run(shop, "people", tmp_path)
    assert found.of("tuned", "base").tolist() == [0.5, 1, 1, 1, 1]
    assert "4 of 4 groups" in notes[0] and "On 1 prompts all models wrote the same" in notes[1]
    assert not judging.find(shop, "people").simulated


def test_a_rubric_file_judges(shop, tmp_path):
    (tmp_path / "brief.toml").write_text('name = "Brief"\n[[item]]\nmax_words = 2\n')
    found, notes = run(shop, str(tmp_path / "brief.toml"), tmp_path)
    assert found.of("tuned", "base").tolist() == [0.5, 0, 0, 0, 0] and notes == []
    assert judging.find(shop, str(tmp_path / "brief.toml")).simulated
    (tmp_path / "asks.toml").write_text('[[item]]\nquestion = "Is it kind?"\n')
    with pytest.raises(UserError, match="name a model that answers"):
        judging.find(shop, str(tmp_path / "asks.toml"))
    with pytest.raises(DataError, match="no such rubric"):
        judging.find(shop, "nowhere.toml")


def by_length(handler):
    asked = handler.server.asked[-1][2]["messages"][-1]["content"]
    if asked.endswith("YES or NO?"):
        return handler.json(reply("YES" if "longer" in asked.split("[answer")[1] else "NO"))
    if asked.startswith("Write a checklist"):
        return handler.json(reply("Is the answer long enough?"))
    a, b = re.findall(r"\[answer [AB] \w{8}\]\n(.*?)\n\[end of answer", asked, re.DOTALL)
    return handler.json(reply(f"VERDICT: {'A' if len(a) > len(b) else 'B'}"))


@pytest.fixture
def judged_by(shop, monkeypatch):
    """An endpoint of the workspace, called "big"."""
    monkeypatch.setattr("tunesmith.service.outbound.Policy.check", lambda self, target: ["127.0.0.1"])
    with endpoint() as server:
        server.say = by_length
        stored.add_endpoint(shop.workspace, stored.Endpoint("big", f"http://127.0.0.1:{server.port}/v1", "m"), "boss")
        yield server


@pytest.mark.parametrize("spec,options", [("endpoint:big", {}), ("checklist:endpoint:big", {}),
                                          ("asks.toml", {"asks": "endpoint:big"})])
def test_an_endpoint_judges_pairs_checklists_and_questions(shop, judged_by, tmp_path, monkeypatch, spec, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asks.toml").write_text('[[item]]\nquestion = "Is it long enough?"\n')
    found, _ = run(shop, spec, tmp_path, **options)
    assert found.of("tuned", "base").tolist() == [0.5, 1, 1, 1, 1]
    asked = len(judged_by.asked)
    assert run(shop, spec, tmp_path, **options)[0].of("tuned", "base").tolist() == [0.5, 1, 1, 1, 1]
    assert len(judged_by.asked) == asked  # what was said is kept


def test_other_guidelines_are_asked_anew(shop, judged_by, tmp_path):
    _, notes = run(shop, "endpoint:big", tmp_path)
    asked = len(judged_by.asked)
    run(shop, "endpoint:big", tmp_path, guidelines="Be brief.")
    assert len(judged_by.asked) == 2 * asked
    assert "m behind big saw each pair in both orders" in notes[0] and "50.0%" in notes[0]


def test_a_model_of_the_workspace_that_cannot_judge_is_said_to(shop, tmp_path):
    """A random base: nothing that it writes is a verdict, and no pair becomes a tie for it."""
    spec = str(tiny.save(tmp_path / "tiny"))
    base = shop.base(spec)
    adapters.attach(base, "policy", tiny.METHODS["usual"], 0)
    shop.workspace.publish_adapter("tone", "policy", base.describe(),
                                   lambda folder: adapters.save(base, "policy", folder), {})
    for name in ("tone", spec):
        found, notes = run(shop, f"model:{name}", tmp_path / name.replace("/", ""))
        assert "no verdict that can be read on 100.0%" in notes[0]
        assert found.preference("tuned", "base").rate.n == 1  # the pair of equal texts


@pytest.mark.parametrize("spec,error,what", [
    ("model:nobody", NotFound, "nobody"), ("endpoint:nobody", NotFound, "nobody"), ("model:", UserError, "model:NAME"),
    ("checklist:big", UserError, "model:NAME or endpoint:NAME")])
def test_names_that_are_not_there(shop, spec, error, what):
    with pytest.raises(error, match=what):
        judging.find(shop, spec)


def test_scorers_are_somebody_elses_business(shop):
    assert judging.find(shop, "taste") is None and judging.find(shop, "loan-desk") is None
