"""Prefix tuning and prompt tuning against PEFT's own computation, against the text they start from, and in company."""

import json
import subprocess
import sys

import peft
import pytest
import tiny
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from test_architectures import CONFIGS, PACKED, TREES, far

from tunesmith.contracts import Sampling
from tunesmith.errors import ModelError, UserError
from tunesmith.model import adapters, attention, decoding, prefix, recompute
from tunesmith.model import base as bases
from tunesmith.model.attention import Span
from tunesmith.model.batch import Tree, build, hidden
from tunesmith.model.engine import LocalEngine
from tunesmith.model.scorer import token_logprobs
from tunesmith.model.virtual import Virtual

KINDS = ("prefix", "prompt")
FEW = ("llama", "qwen2-window", "gemma2", "gpt2", "opt")
"""Grouped heads, a window, capped scores, learned positions; the rest of `CONFIGS` in the slow run."""
PROMPTS = [[3, 4, 5, 6, 7, 8, 9], [20], [30, 31, 32], [40, 41], [50, 51]]


def often(names, default=FEW):
    return [pytest.param(name, marks=[] if name in default else pytest.mark.slow) for name in names]


def made(folder, name="llama"):
    """A tiny base of an architecture."""
    torch.manual_seed(3)
    hf.AutoModelForCausalLM.from_config(CONFIGS[name]).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    base = bases.load(str(folder))
    base.folder = folder
    return base


def attach(base, kind, tokens=6, name="one", **more):
    adapters.attach(base, name, adapters.Method(kind, virtual_tokens=tokens, **more), 0)


@pytest.fixture
def base(tmp_path):
    return made(tmp_path / "base")


@pytest.fixture(params=[0, attention.SHORT], ids=["spans", "joined"])
def joined(request, monkeypatch):
    monkeypatch.setattr(attention, "SHORT", request.param)


def states(base, trees=TREES, name="one", way="tree"):
    with torch.no_grad(), adapters.active(base, name):
        return hidden(base, build(trees), way)


def row_by_row(model, trees):
    """Logits of separate unpadded rows, in the order of the stream; PEFT may give those of virtual tokens before."""
    found = []
    for tree in trees:
        rows = [tree.prompt + answer for answer in tree.answers]
        each = [model(input_ids=torch.tensor([row])).logits[0, -len(row):] for row in rows]
        length = len(tree.prompt)
        found += [each[0][:length], *(x[length:] for x in each)]
    return torch.cat(found)


def gradient(logits, weight):
    factors = torch.linspace(-1, 2, len(logits))
    loss = (logits.log_softmax(-1)[:, 7] * factors).sum() + (logits.sin().mean(1) * factors.flip(0)).sum()
    return torch.autograd.grad(loss, weight)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", often(CONFIGS))
def test_tree_and_padded_rows_equal_peft_s_own_forward_pass(tmp_path, name, kind, capsys):
    """Logits 1e-5 and gradients 1e-4 of the largest, on weights of no text; PEFT loads what was saved."""
    base = made(tmp_path / "base", name)
    attach(base, kind)
    tiny.shake(base, "one", size=0.5)
    adapters.save(base, "one", tmp_path)
    model = hf.AutoModelForCausalLM.from_pretrained(base.folder, attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(model, tmp_path).eval()
    (own,) = adapters.trainable(base, "one").values()
    weight = theirs.prompt_encoder["default"].embedding.weight.requires_grad_()
    logits = row_by_row(theirs, TREES)
    wanted = gradient(logits, weight)
    for way in ("tree", "padded"):
        with adapters.active(base, "one"):
            found = base.logits(hidden(base, build(TREES), way))
            assert far(found.detach(), logits.detach()) < 1e-5, way
            assert far(gradient(found, own), wanted) < 1e-4, way
    assert base.takes_trees and "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FEW)
def test_a_fresh_adapter_is_its_text(tmp_path, name, kind):
    """It computes what the base computes behind that text."""
    base = made(tmp_path, name)
    attach(base, kind, 9, init_text="Be kind!")
    text = tuple(base.tokenizer("Be kind!")["input_ids"])
    assert len(text) == 8
    longer = [Tree(text + text[:1] + t.prompt, t.answers) for t in TREES]
    with torch.no_grad(), adapters.active(base, ""):
        batch = build(longer)
        want = hidden(base, batch, at=batch.source_N)
    assert far(states(base)[build(TREES).source_N], want) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_peft_made_computes_the_same(base, tmp_path, kind):
    """With PEFT's own random start; a prefix made by an MLP too."""
    how = dict(task_type="CAUSAL_LM", num_virtual_tokens=5)
    configs = {"prompt": [peft.PromptTuningConfig(**how)],
               "prefix": [peft.PrefixTuningConfig(**how),
                          peft.PrefixTuningConfig(**how, prefix_projection=True, encoder_hidden_size=12)]}
    for i, config in enumerate(configs[kind]):
        theirs = peft.get_peft_model(hf.AutoModelForCausalLM.from_pretrained(base.folder), config).eval()
        theirs.save_pretrained(tmp_path / str(i))
        adapters.load(base, "one", tmp_path / str(i))
        with torch.no_grad():
            assert far(base.logits(states(base)), row_by_row(theirs, TREES)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_without_it_and_lora_beside_it_are_what_they_were(base, kind):
    """Bit for bit."""
    adapters.attach(base, "lora", adapters.Method(rank=4, alpha=8), 0)
    tiny.shake(base, "lora")
    before = [states(base, name=name) for name in ("", "lora")]
    attach(base, kind)
    tiny.shake(base, "one")
    assert far(states(base), before[0]) > 1e-2
    assert all(torch.equal(states(base, name=name), want) for name, want in zip(("", "lora"), before))
    adapters.remove(base, "one")
    assert adapters.names(base) == ["lora"]


@pytest.mark.parametrize("kind", KINDS)
def test_at_some_positions_and_with_activations_computed_again(base, kind):
    """The same states and gradients."""
    attach(base, kind)
    (weight,) = adapters.trainable(base, "one").values()
    batch = build(TREES)
    found = []
    for again in (False, True):
        recompute.use(base, again)
        with adapters.active(base, "one"):
            out = hidden(base, batch, at=batch.source_N)
            found.append((out.detach(), *torch.autograd.grad(out.sin().sum(), weight)))
    recompute.use(base, False)
    assert far(found[0][0], states(base)[batch.source_N]) < 1e-6
    assert found[0][1].abs().max() > 0 and all(torch.equal(a, b) for a, b in zip(*found))


def moved(base, trees, k, change=lambda spans: spans):
    """How far states elsewhere and in span k move when every token of span k changes."""
    batch = build(trees)
    changed = batch.tokens_T.clone()
    own = torch.zeros_like(changed, dtype=torch.bool)
    own[batch.spans[k].start:batch.spans[k].end] = True
    changed[own] += 100
    found = []
    for tokens in (batch.tokens_T, changed):
        object.__setattr__(batch, "tokens_T", tokens)
        object.__setattr__(batch, "spans", change(build(trees).spans))
        with torch.no_grad(), adapters.active(base, "one"):
            found.append(hidden(base, batch))
    difference = (found[0] - found[1]).abs().amax(1)
    return float(difference[~own].max()), float(difference[own].min())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trees, k", [(PACKED, 0), (PACKED, 1), (TREES, 1), (TREES, 2), (TREES, 4)])
def test_documents_and_siblings_never_see_each_other(base, joined, kind, trees, k):
    """Changing one document, or one answer, moves no other by a bit, though all see the virtual tokens."""
    attach(base, kind)
    others, itself = moved(base, trees, k)
    assert others == 0.0 and itself > 1e-4


def test_that_test_would_notice(base, joined):
    attach(base, "prefix")
    wrong = moved(base, PACKED, 2, lambda s: (*s[:3], Span(s[3].start, s[3].end, (s[2].start, s[2].end))))
    assert wrong[0] > 1e-4


def crowd(base):
    """Five models, four of them adapters: two prefixes, one prompt, one LoRA."""
    for i, (name, kind, tokens) in enumerate([("a", "prefix", 6), ("b", "prefix", 3), ("c", "prompt", 5),
                                              ("l", "lora", 1)]):
        adapters.attach(base, name, adapters.Method(kind, 4, 8, virtual_tokens=tokens), 0)
        tiny.shake(base, name, seed=i, size=0.1 if kind == "lora" else 0.4)
    return ["a", "b", "", "l", "c"]


def engine(base, models, padded=None, rows=64):
    found = LocalEngine(base, rows=rows, padded=padded)
    for name in filter(None, models):
        found.use(name, name)
    return found


def write(base, models, padded=None, rows=64, prompts=PROMPTS, n=2):
    seeds = [(5, PROMPTS.index(p), k) for p in prompts for k in range(n)]
    return engine(base, models, padded, rows).generate(prompts, Sampling(10), seeds, n=n, models=models)


@pytest.mark.parametrize("padded", [None, True])
@pytest.mark.parametrize("name", often(CONFIGS, ("gemma2", "gpt2")))
def test_a_mixed_batch_writes_what_each_writes_alone_and_what_a_fresh_pass_gives(tmp_path, name, padded):
    """{prefix A, prefix B, bare base, LoRA, prompt tuning} in one batch with refills; 1e-4 on log-probs."""
    base = made(tmp_path, name)
    models = crowd(base)
    rows = write(base, models, padded, rows=4)
    for i, model in enumerate(models):
        alone = write(base, [model], padded, rows=1, prompts=[PROMPTS[i]])
        for (tokens, logprobs), (others, same) in zip(rows[2 * i:2 * i + 2], alone, strict=True):
            batch = build([Tree(tuple(PROMPTS[i]), (tuple(tokens),))])
            fresh = token_logprobs(base, model, batch, layout="padded")
            assert tokens == others and logprobs == pytest.approx(same, abs=1e-4)
            assert logprobs == pytest.approx(fresh.tolist(), abs=1e-4)


def test_no_row_sees_another_s_virtual_tokens(base, monkeypatch):
    """Changing prefix A moves A's answers' log-probs and no other bit; that would be noticed."""
    models = crowd(base)

    def unmoved():
        before = write(base, models, padded=False)
        with torch.no_grad():
            base.virtual["a"].weight.add_(torch.linspace(-0.5, 0.5, 6 * 64).view(6, 64))
        return [a == b for a, b in zip(before, write(base, models, padded=False))]

    assert unmoved() == [False] * 2 + [True] * 8
    monkeypatch.setattr(attention, "SHORT", 0)
    assert unmoved() == [False] * 2 + [True] * 8
    monkeypatch.setattr(decoding, "groupby", lambda prompts, key: [(base.virtual["a"], prompts)])  # all below A's
    assert not any(unmoved())


@pytest.mark.parametrize("kind", KINDS)
def test_training_one_leaves_the_other_and_its_copy_as_they_were(base, kind):
    """Bit for bit: a copy shares no memory, and gradients reach nobody else."""
    attach(base, kind, name="a")
    attach(base, kind, name="b")
    adapters.copy(base, "a", "reference")
    before = [states(base, name=n) for n in ("a", "b", "reference")]
    weights = adapters.trainable(base, "b")
    optimizer = torch.optim.AdamW(weights.values(), lr=0.1)
    with adapters.active(base, "b"):
        hidden(base, build(TREES)).sin().sum().backward()
    optimizer.step()
    a, b, reference = (states(base, name=n) for n in ("a", "b", "reference"))
    assert torch.equal(a, before[0]) and torch.equal(reference, before[2]) and far(b, before[1]) > 1e-3
    assert all(p.grad is None for p in base.model.parameters()) and base.virtual["a"].weight.grad is None


def test_another_method_under_the_same_name_takes_its_place(base):
    attach(base, "prefix")
    adapters.attach(base, "one", adapters.Method(rank=4), 0)
    assert adapters.names(base) == ["one"] and torch.equal(states(base), states(base, name=""))
    attach(base, "prompt")
    assert adapters.names(base) == ["one"] and not torch.equal(states(base), states(base, name=""))


ELSEWHERE = """
import json, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tunesmith.model import adapters
from tunesmith.model import base as bases
from tunesmith.model.batch import Tree, build, hidden

base, found = bases.load(sys.argv[1]), []
for folder in sys.argv[2:]:
    adapters.load(base, "policy", Path(folder))
    with adapters.active(base, "policy"), torch.no_grad():
        states = hidden(base, build([Tree((5, 6, 7), ((8, 9), (10,)))]))
    found.append([x.hex() for x in states.flatten().tolist()])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_new_process_gets_bit_equal_hidden_states(base, tmp_path):
    here, folders = [], [tmp_path / kind for kind in KINDS]
    for kind, folder in zip(KINDS, folders):
        folder.mkdir()
        attach(base, kind)
        tiny.shake(base, "one")
        adapters.save(base, "one", folder)
        here.append([x.hex() for x in states(base, [Tree((5, 6, 7), ((8, 9), (10,)))]).flatten().tolist()])
    there = subprocess.run([sys.executable, "-c", ELSEWHERE, str(base.folder), *map(str, folders)],
                           capture_output=True, text=True, check=True)
    assert json.loads(there.stdout) == here


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_the_trained_part_stays_fp32(base, kind):
    """And computes what it computes in fp32, within bf16's rounding."""
    attach(base, kind)
    want = states(base)
    for p in base.model.parameters():
        p.data = p.data.bfloat16()
    found = states(base)
    assert found.dtype == torch.bfloat16 and base.virtual["one"].weight.dtype == torch.float32
    assert far(found.float(), want) < 0.05


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_virtual_tokens_take_their_part_of_the_context(tmp_path, name):
    """Of 64 positions 50 are left: a sequence may fill them, the engine stops there, and more is refused."""
    base = made(tmp_path, name)
    attach(base, "prefix", 14)
    assert adapters.room(base, "one", "") == 50 and adapters.room(base, "") == base.context == 64
    assert states(base, [Tree(tuple(range(3, 43)), (tuple(range(3, 13)),))]).isfinite().all()
    made_of = engine(base, ["one"])
    ((tokens, _),) = made_of.generate([list(range(3, 43))], Sampling(40), [(1,)], model="one")
    assert len(tokens) <= 10
    with pytest.raises(UserError, match="takes 64, 14 of them virtual"):
        made_of.generate([list(range(3, 53))], Sampling(4), [(1,)], model="one")
    with pytest.raises(ModelError, match="64 virtual tokens leave no room in the 64"):
        attach(base, "prefix", 64, name="big")
    assert adapters.names(base) == ["one"]


def test_what_does_not_fit_is_refused_and_nothing_is_attached(base, tmp_path):
    attach(base, "prefix")
    adapters.save(base, "one", tmp_path)
    other = made(tmp_path / "other", "gpt2")
    with pytest.raises(ModelError, match=r"shape \[6, 128\]|does not fit base"):
        adapters.load(other, "one", tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({"lora_A": load_file(file)["prompt_embeddings"]}, file)
    with pytest.raises(ModelError, match=r"it holds \{'lora_A'"):
        adapters.load(base, "two", tmp_path)
    assert adapters.names(other) == [] and adapters.names(base) == ["one"]


def test_a_base_that_does_not_see_them_rightly_is_refused(base, monkeypatch):
    """Keys and values that a cache does not get, or that end up elsewhere."""
    monkeypatch.setattr(Virtual, "pairs", property(lambda v: torch.zeros(v.tokens, 4, 2, 8)))
    with pytest.raises(ModelError, match="does not see virtual tokens as it sees the text"):
        attach(base, "prefix")
    monkeypatch.undo()
    monkeypatch.setattr(base.model.config, "num_hidden_layers", 3)
    with pytest.raises(ModelError, match="take --adapter prompt"):
        attach(base, "prefix")
    assert adapters.names(base) == []


def test_a_text_without_a_token_is_refused(base, monkeypatch):
    monkeypatch.setattr(prefix, "TEXT", "")
    with pytest.raises(ModelError, match="holds no token"):
        attach(base, "prompt")
