"""Every listed architecture writes from slots what one unpadded forward pass without a cache gives."""

import pytest
import tiny
import torch
import transformers as hf
from test_architectures import CONFIGS

from tunesmith.contracts import Sampling
from tunesmith.model import adapters
from tunesmith.model import base as bases
from tunesmith.model.engine import LocalEngine

PROMPTS = [[3, 4, 5, 6, 7, 8, 9], [20], [30, 31, 32]]


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_and_logprobs_equal_a_fresh_forward_pass(name, tmp_path, capsys):
    """Windows of 4 and soft caps included; rows refill two places. 1e-4 in float32."""
    torch.manual_seed(3)
    hf.AutoModelForCausalLM.from_config(CONFIGS[name]).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    base = bases.load(str(tmp_path))
    adapters.attach(base, "one", adapters.Method(rank=4, alpha=8), seed=0)
    tiny.shake(base, "one", size=0.1)
    made = LocalEngine(base, rows=2)
    made.use("m", "one")
    seeds = [(5, i, k) for i in range(3) for k in range(2)]
    rows = made.generate(PROMPTS, Sampling(10), seeds, n=2, models=["m", "", "m"])
    for i, (tokens, logprobs) in enumerate(rows):
        prompt = PROMPTS[i // 2]
        with torch.no_grad(), adapters.active(base, "" if i // 2 == 1 else "one"):
            logits = base.model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0]
        want = logits.log_softmax(-1)[range(len(prompt) - 1, len(prompt) + len(tokens) - 1), tokens]
        assert logprobs == pytest.approx(want.tolist(), abs=1e-4)
    assert made.padded is False and "warning" not in capsys.readouterr().err
