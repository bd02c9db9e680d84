"""The engine against step-by-step forward passes of the plain model, and its promises to callers."""

import math
from collections import Counter

import pytest
import tiny
import torch
from peft import LoraConfig

from tunesmith.contracts import Sampling
from tunesmith.errors import ModelError, UserError
from tunesmith.model import adapters, tuners
from tunesmith.model import base as bases
from tunesmith.model.batch import Tree, build
from tunesmith.model.engine import LocalEngine, cut_at_stop, settled
from tunesmith.model.scorer import token_logprobs
from tunesmith.records import Message

ARCHITECTURES = ("llama", "qwen3", "gpt2")
PROMPTS = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [20, 21]]


def make(folder, ending=0.0):
    """An engine with a strong adapter `m`; `ending` raises the logit of the end of turn, so that rows leave early."""
    base = bases.load(str(folder))
    adapters.attach(base, "slot", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "slot", size=0.2)
    plain = base.logits
    bias = torch.zeros(base.model.config.vocab_size)
    bias[base.chat.end] = ending
    base.logits = lambda hidden: plain(hidden) + bias
    made = LocalEngine(base)
    made.use("m", "slot")
    return made


@pytest.fixture(params=ARCHITECTURES)
def any_engine(request, saved):
    return make(saved[request.param], ending=2.0)


@pytest.fixture
def local(saved):
    return make(saved["llama"], ending=2.0)


def talk(text):
    return (Message("user", text),)


def fresh(made, prompt, tokens, temperature=1.0):
    """log-probs of `tokens` from one unpadded forward pass without a cache."""
    base = made.base
    with adapters.active(base, "slot"), torch.no_grad():
        states = base.model.base_model(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).last_hidden_state
        logp = (base.logits(states[0]) / temperature).log_softmax(-1)
    return [float(logp[len(prompt) - 1 + i, t]) for i, t in enumerate(tokens)]


def seeds(prompts, n=1):
    return [(0, i, k) for i in range(len(prompts)) for k in range(n)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_argmax_of_full_forward_passes(saved, architecture):
    """Temperature 0, prompts of different lengths together, against one row without a cache."""
    made = make(saved[architecture])
    base = made.base
    rows = made.generate(PROMPTS, Sampling(12, temperature=0), seeds(PROMPTS), model="m")
    for prompt, (tokens, _) in zip(PROMPTS, rows):
        want: list[int] = []
        while len(want) < 12 and want[-1:] != [base.chat.end]:
            with adapters.active(base, "slot"), torch.no_grad():
                out = base.model.base_model(input_ids=torch.tensor([prompt + want]), use_cache=False)
                want.append(int(base.logits(out.last_hidden_state[0, -1]).argmax()))
        assert tokens == want
    assert len({tuple(tokens) for tokens, _ in rows}) == len(PROMPTS)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_equal_a_fresh_forward_pass(any_engine, temperature):
    """Checklists 1, 14 and 16: with a cache, at the sampling temperature; tolerance 1e-4 in float32.

    Rows end at different steps, so finished ones leave the batch on the way.
    """
    rows = any_engine.generate(PROMPTS, Sampling(40, temperature=temperature), seeds(PROMPTS, 4), n=4, model="m")
    assert len({len(tokens) for tokens, _ in rows}) > 3
    for i, (tokens, logprobs) in enumerate(rows):
        assert logprobs == pytest.approx(fresh(any_engine, PROMPTS[i // 4], tokens, temperature), abs=1e-4)
        assert any_engine.base.chat.end not in tokens[:-1]
        assert len(tokens) == 40 or tokens[-1] == any_engine.base.chat.end


def test_a_left_padded_prompt_gives_the_logprobs_of_the_unpadded_one(any_engine):
    """Checklist 1, at 1e-5: the first token, where only the padding differs."""
    any_engine.padded = True
    rows = any_engine.generate(PROMPTS, Sampling(1), seeds(PROMPTS), model="m")
    for prompt, (tokens, logprobs) in zip(PROMPTS, rows):
        assert logprobs == pytest.approx(fresh(any_engine, prompt, tokens), abs=1e-5)


def test_an_answer_does_not_depend_on_its_batch_mates(any_engine):
    """Same seed, alone or among others, in one batch or several."""
    together = any_engine.generate(PROMPTS, Sampling(20), seeds(PROMPTS, 2), n=2, model="m")
    for i, prompt in enumerate(PROMPTS):
        alone = any_engine.generate([prompt], Sampling(20), [(0, i, 0), (0, i, 1)], n=2, model="m")
        assert [tokens for tokens, _ in alone] == [tokens for tokens, _ in together[2 * i:2 * i + 2]]
    prompts = [talk("q" * n) for n in (9, 1, 20, 3)]
    whole = any_engine.sample(prompts, Sampling(12, seed=3), n=2, model="m")
    any_engine.rows = 3
    again = any_engine.sample(prompts, Sampling(12, seed=3), n=2, model="m")
    assert [[a.tokens for a in g] for g in again] == [[a.tokens for a in g] for g in whole]


def test_seeds_decide_and_samples_differ(local):
    """Checklist 35: the same seed gives the same answers bit for bit, log-probs included."""
    prompts = [talk("hello"), talk("hello")]
    first, second = (local.sample(prompts, Sampling(16, seed=7), n=4, model="m") for _ in range(2))
    other = local.sample(prompts, Sampling(16, seed=8), n=4, model="m")
    assert first == second
    assert len({a.tokens for g in first + other for a in g}) == 16


def test_adapters_are_chosen_by_name(saved):
    local = make(saved["llama"])
    bare, adapted = (local.sample([talk("hello")], Sampling(16, temperature=0), model=m)[0][0] for m in ("", "m"))
    assert bare.tokens != adapted.tokens and adapted.model == "m" and bare.model == local.base.spec
    with pytest.raises(UserError, match='"x" is not loaded'):
        local.sample([talk("hello")], Sampling(4), model="x")


def test_loading_under_a_used_name_replaces_the_adapter(saved, tmp_path):
    base = bases.load(str(saved["llama"]))
    for i in (1, 2):
        adapters.attach(base, f"made{i}", adapters.Method(rank=4, alpha=8), i)
        tiny.shake(base, f"made{i}", seed=i)
        (tmp_path / str(i)).mkdir()
        adapters.save(base, f"made{i}", tmp_path / str(i))
    made = LocalEngine(bases.load(str(saved["llama"])))
    found = []
    for i in (1, 2, 1):
        made.load("m", tmp_path / str(i))
        found.append(made.sample([talk("hello")], Sampling(16, temperature=0), model="m")[0][0].tokens)
    assert found[0] == found[2] != found[1] and made.models() == ["m"]
    assert len(adapters.names(made.base)) == 1


def test_stop_strings_end_the_answer_before_them(local):
    whole = local.sample([talk("hello")], Sampling(30, seed=1), model="m")[0][0]
    printable = [i for i in range(2, len(whole.text) - 3) if whole.text[i:i + 2].isascii()]
    stop = whole.text[printable[0]:printable[0] + 2]
    cut = local.sample([talk("hello")], Sampling(30, seed=1, stop=("never", stop)), model="m")[0][0]
    assert cut.text == whole.text[:whole.text.index(stop)]
    assert cut.finished and len(cut.tokens) < len(whole.tokens) and cut.tokens == whole.tokens[:len(cut.tokens)]


def test_cut_at_stop_takes_the_earliest():
    assert cut_at_stop("one two three", ("three", "two")) == ("one ", True)
    assert cut_at_stop("one", ("x",)) == ("one", False)


def test_max_tokens_and_the_context_limit_the_answer(saved):
    never = make(saved["llama"], ending=-100.0)
    answer = never.sample([talk("hello")], Sampling(5), model="m")[0][0]
    assert len(answer.tokens) == 5 == len(answer.logprobs) and not answer.finished
    long, short = [7] * 250, [7] * 3
    rows = never.generate([long, short], Sampling(20), [(0, 0), (0, 1)], model="m")
    assert [len(t) for t, _ in rows] == [6, 20]
    assert rows[0][1] == pytest.approx(fresh(never, long, rows[0][0]), abs=1e-4)
    assert rows[1][1] == pytest.approx(fresh(never, short, rows[1][0]), abs=1e-4)
    with pytest.raises(UserError, match="leaves no room"):
        never.sample([talk("q" * 300)], Sampling(5), model="m")


def test_plain_text_is_continued_without_a_template(saved):
    """The same tokens as `generate` gets; what is too long loses its beginning."""
    never = make(saved["llama"], ending=-100.0)
    text, encode = "word " * 60, never.base.chat.encode
    short, long = never.sample(["The rate is", text], Sampling(9, 0.0), model="m")
    rows = never.generate([encode("The rate is"), encode(text)[-247:]], Sampling(9, 0.0), [(0,), (0,)], model="m")
    assert [list(a[0].tokens) for a in (short, long)] == [tokens for tokens, _ in rows]
    half = never.generate([encode(text)[-128:]], Sampling(1280, 0.0), [(0,)], model="m")[0][0]
    assert list(never.sample([text], Sampling(1280, 0.0), model="m")[0][0].tokens) == half and len(half) == 128


def test_gpt2_rows_that_ended_stay_inside_the_learned_positions(saved):
    """A finished row beside a long one must not ask for position 256 of 256."""
    never = make(saved["gpt2"], ending=-100.0)
    rows = never.generate([[7] * 255, [7] * 200], Sampling(30), [(0, 0), (0, 1)], model="m")
    assert [len(t) for t, _ in rows] == [1, 30]


def test_finished_means_the_end_of_turn_came(local):
    answers = local.sample([talk("hello")], Sampling(30, seed=2), n=16, model="m")[0]
    assert {a.finished for a in answers} == {True, False}
    for a in answers:
        assert a.finished == (a.tokens[-1] == local.base.chat.end)
        assert a.text == local.base.tokenizer.decode([t for t in a.tokens if t < 256])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("stop", [(), ("e", "yz!")])
def test_streamed_pieces_joined_are_the_sampled_text(local, seed, stop):
    """Half characters and half stop strings are held back until they are decided."""
    sampling = Sampling(40, seed=seed, stop=stop)
    whole = local.sample([talk("hello")], sampling, model="m")[0][0]
    pieces = []
    stream = local.stream(talk("hello"), sampling, model="m")
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as done:
            answer = done.value
            break
    assert "".join(pieces) == whole.text == answer.text
    assert answer.tokens == whole.tokens and answer.finished == whole.finished
    assert answer.logprobs == pytest.approx(whole.logprobs, abs=1e-5)
    assert all(pieces)


def chi_square(counts, p, n):
    """Pearson's statistic with rare tokens pooled, and its degrees of freedom."""
    big = [i for i in range(len(p)) if n * p[i] >= 8]
    cells = [(counts[i], n * p[i]) for i in big]
    rest = n - sum(e for _, e in cells)
    cells.append((n - sum(c for c, _ in cells), max(rest, 1e-9)))
    return sum((c - e) ** 2 / e for c, e in cells), len(cells) - 1


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.0, 0.5)])
def test_sampling_frequencies_match_the_softmax(local, temperature, top_p):
    """Checklist 14. 6,000 draws on a fixed seed; the same draws do not fit another temperature."""
    n, prompt = 6000, [5, 6, 7]
    rows = local.generate([prompt], Sampling(1, temperature=temperature, top_p=top_p), seeds([prompt], n), n=n,
                          model="m")
    counts = Counter(tokens[0] for tokens, _ in rows)
    with adapters.active(local.base, "slot"), torch.no_grad():
        states = local.base.model.base_model(input_ids=torch.tensor([prompt])).last_hidden_state
        logits = local.base.logits(states[0, -1]).double()

    def expected(at):
        p = (logits / at).softmax(-1).tolist()
        mass, kept = 0.0, set()
        for i in sorted(range(len(p)), key=lambda i: -p[i]):
            if mass >= top_p:
                break
            kept.add(i)
            mass += p[i]
        return [p[i] / mass if i in kept else 0.0 for i in range(len(p))]

    p = expected(temperature)
    assert all(p[i] > 0 for i in counts)
    statistic, freedom = chi_square(counts, p, n)
    limit = freedom + 4 * math.sqrt(2 * freedom)
    assert freedom > 10 and statistic < limit
    wrong, freedom = chi_square(counts, expected(temperature * 1.7), n)
    assert wrong > freedom + 4 * math.sqrt(2 * freedom)


def test_top_p_records_the_uncut_logprob(local):
    """What a fresh forward pass gives, so that training on such answers stays honest about the distribution."""
    rows = local.generate(PROMPTS, Sampling(10, top_p=0.3), seeds(PROMPTS), model="m")
    for prompt, (tokens, logprobs) in zip(PROMPTS, rows):
        assert logprobs == pytest.approx(fresh(local, prompt, tokens), abs=1e-4)


def test_progress_counts_every_prompt_once(local):
    done = []
    local.rows = 4
    local.sample([talk("q" * i) for i in range(1, 8)], Sampling(2), n=2, model="m", progress=done.append)
    assert sum(done) == 7 and len(done) > 1
    assert local.sample([], Sampling(2)) == []
    assert local.count(talk("hello")) == len(local.base.chat.prompt(talk("hello")))


def saved_adapters(folder, tmp_path, count=2):
    """Folders of strong adapters of this base."""
    base = bases.load(str(folder))
    for i in range(count):
        adapters.attach(base, f"made{i}", adapters.Method(rank=4, alpha=8), i)
        tiny.shake(base, f"made{i}", seed=i)
        (tmp_path / str(i)).mkdir()
        adapters.save(base, f"made{i}", tmp_path / str(i))
    return [tmp_path / str(i) for i in range(count)]


def greedy(made, name):
    return made.sample([talk("hello")], Sampling(12, temperature=0), model=name)[0][0].tokens


def test_a_reload_that_fails_leaves_what_was_there(saved, tmp_path):
    good, bad = saved_adapters(saved["llama"], tmp_path)
    (bad / adapters.WEIGHTS).write_bytes(b"\x00" * 20)
    made = LocalEngine(bases.load(str(saved["llama"])))
    made.load("m", good)
    before = greedy(made, "m")
    for name in ("m", "new"):
        with pytest.raises(ModelError, match="does not fit"):
            made.load(name, bad)
    assert greedy(made, "m") == before != greedy(made, "") and made.models() == ["m"]
    assert len(adapters.names(made.base)) == 1


def test_engines_on_one_base_and_trainers_keep_their_adapters_apart(saved, tmp_path):
    one, two = saved_adapters(saved["llama"], tmp_path)
    base = bases.load(str(saved["llama"]))
    first, second = LocalEngine(base), LocalEngine(base)
    first.load("m", one)
    mine = greedy(first, "m")
    second.load("m", two)
    assert greedy(first, "m") == mine != greedy(second, "m")
    adapters.attach(base, "policy", adapters.Method(rank=4, alpha=8), 0)
    first.use("policy", "policy")
    first.load("policy", two)
    assert greedy(first, "policy") == greedy(second, "m") and "policy" in adapters.names(base)


@pytest.mark.parametrize("max_tokens", [8, 60])  # unfolded, folded
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_on_the_output_layer_writes_what_it_scores(saved, max_tokens):
    base = bases.load(str(saved["qwen3"]))
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    tuners._add(base, "slot", config)
    tiny.shake(base, "slot", size=0.3)
    made = LocalEngine(base)
    made.use("m", "slot")
    for names in (["m"] * 4, ["m", "", "m", ""]):
        rows = made.generate(PROMPTS, Sampling(max_tokens), seeds(PROMPTS), models=names)
        for name, prompt, (tokens, logprobs) in zip(names, PROMPTS, rows):
            want = token_logprobs(base, made.slot(name), build([Tree(tuple(prompt), (tuple(tokens),))]))
            assert logprobs == pytest.approx(want.tolist(), abs=1e-4)


def test_half_characters_are_held_back_whole():
    """Byte fallback gives a replacement character per byte; a stop string may go on with the character's first byte."""
    assert settled("hi \ufffd\ufffd\ufffd", ()) == "hi "
    assert settled("hi a\ufffd", ("aé",)) == "hi "
    assert settled("\ufffd a", ()) == "\ufffd a"


def test_the_token_level_verbs_refuse_a_prompt_without_room(local):
    for length in (local.context, local.context + 3):
        with pytest.raises(UserError, match=f"{length} tokens leaves no room"):
            local.generate([[5], [7] * length], Sampling(4), [(0,), (1,)])
        with pytest.raises(UserError, match="leaves no room"):
            local.scheduler().submit([7] * length, Sampling(4), [(0,)])
    assert len(local.generate([[7] * (local.context - 1)], Sampling(4), [(0,)])[0][0]) == 1


def test_looking_for_a_stop_string_reads_the_answer_s_end_alone(local):
    text, read = local.base.chat.text, []
    local.base.chat.text = lambda tokens: (read.append(len(tokens)), text(tokens))[1]
    tokens = [ord(c) for c in "x" * 300]
    assert not local._stopped(tokens, Sampling(stop=("ab", "abc"))) and max(read) == 4 * 3 + 8
    local.base.chat.text = text
    for stop in ("é", "xé€", "x"):
        ids = local.base.tokenizer("x" * 50 + stop, add_special_tokens=False)["input_ids"]
        assert local._stopped(ids, Sampling(stop=(stop,)))
        assert stop == "x" or not local._stopped(ids[:-1], Sampling(stop=(stop,)))
