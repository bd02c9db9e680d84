"""The bundled base: small, complete, and loadable from its directory alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.quickstart import corpus
from tunesmith.quickstart.customers import sample

BASE = Path(corpus.__file__).parent / "base"


def test_nothing_but_make_base_needs_torch():
    names = ["corpus", "customers", "desk", "grammar", "agent_phrases", "phrases", "replies", "rubric"]
    code = "import sys; " + "; ".join(f"import tunesmith.quickstart.{n}" for n in names)
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=True)


def test_base_is_small_and_complete():
    files = {p.name: p.stat().st_size for p in BASE.iterdir()}
    assert sum(files.values()) <= 16 * 2**20
    assert {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "generation_config.json", "README.md",
    } <= set(files)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(BASE)


def test_special_tokens_are_distinct(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(list(corpus.SPECIAL_TOKENS))
    assert len(set(ids)) == len(corpus.SPECIAL_TOKENS)
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == (corpus.PAD, corpus.BEGIN, corpus.END)


def test_chat_template_is_what_the_base_was_trained_on(tokenizer):
    document = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi, 6.25%?"},
        {"role": "assistant", "content": "Yes."},
    ]
    text = tokenizer.apply_chat_template(document, tokenize=False)
    assert text == corpus.render(document)
    assert text == "<|begin|><|system|>Be kind.<|end|><|user|>Hi, 6.25%?<|end|><|assistant|>Yes.<|end|>"
    prompt = tokenizer.apply_chat_template(document[:2], tokenize=False, add_generation_prompt=True)
    assert text == prompt + "Yes.<|end|>"


def test_text_survives_the_tokenizer_and_digits_stand_alone(tokenizer):
    for scenario in sample("test", 20, seed=0):
        text = scenario.messages[-1]["content"]
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    tokens = tokenizer.tokenize("12.45% on $3,500")
    assert all(sum(c.isdigit() for c in t) <= 1 for t in tokens)


def test_good_replies_fit_into_some_sixty_tokens(tokenizer):
    import random

    from tunesmith.quickstart.replies import EXCELLENT, write

    lengths = [
        len(tokenizer(write(s, EXCELLENT, random.Random(s.id)), add_special_tokens=False)["input_ids"])
        for s in sample("dev", 300, seed=0)
    ]
    assert sum(lengths) / len(lengths) < 50 and max(lengths) < 80


def test_model_loads_and_speaks(tokenizer):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    config = json.loads((BASE / "config.json").read_text())
    assert (config["model_type"], config["tie_word_embeddings"], config["vocab_size"]) == (
        "llama",
        True,
        len(tokenizer),
    )
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    assert 3e6 < model.num_parameters() < 7.5e6
    prompt = [{"role": "user", "content": "What is the APR of a personal loan over 24 months?"}]
    inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        reply = model.generate(inputs["input_ids"], do_sample=False, max_new_tokens=60)[
            0, inputs["input_ids"].shape[1] :
        ]
    words = tokenizer.decode(reply, skip_special_tokens=True).split()
    assert len(words) >= 4 and len(set(words)) > len(words) / 2
