"""The base: padding that is never eos, an untouched embedding, no dropout, clear refusals."""

import pytest
import tiny
import torch

from tunesmith.errors import ModelError
from tunesmith.model import base as bases


@pytest.mark.parametrize("pad", ["<eos>", None, "<pad>"])
def test_pad_is_never_eos_and_the_embedding_keeps_its_size(saved, tmp_path, pad):
    """Checklist 2."""
    tok = tiny.tokenizer()
    model = tiny.model("llama", len(tok))
    model.save_pretrained(tmp_path)
    tok.pad_token = pad
    tok.save_pretrained(tmp_path)
    base = bases.load(str(tmp_path))
    assert base.pad != base.tokenizer.eos_token_id and 0 <= base.pad < len(tok)
    assert base.model.get_input_embeddings().num_embeddings == len(tok)
    assert base.hash == bases.load(str(saved["llama"])).hash


def test_a_pad_token_without_a_row_in_the_embedding_is_not_used(tmp_path):
    """Checklist 2."""
    tok = tiny.tokenizer()
    tiny.model("llama", len(tok)).save_pretrained(tmp_path)
    tok.add_special_tokens({"pad_token": "<|new|>"})
    tok.save_pretrained(tmp_path)
    base = bases.load(str(tmp_path))
    assert base.tokenizer.pad_token_id == 261 and base.pad == 0


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_trunk_and_logits_are_the_models_own(saved, architecture):
    base = bases.load(str(saved[architecture]))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        ours = base.logits(base.trunk(input_ids=ids).last_hidden_state)
        assert torch.equal(ours, base.model(input_ids=ids).logits)
    assert (base.width, base.context) == (32, 256)
    assert base.parameters == sum(p.numel() for p in base.model.parameters())


def test_dropout_is_off_and_the_base_frozen(saved):
    """Checklist 13. GPT-2 has dropout 0.1 in its configuration."""
    base = bases.load(str(saved["gpt2"]))
    assert base.model.config.resid_pdrop == 0.1
    assert not any(m.training for m in base.model.modules())
    assert not any(p.requires_grad for p in base.model.parameters())


def test_the_hash_names_the_weights(saved):
    base = bases.load(str(saved["llama"]))
    assert base.hash == bases.load(str(saved["llama"]), spec="another name").hash
    assert base.hash != bases.load(str(saved["qwen3"])).hash
    with torch.no_grad():
        next(base.model.parameters())[0, 0] += 1
    assert bases._weights_hash(base.model) != base.hash


def test_nothing_there_is_one_clear_line(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json there"):
        bases.load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="cannot be loaded") as e:
        bases.load(str(tmp_path))
    assert "\n" not in str(e.value)
