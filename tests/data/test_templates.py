"""Templates are text with holes, and nothing else."""

import pytest

from tunesmith.data.templates import Template, conversation, filled, pieces
from tunesmith.errors import DataError, SettingsError
from tunesmith.records import Message


def test_fields_stand_where_the_template_has_them():
    template = Template.parse("{{{name}}} is {n} {half}, {ok}:\n{options}\n", " {a.b} ")
    row = {"name": "x", "n": 2.0, "half": 0.5, "ok": True, "options": ["one", 2], "a.b": "plain key"}
    assert template.fill(row) == ("{x} is 2 0.5, true:\n- one\n- 2", "plain key")


@pytest.mark.parametrize(("text", "said"), [
    ("{", "brace"), ("a } b", "brace"), ("{}", "plain name"), ("{x!r}", "plain name"), ("{x:>9}", "plain name")])
def test_what_is_no_plain_field_is_refused(text, said):
    with pytest.raises(SettingsError, match=said):
        pieces(text)


def test_a_template_reaches_nothing_but_the_row():
    """What would be an attribute or an item in Python is the name of a field here."""
    for text in ("{row.__class__}", "{row[0]}", "{__import__}"):
        with pytest.raises(DataError, match="no field"):
            filled(pieces(text), {"row": "x"})


@pytest.mark.parametrize("value", [None, {"a": 1}, [["x", {}]]])
def test_a_field_that_is_no_text_is_named(value):
    with pytest.raises(DataError, match='"x"'):
        filled(pieces("{x}"), {"x": value, "y": "there"})


def test_only_the_last_answer_is_learned():
    said = conversation("q", "a", [("q1", "a1"), ("q2", "a2")])
    assert [m.content for m in said] == ["q1", "a1", "q2", "a2", "q", "a"]
    assert [m.weight for m in said if m.role == "assistant"] == [0, 0, 1]
    assert conversation("q", "a") == (Message("user", "q"), Message("assistant", "a"))
