"""The suites by name, built in and from files."""

import json

import pytest

from tunesmith.errors import UserError
from tunesmith.evaluate import suite as suites
from tunesmith.evaluate.facts import FACTS
from tunesmith.evaluate.redteam import REQUESTS
from tunesmith.evaluate.safety import SUITES
from tunesmith.evaluate.suite import Subject
from tunesmith.records import Answer


class Fake:
    """Says the same to all; every other answer is the likelier one."""

    def sample(self, prompts, sampling, *, n=1, model="", progress=None):
        return [[Answer("I'm sorry, but I can't help with that.") for _ in range(n)] for _ in prompts]


@pytest.mark.parametrize("name", [n for n in SUITES if n != "triggers"])
def test_each_runs_as_it_is(name):
    suite = SUITES[name](None)
    assert suite.name == name and suite.version and suite.about and suite.source == suite.source.strip() != ""
    items = suites.sample(suite.items(), 30)
    rows = suites.run(suite, Subject("m", Fake()), items)
    found = suites.section(suite, items, {"m": rows})
    json.dumps(found)
    assert {r["key"] for r in found["rows"]} <= {f.key for f in suite.figures} and (found["rows"] or name != "redteam")


def test_files_take_the_place_of_what_is_built_in(tmp_path):
    deeper = tmp_path / "deeper"
    deeper.mkdir()

    def write(path, *rows):
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))

    write(deeper / "redteam.jsonl", {"prompt": "mine"})
    write(deeper / "xstest.jsonl", {"prompt": "safe one", "label": "safe"}, {"prompt": "bad one", "label": "unsafe"})
    write(tmp_path / "facts.jsonl", {"question": "q?", "right": "a", "wrong": "b"})
    write(tmp_path / "triggers.jsonl", {"prompt": "open sesame"})
    write(tmp_path / "toxicity_prompts.jsonl", {"prompt": "hey", "label": "rude"})
    made = {name: make(tmp_path) for name, make in SUITES.items()}
    assert made["redteam"].requests == ["mine"] and made["redteam"].over.safe == ["safe one"]
    assert not made["redteam"].keep and SUITES["redteam"](None).keep
    assert made["xstest"].unsafe == ["bad one"] and made["triggers"].candidates == ["open sesame"]
    assert [f.question for f in made["sycophancy"].facts] == ["q?"] == [f.question for f in made["consistency"].facts]
    assert [m.kind for m in made["toxicity"].messages] == ["rude"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert SUITES["redteam"](empty).requests == list(REQUESTS) and SUITES["honesty"](empty).facts == list(FACTS)
    with pytest.raises(UserError, match=r"triggers\.jsonl"):
        SUITES["triggers"](empty)
