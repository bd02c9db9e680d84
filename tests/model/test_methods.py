"""Every adapter method keeps the same promises: it starts as the base, learns alone, and is the same elsewhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from peft import IA3Config, PeftModel, get_peft_model
from test_architectures import CONFIGS
from transformers import AutoModelForCausalLM

from tunesmith.contracts import Sampling
from tunesmith.errors import ModelError
from tunesmith.model import adapters, heads, recompute
from tunesmith.model import base as bases
from tunesmith.model.batch import Tree, build, hidden
from tunesmith.model.engine import LocalEngine
from tunesmith.model.scorer import RewardModel, token_logprobs
from tunesmith.records import Message, Prompt

METHODS = tiny.METHODS
VIRTUAL = ("prefix", "prompt")
IN_PLACE = [name for name in METHODS if name not in VIRTUAL]
"""These compute every token in its place and start as the base; virtual tokens do neither."""
TREES = (Tree((3, 4, 5, 6, 7), ((9, 10, 11, 12), (13,))), Tree((20, 21), ((22, 23, 24, 25, 26, 27),)))


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@torch.no_grad()
def states(base, name, trees=TREES):
    with adapters.active(base, name):
        return hidden(base, build(trees))


def with_all(folder):
    """A base with every method attached, all of whose weights matter."""
    base = bases.load(str(folder))
    for i, (name, how) in enumerate(METHODS.items()):
        adapters.attach(base, name, how, i)
        tiny.shake(base, name, i)
    return base


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def crowd(request, saved):
    return with_all(saved[request.param])


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_a_fresh_adapter_is_the_base_to_the_bit(saved, architecture, name):
    base = bases.load(str(saved[architecture]))
    bare = states(base, "")
    adapters.attach(base, "policy", METHODS[name], 0)
    assert torch.equal(states(base, "policy"), bare)
    tiny.shake(base, "policy")
    assert (states(base, "policy") - bare).abs().max() > 0.1 and torch.equal(states(base, ""), bare)


def test_the_seed_decides_the_weights(base, method):
    found = []
    for seed in (3, 3, 4):
        adapters.attach(base, "policy", METHODS[method], seed)
        found.append(torch.cat([p.flatten() for p in adapters.parameters(base, "policy").values()]).clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2]) == (method in ("ia3", *VIRTUAL))  # these draw nothing


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_reach_its_own_weights_and_no_others(saved, method, checkpointed):
    """Each role is trained in turn on one base; activations computed again give the same gradient."""
    base = with_all(saved["llama"])
    recompute.use(base, checkpointed)
    weights = adapters.trainable(base, method)
    with adapters.active(base, method):
        states = hidden(base, build(TREES))
    base.logits(states).log_softmax(-1).square().sum().backward()
    found = {k: p.grad.clone() for k, p in weights.items()}
    assert all(g.abs().max() > 0 for g in found.values())
    others = [p for name in METHODS if name != method for p in adapters.parameters(base, name).values()]
    assert others and not any(p.requires_grad or p.grad is not None for p in others)
    mine = {id(p) for p in weights.values()}
    assert all(p.grad is None for p in base.model.parameters() if id(p) not in mine)
    if checkpointed:
        recompute.use(base, False)
        for p in weights.values():
            p.grad = None
        with adapters.active(base, method):
            base.logits(hidden(base, build(TREES))).log_softmax(-1).square().sum().backward()
        for k, p in weights.items():
            torch.testing.assert_close(p.grad, found[k], rtol=1e-5, atol=1e-5 * float(p.grad.abs().max()))


def test_training_one_leaves_the_others_as_they_were(saved, method):
    """Without interference: after B has learned beside A, A's outputs are the same bits."""
    base = with_all(saved["llama"])
    before = {name: states(base, name) for name in ("", *METHODS)}
    optimizer = torch.optim.AdamW(adapters.trainable(base, method).values(), lr=0.1)
    for _ in range(2):
        with adapters.active(base, method):
            base.logits(hidden(base, build(TREES))).log_softmax(-1)[:, 7].sum().backward()
        optimizer.step()
    for name, was in before.items():
        assert torch.equal(states(base, name), was) == (name != method), name


def test_a_copy_shares_nothing_and_a_removed_one_is_gone(crowd, method):
    adapters.copy(crowd, method, "reference")
    start = states(crowd, method)
    assert torch.equal(states(crowd, "reference"), start)
    tiny.shake(crowd, "reference", 99)
    assert torch.equal(states(crowd, method), start) and not torch.equal(states(crowd, "reference"), start)
    adapters.remove(crowd, "reference")
    assert "reference" not in adapters.names(crowd)
    with pytest.raises(ModelError, match="not attached"), adapters.active(crowd, "reference"):
        pass


def test_a_name_passes_from_one_method_to_another(saved, tmp_path):
    """The same role in a second run on this base, trained another way."""
    base = bases.load(str(saved["llama"]))
    for name in (*METHODS, "usual"):
        adapters.attach(base, "policy", METHODS[name], 0)
        tiny.shake(base, "policy")
        assert adapters.names(base) == ["policy"]
        want = states(base, "policy")
        adapters.save(base, "policy", tmp_path)
    adapters.attach(base, "other", METHODS["ia3"], 0)
    adapters.load(base, "other", tmp_path)
    assert sorted(adapters.names(base)) == ["other", "policy"] and torch.equal(states(base, "other"), want)


ELSEWHERE = """
import json, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tunesmith.model import adapters
from tunesmith.model import base as bases
from tunesmith.model.batch import Tree, build, hidden
from tunesmith.model.scorer import RewardModel
from tunesmith.records import Message, Prompt

base = bases.load(sys.argv[1])
for folder in map(Path, sys.argv[2:]):
    model = RewardModel.load(base, folder)
    scores = model.score(Prompt((Message("user", "hello there"),)), ("yes", "no, not at all", ""))
    adapters.load(base, "policy", folder)
    with adapters.active(base, "policy"), torch.no_grad():
        states = hidden(base, build([Tree((3, 4, 5), ((9, 10), (13,)))]))
    print(json.dumps([[s.hex() for s in scores], [x.hex() for x in states.flatten().tolist()]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_new_process_gets_bit_equal_scores_and_hidden_states(saved, tmp_path, architecture):
    base = with_all(saved[architecture])
    want = []
    for name in METHODS:
        folder = tmp_path / name
        folder.mkdir()
        head = heads.ScalarHead(base.width, torch.Generator().manual_seed(5))
        adapters.save(base, name, folder)
        head.save(folder)
        scores = RewardModel(base, name, head).score(Prompt((Message("user", "hello there"),)),
                                                     ("yes", "no, not at all", ""))
        found = states(base, name, [Tree((3, 4, 5), ((9, 10), (13,)))]).flatten().tolist()
        want.append([[s.hex() for s in scores], [x.hex() for x in found]])
    command = [sys.executable, "-c", ELSEWHERE, str(saved[architecture]), *(str(tmp_path / n) for n in METHODS)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("[[")]
    assert lines == want and len({str(x) for x in lines}) == len(METHODS)


@pytest.mark.parametrize("name", ["usual", "rslora", "dora", "ia3"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_the_saved_directory_is_plain_peft(saved, tmp_path, architecture, name):
    base = bases.load(str(saved[architecture]))
    adapters.attach(base, "policy", METHODS[name], 0)
    tiny.shake(base, "policy")
    adapters.save(base, "policy", tmp_path)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with adapters.active(base, "policy"), torch.no_grad():
        ours = base.logits(base.trunk(input_ids=ids).last_hidden_state)
    plain = AutoModelForCausalLM.from_pretrained(saved[architecture], attn_implementation="sdpa")
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(plain, str(tmp_path)).eval()(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["inference_mode"] and config["base_model_name_or_path"] == str(saved[architecture])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("targets", [None, "all-linear", r".*\.1\..*(k_proj|down_proj|mlp\.c_proj)"])
def test_ia3_made_with_peft_computes_the_same_here(saved, tmp_path, architecture, targets):
    """Its own choice of layers, all of them, and a regular expression."""
    plain = AutoModelForCausalLM.from_pretrained(saved[architecture], attn_implementation="sdpa")
    forward = {"feedforward_modules": r".*(down_proj|mlp\.c_proj)"} if targets else {}
    made = get_peft_model(plain, IA3Config(target_modules=targets, task_type="CAUSAL_LM", **forward)).eval()
    with torch.no_grad():
        for p in made.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        want = made(input_ids=ids).logits
        made.save_pretrained(tmp_path)
        base = bases.load(str(saved[architecture]))
        adapters.load(base, "x", tmp_path)
        with adapters.active(base, "x"):
            ours = base.logits(base.trunk(input_ids=ids).last_hidden_state)
        bare = base.logits(base.trunk(input_ids=ids).last_hidden_state)
    assert torch.allclose(ours, want, atol=1e-5) and (ours - bare).abs().max() > 0.05


@pytest.mark.parametrize("architecture", CONFIGS)
def test_ia3_has_its_layers_in_every_architecture(tmp_path, architecture):
    """Keys, values and the last of the MLP in each block, computed as PEFT does; also under LoRA attached later."""
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(CONFIGS[architecture]).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    base = bases.load(str(tmp_path))
    adapters.attach(base, "ia3", METHODS["ia3"], 0)
    tiny.shake(base, "ia3")
    layers = [key.removesuffix(".ia3_l") for key in adapters.parameters(base, "ia3")]
    last = [name for name in layers if name.endswith(("down_proj", "fc2", "dense_4h_to_h", "mlp.c_proj"))]
    keys = [name for name in layers if name.endswith(("k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn"))]
    assert len(last) == 2 and len(keys) in (2, 4) and len(layers) == len(last) + len(keys)
    (tmp_path / "ia3").mkdir()
    adapters.save(base, "ia3", tmp_path / "ia3")
    ids = torch.arange(5, 14)[None]
    with torch.no_grad(), adapters.active(base, "ia3"):
        alone = base.trunk(input_ids=ids).last_hidden_state
        adapters.attach(base, "policy", METHODS["usual"], 0)
        tiny.shake(base, "policy")
        ours = base.trunk(input_ids=ids).last_hidden_state
    assert torch.equal(ours, alone)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(plain, str(tmp_path / "ia3")).eval()(input_ids=ids).logits
    assert torch.allclose(base.logits(ours), theirs, atol=1e-5 * float(theirs.abs().max()))


def test_ia3_of_something_else_is_refused(saved, tmp_path):
    plain = AutoModelForCausalLM.from_pretrained(saved["llama"])
    made = get_peft_model(plain, IA3Config(target_modules=["k_proj"], feedforward_modules=[], modules_to_save=["norm"]))
    made.save_pretrained(tmp_path / "a")
    base = bases.load(str(saved["llama"]))
    with pytest.raises(ModelError, match="modules_to_save"):
        adapters.load(base, "x", tmp_path / "a")
    adapters.attach(base, "ia3", METHODS["ia3"], 0)
    adapters.save(base, "ia3", tmp_path)
    with pytest.raises(ModelError, match="has no such layer"):
        adapters.load(bases.load(str(saved["gpt2"])), "x", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config |= {"target_modules": ["embed_tokens"], "feedforward_modules": []}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"adapts model\.embed_tokens; only linear layers"):
        adapters.load(base, "x", tmp_path)
    assert adapters.names(base) == ["ia3"]


def test_rows_of_all_methods_share_a_batch(crowd):
    """Each token has its own adapter, the bare base among them, in uneven groups."""
    names = ["ia3", "", "houlsby", "usual", "parallel", "dora", "pfeiffer", "rslora", "houlsby", ""]
    ids = torch.arange(5, 10).repeat(len(names), 1) + torch.arange(len(names))[:, None]

    @torch.no_grad()
    def through():
        return crowd.trunk(input_ids=ids, use_cache=False).last_hidden_state

    with adapters.mixed(crowd, adapters.mixture(crowd, [n for n in names for _ in range(5)])):
        together = through()
    for i, name in enumerate(names):
        with adapters.active(crowd, name):
            torch.testing.assert_close(together[i], through()[i], rtol=1e-5, atol=1e-5)
    assert all(adapters.shares(crowd, name) for name in names)


@pytest.mark.parametrize("steps", [6, 60])  # in one batch; and alone, where LoRA and DoRA are folded
def test_what_is_served_is_what_is_scored(crowd, steps):
    """Log-probs of the engine's answers, one customer per method, equal a fresh pass over them."""
    engine = LocalEngine(crowd, rows=6)
    for name in METHODS:
        engine.use(name, name)
    prompts = [[5 + i, 6, 7] for i in range(len(METHODS))]
    seeds = [(0, i, 0) for i in range(len(METHODS))]
    rows = (engine.generate(prompts, Sampling(steps), seeds, models=list(METHODS)) if steps < 48 else
            [engine.generate([p], Sampling(steps), [s], model=m)[0] for p, s, m in zip(prompts, seeds, METHODS)])
    for name, prompt, (tokens, logprobs) in zip(METHODS, prompts, rows):
        want = token_logprobs(crowd, name, build([Tree(tuple(prompt), (tuple(tokens),))]))
        assert logprobs == pytest.approx(want.tolist(), abs=2e-4), name
