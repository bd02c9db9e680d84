"""Log-probs of given texts: what a plain pass gives, whatever the batch, cut as lm-evaluation-harness cuts."""

import pytest
import tiny
import torch

from tunesmith.errors import DataError, TooLong
from tunesmith.model import adapters
from tunesmith.model.engine import LocalEngine
from tunesmith.model.reader import LocalReader
from tunesmith.records import Message


def plain(base, prompt, text):
    """Sum of log-probs, count and whether greedy, by transformers alone."""
    with torch.no_grad():
        logits = base.model(torch.tensor([[*prompt, *text]])).logits[0].float()
    scores = logits[len(prompt) - 1:-1].log_softmax(-1)
    picked = scores.gather(1, torch.tensor(text)[:, None]).sum()
    return float(picked), len(text), bool((scores.argmax(-1) == torch.tensor(text)).all())


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def base(request, tmp_path_factory):
    return tiny.load(tmp_path_factory.mktemp("bases") / request.param, request.param)


@pytest.fixture
def reader(base):
    return LocalReader(LocalEngine(base))


def close(read, expected):
    assert read.logprob == pytest.approx(expected[0], abs=1e-4) and (read.tokens, read.greedy) == expected[1:]


def test_texts_behind_plain_text(reader, base):
    contexts = ["The rate is", "The rate is ", "A fee? "]
    texts = [[" low.", " high, and it rises."], ["low."], ["Yes", "No"]]
    done = []
    found = reader.read(contexts, texts, progress=done.append)
    assert sum(done) == 3
    encode = base.chat.encode
    for context, row, reads in zip(contexts, texts, found, strict=True):
        for text, read in zip(row, reads, strict=True):
            whole, cut = encode(context + text), len(encode(context.rstrip()))
            close(read, plain(base, whole[:cut], whole[cut:]))
    assert found[0][0] == found[1][0]  # the space belongs to the text


def test_texts_behind_a_conversation(reader, base):
    messages = (Message("system", "Be brief."), Message("user", "Which rate?"))
    found = reader.read([messages], [["Low.", "It depends."]])[0]
    for text, read in zip(["Low.", "It depends."], found, strict=True):
        close(read, plain(base, base.chat.prompt(messages), base.chat.answer(text)[:-1]))


def test_texts_behind_nothing(reader, base):
    bos = base.tokenizer.bos_token_id
    tokens = base.tokenizer("Hello", add_special_tokens=False)["input_ids"]
    close(reader.read([""], [["Hello"]])[0][0], plain(base, [bos], tokens))


def test_an_adapter_reads_for_itself(reader, base, tmp_path):
    adapters.attach(base, "one", tiny.METHODS["usual"], 0)
    tiny.shake(base, "one")
    adapters.save(base, "one", tmp_path)
    adapters.remove(base, "one")
    reader.engine.load("one", tmp_path)
    before = reader.read(["The rate"], [[" is low"]])[0][0]
    own = reader.read(["The rate"], [[" is low"]], model="one")[0][0]
    assert own.logprob != pytest.approx(before.logprob, abs=0.01)
    assert reader.read(["The rate"], [[" is low"]])[0][0] == before


def test_greedy_means_what_the_model_would_write(reader, base):
    prompt = base.chat.encode("The rate is")
    with torch.no_grad():
        likeliest = int(base.model(torch.tensor([prompt])).logits[0, -1].argmax())
    text = base.tokenizer.decode([likeliest])
    if base.chat.encode("The rate is" + text) == [*prompt, likeliest]:
        assert reader.read(["The rate is"], [[text]])[0][0].greedy


def test_what_cannot_be_read_is_refused(reader):
    with pytest.raises(DataError, match="longer than the 256 tokens"):
        reader.read(["long " * 100], [[" text"]])
    with pytest.raises(DataError, match="an empty text"):
        reader.read(["a"], [["b", ""]])


def test_a_context_that_is_too_long_loses_its_beginning_if_asked(reader, base):
    context, text = "word " * 100, "and an end"
    whole = base.chat.encode(context + text)
    n = len(base.chat.encode(context + text)) - len(base.chat.encode(context.rstrip()))
    found, = reader.read([context], [[text]], cut=True)[0]
    close(found, plain(base, whole[-256:-n], whole[-n:]))
    with pytest.raises(TooLong):
        reader.read(["a"], [["word " * 100]], cut=True)


def test_a_long_text_behind_nothing_is_read_in_parts(reader, base):
    """Every token once; the last part with all that fits before it."""
    text = "".join(chr(97 + (i * i) % 26) for i in range(600))
    whole = [base.tokenizer.bos_token_id, *base.tokenizer(text, add_special_tokens=False)["input_ids"]]
    parts = [(0, 1, 256), (255, 256, 511), (len(whole) - 256, 511, len(whole))]
    expected = [plain(base, whole[a:b], whole[b:c]) for a, b, c in parts]
    found = reader.read(["", ""], [[text], ["short"]])
    assert found[0][0].tokens == len(whole) - 1 == sum(e[1] for e in expected)
    assert found[0][0].logprob == pytest.approx(sum(e[0] for e in expected), abs=1e-3)
    close(found[1][0], plain(base, whole[:1], base.tokenizer("short", add_special_tokens=False)["input_ids"]))
