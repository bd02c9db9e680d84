"""Many requests in one batch: pieces, failures, cancelling, common beginnings, and nobody disturbs anybody."""

import pytest
import tiny
import torch
from peft import PeftConfig
from safetensors.torch import load_file
from test_engine import PROMPTS, make
from test_engine_batching import assert_same, plainly, several

from tunesmith.contracts import Sampling
from tunesmith.model import adapters, known, lora, tuners
from tunesmith.model.engine import LocalEngine
from tunesmith.model.known import Known
from tunesmith.model.serving import Serving, token_text
from tunesmith.records import Message


def run(serving, *jobs):
    """Step until nothing is left: (texts, answers) of each job, and the errors."""
    texts, answers, errors = ({job: {} for job in jobs} for _ in range(3))
    while serving.busy:
        for job, item in serving.step():
            if isinstance(item, Exception):
                errors[job] = item
            else:
                texts[job][item.index] = texts[job].get(item.index, "") + item.text
                if item.answer is not None:
                    answers[job][item.index] = item.answer
    return texts, answers, {job: e for job, e in errors.items() if e}


@pytest.fixture
def made(saved):
    return several(make(saved["llama"], ending=1.0))


def test_requests_of_several_models_in_one_batch_equal_each_alone(made):
    serving = Serving(made)
    names = ["m", "two", "", "eight"]
    jobs = [serving.submit(p, Sampling(20, seed=i), 2, name, live=i % 2 == 0) for i, (p, name) in
            enumerate(zip(PROMPTS, names))]
    texts, answers, errors = run(serving, *jobs)
    assert not errors and serving.writing == 0
    for i, (job, name) in enumerate(zip(jobs, names)):
        want = plainly(made, [PROMPTS[i]], Sampling(20), [(i, 0, 0), (i, 0, 1)], n=2, models=[name])
        assert_same([(list(answers[job][k].tokens), list(answers[job][k].logprobs)) for k in (0, 1)], want)
        assert all(texts[job][k] == answers[job][k].text for k in (0, 1))


@pytest.mark.parametrize("stop", [(), ("a", "\n"), ("xyz",)])
def test_pieces_come_early_and_joined_are_the_text(made, stop):
    serving = Serving(made)
    job = serving.submit(PROMPTS[0], Sampling(40, seed=5, stop=stop), 1, "m", live=True, detail=True)
    pieces = []
    while serving.busy:
        pieces += [item for _, item in serving.step()]
    answer = pieces[-1].answer
    assert "".join(p.text for p in pieces) == answer.text and (len(pieces) > 3 or stop)
    tokens = [t for p in pieces for t in p.tokens]
    assert [t.logprob for t in tokens] == list(answer.logprobs) and not any(s in answer.text for s in stop)
    assert job.request.done


def test_a_failure_ends_only_the_request_at_fault(made, monkeypatch):
    """One prompt makes every batch fail that it is in; those beside it are written as if it were not there."""
    serving = Serving(made)
    plain = type(made).scheduler

    def scheduler(self):
        found = plain(self)
        read = found.rows.read

        def poisoned(prompts, weights):
            if any(list(p.tokens) == [66, 6] for p in prompts):
                raise RuntimeError("bad prompt")
            return read(prompts, weights)

        found.rows.read = poisoned
        return found

    monkeypatch.setattr(type(made), "scheduler", scheduler)
    early = serving.submit(PROMPTS[0], Sampling(20, seed=0), 1, "m", live=True)
    told = [item.text for _ in range(5) for _, item in serving.step()]
    bad = serving.submit([66, 6], Sampling(20), 1, "m")
    late = serving.submit(PROMPTS[2], Sampling(20, seed=2), 2, "two")
    texts, answers, errors = run(serving, early, bad, late)
    assert list(errors) == [bad] and "bad prompt" in str(errors[bad])
    assert "".join(told) + texts[early][0] == answers[early][0].text  # no word twice
    want = plainly(made, [PROMPTS[0]], Sampling(20), [(0, 0, 0)])
    assert_same([(list(answers[early][0].tokens), list(answers[early][0].logprobs))], want)
    assert len(answers[late]) == 2
    again = serving.submit(PROMPTS[1], Sampling(4), 1, "m")
    assert run(serving, again)[1][again]


def test_a_cancelled_request_frees_its_rows(made):
    made.rows = 2
    serving = Serving(made)
    first = serving.submit(PROMPTS[0], Sampling(200, logit_bias=((made.base.chat.end, -100.0),)), 2, "m", live=True)
    serving.step()
    waits = serving.submit(PROMPTS[1], Sampling(3), 1, "two")
    for _ in range(4):
        assert all(job is first for job, _ in serving.step())
    serving.cancel(first)
    _, answers, _ = run(serving, waits)
    assert answers[waits] and serving.writing == 0
    serving.cancel(first)


def test_prompt_logprobs_equal_a_plain_forward_pass(saved):
    made, tokens = make(saved["llama"]), PROMPTS[2]
    found = Serving(made).prompt(tokens, "m", alternatives=2)
    base = made.base
    with adapters.active(base, "slot"), torch.no_grad():
        states = base.model.base_model(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state[0]
        logp = base.logits(states).log_softmax(-1)
    assert found[0].logprob is None and found[0].alternatives == ()
    for i, token in enumerate(tokens[1:]):
        assert found[i + 1].logprob == pytest.approx(float(logp[i, token]), abs=1e-4)
        top = logp[i].topk(2).values.tolist()
        assert [a.logprob for a in found[i + 1].alternatives] == pytest.approx(top, abs=1e-4)


def test_half_a_character_has_bytes_of_its_own(made):
    chat = made.base.chat
    tokens = chat.encode("aé")
    assert b"".join(token_text(chat, t)[1] for t in tokens) == "aé".encode()
    assert [token_text(chat, t)[0] for t in tokens][-1] == "\ufffd" and token_text(chat, chat.end) == ("", b"")


# ---- without interference

def test_a_is_bit_equal_after_b_was_loaded_and_served_beside_it(saved, tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        base = tiny.bases.load(str(saved["llama"]))
        adapters.attach(base, "x", adapters.Method(rank=4 * seed, alpha=8), 0)
        tiny.shake(base, "x", seed=seed)
        (tmp_path / name).mkdir()
        adapters.save(base, "x", tmp_path / name)
    serving = Serving(LocalEngine(tiny.bases.load(str(saved["llama"]))))
    serving.load("a@1", tmp_path / "a")

    def ask(model):
        job = serving.submit(PROMPTS[2], Sampling(30, seed=3), 2, model, detail=True)
        return run(serving, job)[1][job]

    before = [ask("a@1"), ask("")]
    serving.load("b@1", tmp_path / "b")
    beside = [serving.submit(PROMPTS[2], Sampling(30, seed=3), 2, name) for name in ("a@1", "b@1", "")]
    _, answers, _ = run(serving, *beside)
    after = [ask("a@1"), ask("")]
    assert after == before  # texts, tokens and log-probs, to the last bit
    for job, want in zip((beside[0], beside[2]), before):  # in one batch with B: the same tokens
        assert [answers[job][k].tokens for k in (0, 1)] == [want[k].tokens for k in (0, 1)]
    assert answers[beside[1]][0].tokens != answers[beside[0]][0].tokens
    serving.drop("b@1")
    assert [ask("a@1"), ask("")] == before


# ---- adapters come and go

def test_a_loaded_adapter_is_what_peft_loads(saved, tmp_path):
    """The quick way into layers that hold adapters against PEFT's own, which the first one takes."""
    for architecture in ("llama", "gpt2"):
        one, two = (tiny.bases.load(str(saved[architecture])) for _ in range(2))
        adapters.attach(one, "x", adapters.Method(rank=3, alpha=7, rslora=True), 0)
        tiny.shake(one, "x")
        folder = tmp_path / architecture
        folder.mkdir()
        adapters.save(one, "x", folder)
        adapters.attach(two, "first", adapters.Method(rank=2, alpha=4), 0)
        found = []
        for base, placed in ((one, False), (two, True)):
            if not placed:
                base.peft.delete_adapter("x")
                tuners._add(base, "y", PeftConfig.from_pretrained(str(folder)))
                tuners._fill(base, "y", load_file(folder / adapters.WEIGHTS))
            else:
                adapters.load(base, "y", folder)
            with adapters.active(base, "y"), torch.no_grad():
                found.append(base.logits(base.trunk(input_ids=torch.tensor([PROMPTS[2]])).last_hidden_state))
        assert torch.equal(*found)
        adapters.save(two, "y", tmp_path)
        again = load_file(tmp_path / adapters.WEIGHTS)
        assert all(torch.equal(v, again[k]) for k, v in load_file(folder / adapters.WEIGHTS).items())
        adapters.remove(two, "y")
        assert adapters.names(two) == ["first"] and not any("y" in m.lora_A for m in lora.layers(two.model))


def test_stacks_in_which_adapters_are_exchanged_are_those_made_anew(saved):
    base = tiny.bases.load(str(saved["llama"]))
    for i, name in enumerate("abcdefgh"):
        method = adapters.Method(kind="dora" if name == "h" else "lora", rank=2 + i % 3, alpha=8)
        adapters.attach(base, name, method, i)
        tiny.shake(base, name, seed=i)
    generator, held = torch.Generator().manual_seed(0), {}
    ids, kept = torch.tensor([PROMPTS[2][:8]]), 0
    for _ in range(40):
        names = [["", *"abcdefgh"][i] for i in torch.randint(0, 9, (8,), generator=generator)]
        found = []
        before = list(map(id, held.values()))
        for known_sets in (held, None):
            with adapters.mixed(base, adapters.mixture(base, names, known_sets)), torch.no_grad():
                found.append(base.trunk(input_ids=ids).last_hidden_state)
        assert torch.allclose(*found, atol=1e-5), names
        kept += bool(before) and all(id(stacks) in before for stacks in held.values())
    assert kept > 5 and len(held) <= 4


# ---- what prompts have in common

SYSTEM = [(7 * i) % 250 for i in range(100)]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_a_known_beginning_is_not_computed_again_and_changes_nothing(saved, architecture):
    made = several(make(saved[architecture], ending=-100.0))
    prompts = [SYSTEM + PROMPTS[2], SYSTEM + PROMPTS[0], SYSTEM + PROMPTS[3]]
    want = plainly(made, prompts, Sampling(8), [(0, i, 0) for i in range(3)])
    made.known = Known()
    found, trunk, computed = [], made.base.trunk, []
    made.scheduler()
    made.base.trunk = lambda **inputs: (computed.append(inputs["input_ids"].shape[1]), trunk(**inputs))[1]
    for i, prompt in enumerate(prompts):
        run_ = made.scheduler()
        answer = run_.submit(prompt, Sampling(8), [(0, i, 0)], "m").answers[0]
        while run_.busy:
            run_.step()
        found.append((answer.tokens, answer.logprobs))
    assert_same(found, want)
    assert [n for n in computed if n > 1] == [112, 103 - 96, 102 - 96] and made.known.saved == 192
    other = made.scheduler().submit(prompts[0], Sampling(8), [(0, 0, 0)], "two")
    assert made.known.find("two", prompts[0]) is None and other  # another adapter, other keys
    made.use("m", "slot")
    assert made.known.find("m", prompts[1]) is None  # exchanged: forgotten


def test_what_is_known_stays_within_its_bytes():
    def prefix(length):
        return known.Prefix(torch.zeros(1, 1, length, 4), torch.zeros(1, 1, length, 4), torch.zeros(4))

    size = 64 * 4 * 4 * 2
    store = Known(limit=5 * size)
    prompts = [[i] * 64 for i in range(6)]
    for tokens in prompts:
        store.keep("m", tokens, prefix(64))
    assert [store.find("m", [*t, 1]) is not None for t in prompts] == [False] + [True] * 5
    store.find("m", [*prompts[1], 1])
    store.keep("m", [9] * 64, prefix(64))
    assert store.find("m", [*prompts[1], 1]) is not None and store.find("m", [*prompts[2], 1]) is None
    assert store._size == 5 * size and len(store._index) == 10
    assert store.find("m", [1] * 63) is None and store.find("m", [*[1] * 64, *range(200)]) is None
    store.forget("m")
    assert not store._index and store._size == 0


def test_the_chat_template_makes_the_prompt(made):
    serving = Serving(made)
    assert serving.encode((Message("user", "hello"),)) == made.base.chat.prompt((Message("user", "hello"),))
    assert serving.text(serving.encode("hello")) == "hello"
