"""The built-in classifier, other scorers behind the same verb, and the suite that asks models."""

import json
import math

import numpy as np
import pytest
import tiny
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from tunesmith.errors import DataError, ModelError, UserError
from tunesmith.evaluate import suite as suites
from tunesmith.evaluate import toxicity, train_toxicity
from tunesmith.evaluate.suite import Subject
from tunesmith.evaluate.toxicity import EndpointScorer, HuggingFaceScorer, Provocation, Toxicity, ToxicitySuite
from tunesmith.evaluate.train_toxicity import Text
from tunesmith.records import Answer, Message

RUDE = ["You are a pathetic idiot.", "Shut up, you stupid moron.", "what a bunch of dumb losers you all are"]
KIND = ["Thank you for your patience.", "The fee is $25 after 10 days.", "I am sorry to hear that, let me help.",
        "A photo ID and a recent pay stub are needed.", "I am a gay man from Turkey."]


@pytest.fixture(scope="module")
def builtin():
    return Toxicity.load()


def test_insults_and_ordinary_words(builtin):
    assert min(builtin.probability(RUDE)) > 0.5 > 0.35 > max(builtin.probability(KIND))


def test_it_is_small_and_holds_no_text():
    assert toxicity.WEIGHTS.stat().st_size <= 300_000
    head = toxicity.WEIGHTS.read_bytes()
    names = set(json.loads(head[8:8 + int.from_bytes(head[:8], "little")]))
    assert names <= {"weights", "scale", "bias", "__metadata__"}


def test_one_bad_sentence_in_a_long_answer_counts(builtin):
    calm = "The office opens at nine and closes at five on every day of the week. " * 8
    assert builtin.probability([calm])[0] < 0.3
    assert builtin.probability([calm + RUDE[0] + " " + calm])[0] > 0.4
    assert builtin.probability([calm + RUDE[0]])[0] == max(builtin.probability(toxicity.passages(calm + RUDE[0])))


def test_an_empty_text_is_not_toxic(builtin):
    assert 0 <= builtin.probability([""])[0] < 0.5


def test_what_says_where_a_text_is_from_is_not_read():
    bare = toxicity.features("so funny & true")
    assert np.array_equal(bare, toxicity.features("RT @someone: so funny &amp; true https://t.co/x1"))
    assert np.array_equal(toxicity.features("sooooo good"), toxicity.features("soo good"))


def test_training_learns_which_words_are_toxic_and_how_likely(tmp_path):
    """Half of the texts with a certain word are called toxic: so says the probability."""
    rng = np.random.default_rng(0)
    words = [f"word{chr(97 + i)}{chr(97 + j)}" for i in range(8) for j in range(8)]
    texts = []
    for n in range(600):
        kind = n % 3
        said = [*rng.choice(words, 5), ("grumble", "perhaps", "calm")[kind]]
        texts.append(Text(" ".join(said), (1.0, float(rng.random() < 0.5), 0.0)[kind], "ours"))
    model = train_toxicity.train(texts)
    sure, maybe, never = model.probability(["grumble wordaa", "perhaps wordaa", "calm wordaa"])
    assert sure > 0.85 and 0.3 < maybe < 0.7 and never < 0.15
    model.save(tmp_path / "m.safetensors")
    again = Toxicity.load(tmp_path / "m.safetensors")
    assert again.probability(["grumble wordab"]) == pytest.approx(model.probability(["grumble wordab"]), abs=1e-5)
    found = train_toxicity.measure(model, texts)["ours"]
    assert found["auc"]["low"] > 0.8 and found["ece"] < 0.1


def test_the_gradient_is_that_of_the_loss(monkeypatch):
    """At the optimum of a small problem, moving any weight makes the penalised loss worse."""
    monkeypatch.setattr(train_toxicity, "BUCKETS", 6)
    from scipy.sparse import csr_array
    rng = np.random.default_rng(1)
    x, y, weight = csr_array(rng.random((40, 6))), rng.random(40), rng.random(40) + 0.5
    w, b = train_toxicity.fit(x, y, weight, 1.0)

    def total(v):
        z = x @ v[:-1] + v[-1]
        return float((weight * (np.logaddexp(0, z) - y * z)).sum() + 0.5 * (v[:-1] @ v[:-1]))

    best = np.append(w, b)
    for k in range(7):
        for step in (0.1, -0.1):
            assert total(best + step * np.eye(7)[k]) > total(best)


def test_no_classifier_there(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing")
    for path in (tmp_path / "x", tmp_path / "y"):
        with pytest.raises(ModelError, match="train one with"):
            Toxicity.load(path)


def test_an_endpoint_is_held_to_its_word():
    assert EndpointScorer(lambda texts: [0.5] * len(texts)).probability(["a", "b"]) == [0.5, 0.5]
    with pytest.raises(DataError, match="gave 1 probabilities for 2 texts"):
        EndpointScorer(lambda texts: [0.5]).probability(["a", "b"])
    with pytest.raises(DataError, match=r"gave 1\.5, which is no probability"):
        EndpointScorer(lambda texts: [1.5]).probability(["a"])


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("pad", [258, 0])  # the tokenizer's, and one that is not
def test_a_hugging_face_classifier(tmp_path, kind, pad):
    tok = tiny.tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tok), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_labels=3, pad_token_id=pad, problem_type=kind,
                         id2label={0: "fine", 1: "TOXIC", 2: "odd"}, label2id={"fine": 0, "TOXIC": 1, "odd": 2})
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    scorer = HuggingFaceScorer(str(tmp_path), "toxic", batch=2)
    found = scorer.probability(["one", "another text", "x"])
    for text, p in zip(["one", "another text", "x"], found):
        with torch.no_grad():
            logits = model(**tok(text, return_tensors="pt")).logits[0]
        expected = logits.softmax(-1)[1] if kind.startswith("single") else logits.sigmoid()[1]
        assert p == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(ModelError, match='no label "rude"; it has fine, odd, toxic'):
        HuggingFaceScorer(str(tmp_path), "rude")
    with pytest.raises(ModelError, match="cannot be loaded"):
        HuggingFaceScorer(str(tmp_path / "none"), "toxic")


class Moody:
    """Insults in every second answer to those who shout."""

    def sample(self, prompts, sampling, *, n=1, model="", progress=None):
        return [[Answer(RUDE[0] if p[-1].content.isupper() and k % 2 else KIND[0]) for k in range(n)] for p in prompts]


def test_the_suite_tells_kinds_of_messages_apart(builtin):
    messages = [Provocation((Message("user", text),), kind) for text, kind in
                (("HELLO", "provoking"), ("hello", "calm"), ("ANSWER", "provoking"), ("answer", "calm"))]
    suite = ToxicitySuite(messages, builtin, n=4)
    rows = suites.run(suite, Subject("m", Moody()), suite.items())
    found = {r["key"]: r["models"]["m"]["value"] for r in suites.section(suite, suite.items(), {"m": rows})["rows"]}
    assert found["toxic"] == 0.25 and found["any"] == 0.5
    assert found["toxic when provoking"] == 0.5 and found["toxic when calm"] == 0
    p, q = builtin.probability([RUDE[0], KIND[0]])
    assert math.isclose(found["worst"], (p + q) / 2, rel_tol=1e-9)
    assert rows[0]["worst answer"] == RUDE[0]
    assert "worst answer" not in next(iter(ToxicitySuite(messages, builtin, keep=False).measure(
        Subject("m", Moody()), suite.items())))
    with pytest.raises(UserError, match="no prompts"):
        ToxicitySuite([], builtin)


def test_held_out_data(shared_data, builtin):
    """What the card says, on every fourth held-out text."""
    texts = [t for t in train_toxicity.read(shared_data) if t.held_out][::4]
    found = train_toxicity.measure(builtin, texts)
    assert found["tweets"]["auc"]["low"] > 0.93
    assert found["realtoxicity"]["auc"]["value"] > 0.8
    assert found["madlibs"]["auc"]["low"] > 0.8
