"""Slots against padded rows written one at a time; refill, shared prompts, mixed and merged adapters, exchange."""

import pytest
import tiny
import torch
from peft import LoraConfig
from test_engine import ARCHITECTURES, PROMPTS, fresh, make, seeds, talk

from tunesmith.contracts import Sampling
from tunesmith.model import adapters, cache, engine, scheduler, tuners
from tunesmith.model.engine import LocalEngine

RANKS = {"m": 4, "two": 2, "eight": 8}


def several(made):
    """Adapters of different ranks beside `m`."""
    for name in ("two", "eight"):
        adapters.attach(made.base, name, adapters.Method(rank=RANKS[name], alpha=8), RANKS[name])
        tiny.shake(made.base, name, seed=RANKS[name], size=0.2)
        made.use(name, name)
    return made


def assert_same(got, want):
    assert [tokens for tokens, _ in got] == [tokens for tokens, _ in want]
    assert [x for _, lp in got for x in lp] == pytest.approx([x for _, lp in want for x in lp], abs=1e-4)


def plainly(made, prompts, sampling, keys, n=1, models=()):
    """Padded rows, one at a time, unmerged: nothing is shared with anybody."""
    plain = LocalEngine(made.base, rows=1, padded=True)
    for name in made.models():
        plain.use(name, made.slot(name))
    names = models or ["m"] * len(prompts)
    return [plain.generate([prompts[j // n]], sampling, [key], model=names[j // n])[0] for j, key in enumerate(keys)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("limit", [1, 3, 5, 64])
def test_slots_with_refill_equal_padded_rows_one_at_a_time(saved, architecture, limit):
    """Rows of different lengths, three answers a prompt, ending at different steps and giving their places away.

    With a limit of 1 or 5 a prompt's answers are split over several refills.
    """
    made = make(saved[architecture], ending=2.0)
    made.rows = limit
    got = made.generate(PROMPTS, Sampling(24), seeds(PROMPTS, 3), n=3, model="m")
    assert made.padded is False and len({len(tokens) for tokens, _ in got}) > 2
    assert_same(got, plainly(made, PROMPTS, Sampling(24), seeds(PROMPTS, 3), n=3))


@pytest.mark.parametrize("padded", [False, True])
def test_the_order_of_the_prompts_and_the_size_of_a_reading_change_nothing(saved, monkeypatch, padded):
    made = make(saved["llama"], ending=2.0)
    made.rows, made.padded = 5, padded
    want = made.generate(PROMPTS, Sampling(20), seeds(PROMPTS), model="m")
    monkeypatch.setattr(scheduler, "READ", 3)
    turned = made.generate(PROMPTS[::-1], Sampling(20), seeds(PROMPTS)[::-1], model="m")
    assert_same(turned[::-1], want)


@pytest.mark.parametrize("rows", [3, 64])
def test_a_prompt_is_computed_once_for_all_its_answers(saved, rows):
    """Also when they do not all fit at once."""
    made = make(saved["llama"], ending=-100.0)
    made.rows, trunk, read = rows, made.base.trunk, []
    made.scheduler()  # tries a few tokens first
    made.base.trunk = lambda **inputs: (read.append(inputs["input_ids"].shape), trunk(**inputs))[1]
    made.generate(PROMPTS, Sampling(2), seeds(PROMPTS, 7), n=7, model="m")
    tokens = [shape[1] for shape in read if shape[0] == 1 and shape[1] > 1] + [1] * ([1, 1] in map(list, read))
    assert sum(tokens) == sum(map(len, PROMPTS))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mixed_adapters_of_different_ranks_equal_each_alone(saved, architecture):
    made = several(make(saved[architecture], ending=2.0))
    names = ["eight", "", "m", "two"]
    got = made.generate(PROMPTS, Sampling(20), seeds(PROMPTS, 2), n=2, models=names)
    assert_same(got, plainly(made, PROMPTS, Sampling(20), seeds(PROMPTS, 2), n=2, models=names))
    same = made.generate(PROMPTS, Sampling(20), seeds(PROMPTS, 2), n=2, model="m")
    assert [t for t, _ in same[4:6]] == [t for t, _ in got[4:6]] and same[:2] != got[:2]


def test_sample_takes_one_model_per_prompt(saved):
    made = several(make(saved["llama"], ending=2.0))
    prompts = [talk("hello")] * 3
    mixed = made.sample(prompts, Sampling(12, seed=1), n=2, model=["m", "", "two"])
    for i, name in enumerate(["m", "", "two"]):
        alone = made.sample(prompts, Sampling(12, seed=1), n=2, model=name)[i]
        assert [a.tokens for a in alone] == [a.tokens for a in mixed[i]]
        assert {a.model for a in mixed[i]} == {name or made.base.spec}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folded_adapter_equals_the_unfolded_one(saved, monkeypatch, architecture):
    """Same tokens, log-probs within 1e-4; and the base's weights are untouched."""
    made = make(saved[architecture], ending=2.0)
    before = {k: v.clone() for k, v in made.base.model.state_dict().items()}
    folds, merged = [], adapters.merged
    monkeypatch.setattr(adapters, "merged", lambda base, name: (folds.append(name), merged(base, name))[1])
    want = made.generate(PROMPTS, Sampling(24), seeds(PROMPTS, 2), n=2, model="m")
    assert folds == []
    monkeypatch.setattr(engine, "MERGE", 24)
    assert_same(made.generate(PROMPTS, Sampling(24), seeds(PROMPTS, 2), n=2, model="m"), want)
    assert folds == ["slot"]
    made.generate(PROMPTS[:2], Sampling(24), seeds(PROMPTS[:2]), models=["m", ""])
    assert folds == ["slot"]
    assert all(torch.equal(v, before[k]) for k, v in made.base.model.state_dict().items())


def test_the_cache_grows_up_to_the_context(saved, monkeypatch):
    monkeypatch.setattr(cache, "SPARE", 1)
    never = make(saved["llama"], ending=-100.0)
    rows = never.generate([[7] * 3, [8] * 5], Sampling(300), [(0, 0), (0, 1)], model="m")
    assert [len(tokens) for tokens, _ in rows] == [253, 251]
    for prompt, (tokens, logprobs) in zip(([7] * 3, [8] * 5), rows):
        assert logprobs == pytest.approx(fresh(never, prompt, tokens), abs=1e-4)


def test_slots_move_whole_rows_and_hide_what_others_left():
    """By hand: three rows of one layer, the first leaves, the last takes its place and goes on."""
    slots = cache.SlotCache(context=16)

    def prefix(*values):
        keys = torch.tensor(values).float().view(1, 1, -1, 1)
        return cache.Prefix(keys, -keys, torch.zeros(1))

    slots.add([prefix(1, 2, 3), prefix(4), prefix(5, 6)], [1, 1, 1])
    assert slots.leave([0]) == [2, 1] and slots.lengths == [2, 1]
    position = slots.step()
    new = torch.tensor([7.0, 8.0]).view(2, 1, 1, 1)
    keys, values = slots.update(new, -new, 0)
    mask = slots.mask(position)
    assert position.tolist() == [[2], [1]]
    assert [k[0, m[0, 0] == 0, 0].tolist() for k, m in zip(keys, mask)] == [[5, 6, 7], [4, 8]]
    assert torch.equal(values, -keys) and keys.shape[2] == 3
    assert (slots.mask(position, window=2)[:, 0, 0] == 0).tolist() == [[False, True, True], [True, True, False]]


def test_a_slot_keeps_nothing_of_the_row_before():
    """What a mask hides is still multiplied, and by 0 a NaN stays NaN."""
    slots = cache.SlotCache(context=64)

    def prefix(length, value):
        return cache.Prefix(*torch.full((2, 1, 2, length, 4), value), torch.zeros(4))

    def attends():
        position = slots.step()
        new = torch.ones(len(slots.lengths), 2, 1, 4)
        keys, values = slots.update(new, new, 0)
        return torch.nn.functional.scaled_dot_product_attention(new, keys, values, attn_mask=slots.mask(position))

    slots.add([prefix(9, torch.nan), prefix(3, 1.0), prefix(9, torch.nan), prefix(12, 1.0)], [1] * 4)
    assert slots.leave([0, 2]) == [3, 1]
    slots.add([prefix(2, 1.0), prefix(2, 1.0)], [1, 1])
    assert torch.isfinite(attends()).all()
    slots.add([prefix(8, torch.nan)], [1])
    assert slots.leave([1]) == [0, 4, 2, 3]  # a short row takes the slot of a NaN
    slots.leave([1])
    slots.add([prefix(14, 1.0)], [1])
    assert torch.isfinite(attends()).all()


def test_more_rows_give_up_the_length_of_one_that_is_gone(monkeypatch):
    monkeypatch.setattr(cache, "SPARE", 4)
    slots = cache.SlotCache(context=1000)
    keys = torch.arange(500.0).view(1, 1, 500, 1)
    long, short = (cache.Prefix(keys[:, :, :n], -keys[:, :, :n], torch.zeros(1)) for n in (500, 10))
    slots.add([long, short], [1, 1])
    slots.leave([0])
    slots.add([short], [7])
    assert slots._keys.shape[1] * slots._keys.shape[3] == 8 * 26
    slots.step()
    assert torch.equal(slots._keys[0, :8, 0, :10, 0], keys[0, 0, :10, 0].expand(8, -1))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("places, limit", [(120, 6), (1, 1)])
def test_long_answers_are_written_few_at_a_time(saved, monkeypatch, padded, places, limit):
    """Rows times the longest stay within the bound, short ones fill up behind long ones, and nothing else changes."""
    made = make(saved["llama"], ending=2.0)
    prompts = [[7] * 30, [8] * 28, *PROMPTS, [9] * 40]
    want = plainly(made, prompts, Sampling(10), seeds(prompts, 2), n=2)
    monkeypatch.setattr(scheduler, "PLACES", places)
    made.padded = padded
    run = made.scheduler()
    requests = [run.submit(p, Sampling(10), [(0, i, 0), (0, i, 1)], "m") for i, p in enumerate(prompts)]
    most = 0
    while run.busy:
        run.step()
        most = max(most, len(run._live))
        assert len(run._live) <= 1 or len(run._live) * max(a.request.longest for a in run._live) <= places
    assert most <= limit and (most == 1 or places > 1)
    assert_same([(a.tokens, a.logprobs) for r in requests for a in r.answers], want)


def test_the_factors_of_few_sets_of_adapters_are_kept(saved):
    made = several(make(saved["llama"]))
    known = {}
    for kinds in (["m", "two"], ["m", "eight"], ["two", "eight"], ["", "m"], ["", "two"], ["m", "two", "eight"]):
        adapters.mixture(made.base, [made.slot(k) for k in kinds], known)
        assert 0 < len(known) <= 4


def test_an_adapter_that_cannot_share_a_batch_waits_for_one_of_its_own(saved):
    """A rare variant: those in the batch go on, then it is alone, then those behind it have their turn."""
    made = make(saved["llama"], ending=-100.0)
    tuners._add(made.base, "odd", LoraConfig(r=4, target_modules="all-linear", lora_bias=True))
    tiny.shake(made.base, "odd")
    made.use("odd", "odd")
    names = ["m", "odd", "m", "odd"]
    want = plainly(made, PROMPTS, Sampling(4), seeds(PROMPTS), models=names)
    run = made.scheduler()
    first = run.submit(PROMPTS[0], Sampling(4), [(0, 0, 0)], "m")
    run.step()
    requests = [first, *(run.submit(p, Sampling(4), [(0, i, 0)], names[i]) for i, p in enumerate(PROMPTS) if i)]
    batches = []
    while run.busy:
        run.step()
        batches.append({a.request.model for a in run._live})
    assert_same([(r.answers[0].tokens, r.answers[0].logprobs) for r in requests], want)
    assert {"m", "odd"} not in batches and {"odd"} in batches
    assert_same(made.generate(PROMPTS, Sampling(4), seeds(PROMPTS), models=names), want)


def test_models_take_turns_for_free_places(saved):
    """Ten answers of one customer wait before one of another: that one is not the eleventh."""
    made = several(make(saved["llama"], ending=-100.0))
    made.rows = 2
    run = made.scheduler()
    ended = []
    requests = {run.submit(PROMPTS[0], Sampling(3), [(0, i, 0)], "m"): "busy" for i in range(10)}
    requests[run.submit(PROMPTS[1], Sampling(3), [(1, 0, 0)], "two")] = "other"
    while run.busy:
        ended += [requests[a.request] for a in run.step()]
    assert ended.index("other") < 2 and ended.count("busy") == 10


def test_alternatives_biases_and_penalties(saved):
    """Against the plain model's logits, by hand."""
    made = make(saved["llama"], ending=-100.0)
    base, prompt = made.base, PROMPTS[0]
    run = made.scheduler()
    how = Sampling(6, temperature=0, alternatives=3, presence_penalty=0.5, frequency_penalty=0.75,
                   logit_bias=((7, 2.0), (8, -3.0)))
    other = run.submit(PROMPTS[1], Sampling(6, temperature=0), [(0, 1, 0)], "m").answers[0]
    answer = run.submit(prompt, how, [(0, 0, 0)], "m").answers[0]
    while run.busy:
        run.step()
    for i, (token, logprob) in enumerate(zip(answer.tokens, answer.logprobs)):
        with adapters.active(base, "slot"), torch.no_grad():
            out = base.model.base_model(input_ids=torch.tensor([prompt + answer.tokens[:i]]), use_cache=False)
            logits = base.logits(out.last_hidden_state[0, -1])
        logits[7] += 2.0
        logits[8] -= 3.0
        for written in set(answer.tokens[:i]):
            logits[written] -= 0.5 + 0.75 * answer.tokens[:i].count(written)
        top = logits.log_softmax(-1).topk(3)
        assert [t for t, _ in answer.alternatives[i]] == top.indices.tolist() and token == top.indices[0]
        assert [p for _, p in answer.alternatives[i]] == pytest.approx(top.values.tolist(), abs=1e-4)
        assert logprob == pytest.approx(float(top.values[0]), abs=1e-4)
    assert len(set(answer.tokens)) > 1 and other.alternatives == []
    assert_same([(other.tokens, other.logprobs)], made.generate([PROMPTS[1]], Sampling(6, temperature=0), [(0, 1, 0)],
                                                               model="m"))


def test_an_error_ends_the_scheduler(saved, monkeypatch):
    made = make(saved["llama"], ending=-100.0)
    run = made.scheduler()
    run.submit(PROMPTS[0], Sampling(4), [(0, 0, 0)], "m")

    def fails(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(run.rows, "read", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        run.step()
    assert not run.busy
    with pytest.raises(AssertionError, match="ended"):
        run.submit(PROMPTS[0], Sampling(4), [(0, 0, 0)], "m")


@pytest.mark.parametrize("padded", [False, True])
def test_requests_come_and_go_between_steps(saved, padded):
    """A late request waits for a place or joins at once; a cancelled one ends where it is; nobody else notices."""
    made = make(saved["llama"], ending=-100.0)
    want = plainly(made, PROMPTS, Sampling(10), seeds(PROMPTS))
    made.padded, made.rows = padded, 3
    run = made.scheduler()
    first = [run.submit(p, Sampling(10), [(0, i, 0)], "m") for i, p in enumerate(PROMPTS[:3])]
    for _ in range(4):
        run.step()
    run.cancel(first[1])
    late = run.submit(PROMPTS[3], Sampling(10), [(0, 3, 0)], "m")
    while run.busy:
        run.step()
    assert first[1].answers[0].tokens == want[1][0][:4] and first[1].done
    for request, (tokens, _) in ((first[0], want[0]), (first[2], want[2]), (late, want[3])):
        assert request.answers[0].tokens == tokens


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_is_exchanged_between_steps_without_losing_a_row(saved, tmp_path, architecture):
    """What was written stays in the cache; from the next token on the new weights write. Slots as padded rows do."""
    found = []
    for padded in (False, True):
        made = several(make(saved[architecture], ending=-100.0))
        made.padded = padded
        adapters.save(made.base, "eight", tmp_path)
        made.load("x", tmp_path)
        adapters.save(made.base, "two", tmp_path)
        run = made.scheduler()
        requests = [run.submit(p, Sampling(12), [(0, i, 0)], name) for i, (p, name) in
                    enumerate(zip(PROMPTS, ("x", "m", "x", "")))]
        for _ in range(5):
            run.step()
        made.load("x", tmp_path)
        while run.busy:
            run.step()
        found.append([(r.answers[0].tokens, r.answers[0].logprobs) for r in requests])
    assert_same(found[0], found[1])
    never = plainly(made, PROMPTS, Sampling(12), seeds(PROMPTS), models=["eight", "m", "eight", ""])
    for i, (tokens, _) in enumerate(never):
        assert (tokens == found[0][i][0]) == (i in (1, 3)) and tokens[:5] == found[0][i][0][:5]
