"""Exports read back: what PEFT, transformers and a GGUF reader find is what the base computes with the adapter."""

import json
import re
from itertools import pairwise

import exported
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tunesmith.errors import Conflict, ModelError, NotFound, SettingsError, UserError
from tunesmith.model import adapters, export, gguf, heads
from tunesmith.model import base as bases
from tunesmith.store import loops, removal

gguf_package = pytest.importorskip("gguf")
IDS = torch.tensor([list(range(3, 23))])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {name: exported.save(root / name, name) for name in ("llama", "llama-3", "gemma", "gpt2")}


def write(adapter, folder, out, format, precision="fp32", **more):
    return export.export(export.Job(adapter, str(folder), format, precision, **more), out)


def read(path):
    reader = gguf_package.GGUFReader(path)
    return ({k: f.contents() for k, f in reader.fields.items()},
            {t.name: torch.from_numpy(np.array(t.data)) for t in reader.tensors})


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_peft_loads_the_folder_on_the_base_that_it_names(workspace, tmp_path, folders, name):
    adapter, base = exported.publish(workspace, folders[name])
    out = write(adapter, folders[name], tmp_path / "out", "peft")
    named = json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = PeftModel.from_pretrained(plain(named), str(out))
    with torch.no_grad():
        assert exported.far(model(IDS).logits[0], exported.logits(base, IDS)) < 1e-5


@pytest.mark.parametrize("method", [adapters.Method(rank=4, alpha=8), adapters.Method(rank=4, alpha=8, rslora=True),
                                    adapters.Method("dora", rank=4, alpha=8), adapters.Method("ia3")],
                         ids=["lora", "rslora", "dora", "ia3"])
@pytest.mark.parametrize("name", ["llama-3", "gpt2"])
def test_transformers_loads_the_merged_model(workspace, tmp_path, folders, name, method, monkeypatch):
    """Tied or not, in several files, with the chat template; biases, Conv1D and norms of DoRA included."""
    monkeypatch.setattr(export, "SHARD", "50KB")
    adapter, base = exported.publish(workspace, folders[name], method)
    out = write(adapter, folders[name], tmp_path / "out", "merged")
    assert len([*out.glob("model*.safetensors")]) > 1
    model = plain(out)
    with torch.no_grad():
        assert exported.far(model(IDS).logits[0], exported.logits(base, IDS)) < 1e-5
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (name == "gpt2")
    assert AutoTokenizer.from_pretrained(out).chat_template == base.chat.template
    assert model.generation_config.eos_token_id == sorted({base.chat.eos, base.chat.end})


def test_rounding_comes_after_the_sum(workspace, tmp_path, folders):
    adapter, _ = exported.publish(workspace, folders["llama"])
    whole = load_file(write(adapter, folders["llama"], tmp_path / "a", "merged") / "model.safetensors")
    half = load_file(write(adapter, folders["llama"], tmp_path / "b", "merged", "bf16") / "model.safetensors")
    assert all(torch.equal(half[k], v.bfloat16()) for k, v in whole.items())


def test_a_gguf_model_holds_the_merged_weights_in_llama_cpps_order(workspace, tmp_path, folders):
    adapter, _ = exported.publish(workspace, folders["llama"])
    want = plain(write(adapter, folders["llama"], tmp_path / "out", "merged")).state_dict()
    facts, found = read(write(adapter, folders["llama"], tmp_path / "m.gguf", "gguf"))
    assert "output.weight" not in found  # tied
    assert torch.equal(found["token_embd.weight"], want["model.embed_tokens.weight"])
    assert torch.equal(found["blk.1.attn_v.weight"], want["model.layers.1.self_attn.v_proj.weight"])
    query = want["model.layers.1.self_attn.q_proj.weight"]
    for head in range(4):
        for pair in range(16):  # row 2i and 2i + 1 of a head turn together
            for half in (0, 1):
                assert torch.equal(found["blk.1.attn_q.weight"][head * 32 + 2 * pair + half],
                                   query[head * 32 + half * 16 + pair])
    assert facts["general.architecture"] == "llama" and facts["llama.attention.head_count_kv"] == 2
    assert facts["tokenizer.ggml.eot_token_id"] != facts["tokenizer.ggml.eos_token_id"]
    assert facts["general.name"] == "m@1" and adapter.base["hash"] in facts["general.description"]


def test_a_gguf_model_of_other_shapes(workspace, tmp_path, folders):
    """Gemma's norms have 1 added, GPT-2's matrices are turned, Llama 3's frequencies are divided."""
    found, want = {}, {}
    for name in ("gemma", "gpt2", "llama-3"):
        adapter, _ = exported.publish(workspace, folders[name], name=name)
        want[name] = plain(write(adapter, folders[name], tmp_path / name, "merged"))
        found[name] = read(write(adapter, folders[name], tmp_path / f"{name}.gguf", "gguf"))[1]
    norm = want["gemma"].state_dict()["model.layers.0.input_layernorm.weight"]
    assert torch.equal(found["gemma"]["blk.0.attn_norm.weight"], norm + 1)
    turned = want["gpt2"].state_dict()["transformer.h.0.mlp.c_fc.weight"]
    assert torch.equal(found["gpt2"]["blk.0.ffn_up.weight"], turned.t())
    config = want["llama-3"].config
    slow, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    usual = 1 / 10000 ** (torch.arange(0, 32, 2) / 32)
    assert torch.allclose(found["llama-3"]["rope_freqs.weight"], usual / slow, rtol=1e-5)
    assert slow[-1] < usual[-1] / 7


@pytest.mark.parametrize("precision", ["fp16", "bf16", "q8_0"])
def test_matrices_are_rounded_and_norms_are_not(workspace, tmp_path, folders, precision):
    adapter, _ = exported.publish(workspace, folders["llama"])
    kinds = gguf_package.GGMLQuantizationType
    want = {"fp16": kinds.F16, "bf16": kinds.BF16, "q8_0": kinds.Q8_0}[precision]
    exact = read(write(adapter, folders["llama"], tmp_path / "a.gguf", "gguf"))[1]
    reader = gguf_package.GGUFReader(write(adapter, folders["llama"], tmp_path / "b.gguf", "gguf", precision))
    for t in reader.tensors:
        assert t.tensor_type == (kinds.F32 if t.name.endswith("_norm.weight") else want)
        back = torch.from_numpy(np.array(gguf_package.quants.dequantize(t.data, t.tensor_type)))
        assert (back - exact[t.name]).abs().max() <= exact[t.name].abs().max() / {"fp16": 2e3, "bf16": 250,
                                                                                  "q8_0": 250}[precision]


@pytest.mark.parametrize("rslora", [False, True])
def test_a_gguf_adapter_holds_the_update(workspace, tmp_path, folders, rslora):
    """alpha / rank B A as llama.cpp computes it is what merging adds; rsLoRA's scale is in B."""
    method = adapters.Method(rank=4, alpha=8, rslora=rslora)
    adapter, _ = exported.publish(workspace, folders["llama"], method)
    facts, found = read(write(adapter, folders["llama"], tmp_path / "l.gguf", "gguf-lora"))
    bare = read(write(adapter, folders["llama"], tmp_path / "b.gguf", "gguf-base"))[1]
    whole = read(write(adapter, folders["llama"], tmp_path / "m.gguf", "gguf"))[1]
    assert (facts["general.type"], facts["adapter.type"], facts["adapter.lora.alpha"]) == ("adapter", "lora", 8)
    names = {n.removesuffix(".lora_a") for n in found if n.endswith(".lora_a")}
    assert len(names) == 14 and len(found) == 28
    for name in names:
        first, second = found[f"{name}.lora_a"], found[f"{name}.lora_b"]
        assert torch.allclose(8 / 4 * second @ first, whole[name] - bare[name], atol=1e-6)


def test_sentencepiece_scores_cut_text_as_the_merges_do():
    """llama.cpp joins the two neighbours whose union scores best; transformers applies the earliest merge."""
    tokenizer = exported.pieces()
    facts = {}

    class Writer:
        def __getattr__(self, name):
            return lambda value: facts.__setitem__(name, value)

    from tunesmith.model.chat import Chat

    gguf._vocabulary(gguf_package, Writer(), Chat(tokenizer), len(tokenizer) + 4)
    texts, scores = facts["add_token_list"], facts["add_token_scores"]
    ids = {t: i for i, t in enumerate(texts)}
    for text in ("the loan of the world", "hello there spaces", "lines and  lines"):
        parts = [*("▁" + text.replace(" ", "▁"))]
        while pairs := [(scores[ids[a + b]], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ids]:
            at = -max(pairs)[1]
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        assert [ids[p] for p in parts] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert facts["add_add_space_prefix"] is True and texts[-1] == f"[PAD{len(texts) - 1}]"
    assert facts["add_token_types"][ids["<0x0A>"]] == gguf_package.TokenType.BYTE


def test_a_reward_models_head_lies_beside(workspace, tmp_path, folders):
    adapter, base = exported.publish(workspace, folders["llama"], head=True)
    want = heads.load(adapter.path, base.device).state_dict()
    for format, place in (("peft", "peft/reward_head.safetensors"), ("merged", "merged/reward_head.safetensors"),
                          ("gguf", "gguf.reward_head.safetensors")):
        write(adapter, folders["llama"], tmp_path / format, format)
        found = load_file(tmp_path / place)
        assert found.keys() == want.keys() and all(torch.equal(found[k], want[k]) for k in want)
    assert "reward = gain" in (tmp_path / "peft/README.md").read_text()


def test_the_card_says_where_it_comes_from(workspace, tmp_path, folders):
    adapter, _ = exported.publish(workspace, folders["llama"])
    out = write(adapter, folders["llama"], tmp_path / "out", "peft", licence="mit", data={"demos": "cc-by-4.0"})
    card = (out / "README.md").read_text()
    for words in ("license: mit", adapter.base["hash"], "| demos: cc-by-4.0 |", "| after: older@1 |", "| --rank | 4 |"):
        assert words in card
    assert json.loads((out / "tunesmith.json").read_text())["base"]["hash"] == adapter.base["hash"]


# ---- refusals

@pytest.mark.parametrize(("method", "format", "words"), [
    (adapters.Method("dora", rank=4, alpha=8), "vllm", r"is DoRA, which vLLM cannot run; .*--format merged"),
    (adapters.Method("dora", rank=4, alpha=8), "gguf-lora", r"is DoRA, which llama.cpp cannot run; .*--format gguf")])
def test_what_a_target_cannot_run_is_refused_with_what_can(workspace, tmp_path, folders, method, format, words):
    adapter, _ = exported.publish(workspace, folders["llama"], method)
    with pytest.raises(ModelError, match=words):
        write(adapter, folders["llama"], tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "refused", "words"), [
    ("IA3", ("vllm", "gguf-lora"), "--format"),
    ("PREFIX_TUNING", ("vllm", "merged", "gguf", "gguf-lora"), "tunesmith serve or take --format peft"),
    ("BOTTLENECK", ("peft", "vllm", "merged", "gguf", "gguf-lora"), "serve it with tunesmith serve")])
def test_refusals_by_kind(workspace, folders, kind, refused, words):
    adapter, _ = exported.publish(workspace, folders["llama"])
    about = json.loads((adapter.path / "adapter_config.json").read_text())
    (adapter.path / "adapter_config.json").write_text(json.dumps(about | {"peft_type": kind}))
    for format in export.FORMATS:
        why = export.refusal(adapter, format)
        assert bool(why) == (format in refused) and (not why or words in why), format


def test_a_full_model_is_no_adapter(workspace, tmp_path, folders):
    _, base = exported.publish(workspace, folders["llama"])
    about = {**base.describe(), "kind": "full"}
    adapter = workspace.publish_adapter("whole", "policy", about, lambda f: adapters.save(base, "one", f), {"run": "r"})
    with pytest.raises(ModelError, match=r"is a full model.*--format merged or gguf"):
        write(adapter, folders["llama"], tmp_path / "out", "peft")
    found = plain(write(adapter, folders["llama"], tmp_path / "out", "merged")).state_dict()
    assert all(torch.equal(found[k], v) for k, v in plain(folders["llama"]).state_dict().items())


@pytest.mark.parametrize(("change", "words"), [
    ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "positions scaled by dynamic"),
    ({"hidden_act": "relu"}, "activation relu"),
    ({"architectures": ["OPTForCausalLM"]}, "OPTForCausalLM is none of the architectures")])
def test_what_llama_cpp_computes_otherwise_is_refused(change, words):
    config = exported.CONFIGS["llama"].__class__.from_dict(
        exported.CONFIGS["llama"].to_dict() | {"architectures": ["LlamaForCausalLM"]} | change)
    with pytest.raises(ModelError, match=words + ".*--format merged"):
        gguf.architecture(config)


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused():
    with pytest.raises(ModelError, match=re.escape("how this tokenizer cuts text (\\w+, bytes)")):
        gguf._splits(json.loads(exported.byte_level(exported.split(r"\w+")).backend_tokenizer.to_str()))


def test_a_window_that_llama_cpp_does_not_slide_ends_the_context():
    windows = {name: gguf._context(exported.CONFIGS[name], gguf.ARCHITECTURES[kind]) for name, kind in (
        ("mistral", "MistralForCausalLM"), ("gemma2", "Gemma2ForCausalLM"), ("qwen2", "Qwen2ForCausalLM"))}
    assert windows == {"mistral": 128, "gemma2": 256, "qwen2": 256}


def test_nothing_is_overwritten_and_nothing_is_left_behind(workspace, tmp_path, folders, monkeypatch):
    adapter, _ = exported.publish(workspace, folders["llama"])
    place = tmp_path / "here"
    place.mkdir()
    (place / "out.gguf").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        write(adapter, folders["llama"], place / "out.gguf", "gguf")
    with pytest.raises(UserError, match="is no folder"):
        write(adapter, folders["llama"], place / "nowhere" / "out", "peft")
    with pytest.raises(SettingsError, match='did you mean "gguf"'):
        write(adapter, folders["llama"], place / "new", "gguff")
    with pytest.raises(SettingsError, match="q8_0 is for"):
        write(adapter, folders["llama"], place / "new", "merged", "q8_0")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_card", full)
    with pytest.raises(Exception, match=r"(?i)no space"):
        write(adapter, folders["llama"], place / "new", "merged")
    assert [p.name for p in place.iterdir()] == ["out.gguf"] and (place / "out.gguf").read_text() == "precious"


def test_another_base_at_the_same_place_is_noticed(workspace, tmp_path, folders):
    adapter, _ = exported.publish(workspace, folders["llama"])
    with pytest.raises(ModelError, match="was trained on base"):
        write(adapter, folders["llama-3"], tmp_path / "out", "merged")


# ---- in again, and away

@pytest.mark.parametrize("head", [False, True])
def test_what_was_exported_comes_in_again_bit_for_bit(workspace, tmp_path, folders, head):
    adapter, _ = exported.publish(workspace, folders["llama"], head=head)
    out = write(adapter, folders["llama"], tmp_path / "out", "peft")
    found = export.read(out)
    assert found.role == adapter.role and found.told["adapter"] == "m@1"
    into = tmp_path / "in"
    into.mkdir()
    export.checked(found, bases.load(str(folders["llama"])))(into)
    for file in ["adapter_model.safetensors", *(["head.safetensors"] if head else [])]:
        there, here = load_file(adapter.path / file), load_file(into / file)
        assert there.keys() == here.keys() and all(torch.equal(there[k], here[k]) for k in there)


def test_an_adapter_of_another_base_is_refused(workspace, tmp_path, folders):
    adapter, _ = exported.publish(workspace, folders["llama"])
    out = write(adapter, folders["llama"], tmp_path / "out", "peft")
    other = bases.load(str(exported.save(tmp_path / "other", "llama", exported.pieces())))
    with pytest.raises(ModelError, match="was trained on a base with hash"):
        export.checked(export.read(out), other)
    (out / "tunesmith.json").unlink()
    with pytest.raises(ModelError, match="a tokenizer with other tokens"):
        export.checked(export.read(out), other)
    (out / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"adapter .*out: "):
        export.checked(export.read(out), bases.load(str(folders["gpt2"])))
    with pytest.raises(UserError, match=r"is no PEFT folder: adapter_config.json: No such file"):
        export.read(tmp_path)


def test_an_adapter_is_removed_unless_something_needs_it(workspace, folders):
    first, base = exported.publish(workspace, folders["llama"])
    exported.publish(workspace, folders["llama"])

    def save(folder):
        adapters.save(base, "one", folder)

    lineage = {"run": "r", "parents": {"after": "m@1"}}
    child = workspace.publish_adapter("child", "policy", base.describe(), save, lineage)
    with pytest.raises(UserError, match="m has the versions 1, 2; say which, as in m@2"):
        removal.remove_adapter(workspace, "m")
    with pytest.raises(Conflict, match="m@1 is needed by adapter child@1, trained from it"):
        removal.remove_adapter(workspace, "m@1")
    assert str(removal.remove_adapter(workspace, "m@2")) == "m@2"
    with pytest.raises(NotFound, match="has no version 2; it has 1"):
        workspace.adapter("m@2")
    assert [str(a) for a in workspace.adapters()] == ["m@1", "child@1"] and first.path.is_dir()
    assert str(exported.publish(workspace, folders["llama"])[0]) == "m@3"  # a number is never used twice
    removal.remove_adapter(workspace, "child")
    removal.remove_adapter(workspace, "m@1")
    assert not first.path.exists() and not child.path.exists()
    with pytest.raises(NotFound, match='no adapter "child"'):
        removal.remove_adapter(workspace, "child")


def test_loops_keep_what_they_serve_and_may_go_back_to(workspace, folders):
    for _ in range(4):
        exported.publish(workspace, folders["llama"])

    def round(candidate, adopted=True):
        found = loops.record(workspace, loops.begin(workspace, "shop", "m@1", {}), "ppo", {"adapter": candidate})
        return loops.adopt(workspace, found, "me") if adopted else found

    for candidate in ("m@2", "m@3"):
        round(candidate)
    tried = round("m@4", adopted=False)
    for name, why in (("m@1", "loop shop, which started from it"), ("m@2", "loop shop, which may go back to it"),
                      ("m@3", "loop shop, which serves it .`tunesmith round rollback shop`"),
                      ("m@4", "round shop 3, which is not over .`tunesmith round refuse shop`")):
        with pytest.raises(Conflict, match=f"{name} is needed by {why}"):
            removal.remove_adapter(workspace, name)
    loops.refuse(workspace, tried, "", "me")
    loops.roll_back(workspace, "shop", "me")
    for name in ("m@3", "m@4"):
        removal.remove_adapter(workspace, name)
    with pytest.raises(Conflict, match="which serves it"):
        removal.remove_adapter(workspace, "m@2")


def test_a_run_at_work_keeps_its_adapter(workspace, folders):
    exported.publish(workspace, folders["llama"])
    run = workspace.start_run("ppo", {}, 0, {"policy": "m@1"})
    with pytest.raises(Conflict, match=f"run {run.id}, which is at work"):
        removal.remove_adapter(workspace, "m")
    run.finish("finished", {})
    removal.remove_adapter(workspace, "m")
    assert workspace.adapters() == []
