"""Rendering: one BOS, exact prefixes, and exactly the assistant's tokens learned."""

import pytest
import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tunesmith.errors import DataError, ModelError
from tunesmith.model.chat import Chat
from tunesmith.records import Message


def user(text):
    return Message("user", text)


def said(text, weight=1):
    return Message("assistant", text, weight)


def merging(template, adds_bos=False):
    """A tokenizer whose merges cross the border between prompt and answer, as real ones do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*alphabet, "Ġy", "Ġyo", "yo", "ĊĊ"])}
    inner = Tokenizer(models.BPE(vocabulary, [("Ġ", "y"), ("Ġy", "o"), ("y", "o"), ("Ċ", "Ċ")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tok = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", bos_token="<bos>",
                                  additional_special_tokens=["<|im_start|>", "<|im_end|>"])
    if adds_bos:
        inner = tok.backend_tokenizer
        inner.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tok.bos_token_id)])
        tok = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", bos_token="<bos>",
                                      additional_special_tokens=["<|im_start|>", "<|im_end|>"])
    tok.chat_template = template
    return tok


def learned(chat, rendered):
    """The learned stretches as raw text, special tokens included."""
    pieces, last = [], None
    for i, (token, weight) in enumerate(zip(rendered.tokens, rendered.weight)):
        if weight:
            pieces = [*pieces, [token]] if last != i - 1 else [*pieces[:-1], [*pieces[-1], token]]
            last = i
    return [chat.tokenizer.decode(p) for p in pieces]


WITHOUT_BOS = tiny.CHATML.replace("{{ bos_token }}", "")
TALK = (Message("system", "be kind"), user("hi"), said("yo"), user("and?"), said("yo yo\n"), user("so"), said("bye"))


@pytest.mark.parametrize(("template", "adds_bos", "expected"), [
    (tiny.CHATML, False, 1), (tiny.CHATML, True, 1), (WITHOUT_BOS, True, 1), (WITHOUT_BOS, False, 0), (None, True, 1)])
def test_there_is_exactly_one_bos_where_the_model_wants_one(template, adds_bos, expected):
    """Checklist 3. Template and tokenizer may both add it; a model that wants none gets none."""
    chat = Chat(merging(template, adds_bos))
    bos = chat.tokenizer.bos_token_id
    for tokens in (chat.prompt((user("hi"),)), list(chat.render((user("hi"), said("yo"))).tokens),
                   list(chat.render(TALK).tokens), chat.prompt(TALK[:-1])):
        assert tokens.count(bos) == expected and (tokens[0] == bos) == bool(expected)


@pytest.mark.parametrize("template", [tiny.CHATML, None])
def test_a_prompt_is_an_exact_prefix_of_the_conversation(template):
    """Checklist 3. Merges over the border ("Assistant: " + "yo") would break it, in earlier turns too."""
    chat = Chat(merging(template))
    whole = list(chat.render(TALK).tokens)
    for i, message in enumerate(TALK):
        if message.role == "assistant":
            head = chat.prompt(TALK[:i])
            assert whole[:len(head)] == head
            body = chat.answer(message.content)
            assert whole[len(head):len(head) + len(body)] == body
    together = chat.tokenizer(chat.tokenizer.decode(whole), add_special_tokens=False)["input_ids"]
    assert (template is None) == (together != whole)  # the plain template does have such a merge


@pytest.mark.parametrize(("template", "end"), [(tiny.CHATML, "<|im_end|>"), (None, "<eos>")])
def test_learned_tokens_are_the_assistant_turns_with_their_end(template, end):
    """Checklists 2 and 4: the end of turn stays in the loss."""
    chat = Chat(merging(template))
    assert learned(chat, chat.render(TALK)) == [f"yo{end}", f"yo yo\n{end}", f"bye{end}"]
    assert chat.tokenizer.decode([chat.end]) == end


def test_weights_of_messages_become_weights_of_tokens():
    """Checklist 4: weight 0 is context, a fraction is a fraction."""
    chat = Chat(tiny.tokenizer())
    rendered = chat.render((user("a"), said("skip", 0), user("b"), said("half", 0.5), user("c"), said("full")))
    assert learned(chat, rendered) == ["half<|im_end|>", "full<|im_end|>"]
    assert sorted(set(rendered.weight)) == [0.0, 0.5, 1.0]
    assert rendered.weight.count(0.5) == len("half") + 1


@pytest.mark.parametrize("messages", [(user("hi"),), (user("hi"), said("yo", 0)), ()])
def test_nothing_to_learn_is_an_error(messages):
    """Checklist 4."""
    with pytest.raises(DataError, match="no assistant turn"):
        Chat(tiny.tokenizer()).render(messages)


def test_an_empty_turn_still_ends():
    """Checklist 4."""
    chat = Chat(tiny.tokenizer())
    assert learned(chat, chat.render((user("hi"), said("")))) == ["<|im_end|>"]


def test_text_leaves_special_tokens_out_and_spaces_alone():
    chat = Chat(tiny.tokenizer())
    for text in ("you 're , here .", "  two\n\nlines ", "café ☕ 日本"):
        assert chat.text(chat.answer(text)) == text


BODY = "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
TRIMMED = BODY + "{% else %}{{ ' ' + (m['content'] | trim) + ' ' + eos_token }}{% endif %}{% endfor %}"
HEADERS = ("{% for m in messages %}### {{ m['role'] }}\n{{ m['content'] }}\n\n{% endfor %}"
           "{% if add_generation_prompt %}### assistant\n{% endif %}")
THINKS = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if loop.last and m['role'] == 'assistant' %}"
          "<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
EOS_INSIDE = ("{% for m in messages %}<|im_start|>{{ m['role'] }}{{ eos_token }}{{ m['content'] }}<|im_end|>"
              "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ eos_token }}{% endif %}")
SHOUTS = ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] | upper }}\n{% endfor %}"
          "{% if add_generation_prompt %}assistant: {% endif %}")


@pytest.mark.parametrize(("template", "end"), [
    (TRIMMED, "<eos>"),             # spaces around a trimmed turn
    (HEADERS, "<eos>"),             # no special token at all: eos is added so that the model learns to stop
    (THINKS, "<|im_end|>"),         # words of its own in the last turn only
    (EOS_INSIDE, "<|im_end|>"),     # eos means something else
    (SHOUTS, "<eos>"),              # the content cannot be found again
])
def test_the_end_of_turn_of_odd_templates(template, end):
    chat = Chat(tiny.tokenizer(template))
    assert chat.tokenizer.decode([chat.end]) == end
    assert learned(chat, chat.render((user("hi"), said("yo")))) == [f"yo{end}"]


@pytest.mark.parametrize("template", [TRIMMED, HEADERS, THINKS, EOS_INSIDE])
def test_several_turns_of_odd_templates(template):
    chat = Chat(tiny.tokenizer(template))
    end = chat.tokenizer.decode([chat.end])
    talk = (user("hi"), said(" yo\n"), user("so"), said("bye"))
    rendered = chat.render(talk)
    assert learned(chat, rendered) == [f" yo\n{end}", f"bye{end}"]
    head = chat.prompt(talk[:3])
    assert list(rendered.tokens[:len(head)]) == head


def test_a_template_that_rewrites_turns_is_refused_for_training_and_still_answers():
    """Checklist 3: no exact prefix, no training; a prompt is then what the template says."""
    chat = Chat(tiny.tokenizer(SHOUTS))
    talk = (user("hi"), said("yo"), user("so"))
    with pytest.raises(ModelError, match="rewrites earlier turns"):
        chat.render((*talk, said("bye")))
    assert chat.tokenizer.decode(chat.prompt(talk)) == "user: HI\nassistant: YO\nuser: SO\nassistant: "


def test_a_template_that_refuses_says_why():
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}"
    with pytest.raises(ModelError, match="no system turn here"):
        Chat(tiny.tokenizer(template + tiny.CHATML)).prompt((Message("system", "x"), user("hi")))


def test_a_tokenizer_without_eos_is_refused():
    tok = tiny.tokenizer()
    tok.eos_token = None
    with pytest.raises(ModelError, match="no eos"):
        Chat(tok)


@pytest.mark.parametrize("template", [tiny.CHATML, None])
def test_a_greeting_before_the_first_user_turn_is_context(template):
    """It answers nothing, and templates refuse to render the empty prompt before it."""
    chat = Chat(merging(template))
    talk = (said("yo"), user("hi"), said("bye"))
    rendered = chat.render(talk)
    assert [p.removesuffix(chat.tokenizer.decode([chat.end])) for p in learned(chat, rendered)] == ["bye"]
    head = chat.prompt(talk[:2])
    assert "yo" in chat.tokenizer.decode(head) and list(rendered.tokens[:len(head)]) == head
    with pytest.raises(DataError, match="no assistant turn"):
        chat.render(talk[:1])


@pytest.mark.parametrize(("template", "adds_bos"), [(tiny.CHATML, False), (WITHOUT_BOS, True), (None, True)])
def test_many_at_once_are_each_alone(template, adds_bos, monkeypatch):
    chat = Chat(merging(template, adds_bos))
    many = [TALK, (user("hi"), said("yo")), (user("again"), said("no", 0), user("so"), said("yes"))]
    assert chat.render_all(many) == [chat.render(messages) for messages in many] and chat.render_all([]) == []
    monkeypatch.setattr(type(chat.tokenizer), "is_fast", False)
    assert chat.render_all(many) == [chat.render(messages) for messages in many]
    with pytest.raises(DataError, match="no assistant turn to learn from"):
        chat.render_all([*many, (user("hi"),)])
