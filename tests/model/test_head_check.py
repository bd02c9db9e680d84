"""A base whose logits are scaled in a way that `Base.head` does not know is refused."""

import pytest
import tiny
import torch
import transformers as hf

from tunesmith.errors import ModelError
from tunesmith.model import base as bases

SHAPE = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.1)
IDS = torch.tensor([[5, 6, 7, 8]])


def save(folder, config):
    torch.manual_seed(3)
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [hf.GraniteConfig(**SHAPE, logits_scaling=4.0),
                                    hf.CohereConfig(**SHAPE, logit_scale=0.25),
                                    hf.Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=2.0)])
def test_known_scales_give_the_model_s_own_logits(tmp_path, config, dtype):
    base = bases.load(save(tmp_path, config), dtype=dtype)
    with torch.no_grad():
        own = base.model(input_ids=IDS, use_cache=False).logits
        ours = base.logits(base.trunk(input_ids=IDS, use_cache=False).last_hidden_state)
    torch.testing.assert_close(ours, own)


def test_a_scale_of_its_own_is_refused(tmp_path):
    """HyperCLOVA X multiplies by what Granite divides by."""
    config = hf.AutoConfig.for_model("hyperclovax", **SHAPE, logits_scaling=4.0)
    with pytest.raises(ModelError, match=r"HyperCLOVAX.* scales its logits"):
        bases.load(save(tmp_path, config))
