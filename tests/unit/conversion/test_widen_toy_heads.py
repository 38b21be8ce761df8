"""The shipped start with wider heads is what the tool makes, and computes as the narrow does."""

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from megatron_longrlvr.config.load import RECIPES
from tools.widen_toy_heads import HEAD_DIM, write_wide_heads

# fp32, the same products with zeros between them.
LOGIT_ATOL = 1e-4
NARROW, WIDE = RECIPES / "toy_start", RECIPES / "toy_start_wide"


def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    token_ids = torch.arange(5, 101)[None] % model.config.vocab_size
    with torch.no_grad():
        return model(token_ids).logits, model.config.head_dim


def test_wide_heads_compute_the_same():
    (narrow, _), (wide, head_dim) = logits(NARROW), logits(WIDE)
    assert head_dim == HEAD_DIM
    assert narrow.std() > 1000 * LOGIT_ATOL
    torch.testing.assert_close(wide, narrow, rtol=0, atol=LOGIT_ATOL)


def test_shipped_weights_are_what_the_tool_makes(tmp_path):
    write_wide_heads(NARROW, tmp_path / "made")
    made, shipped = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "made", WIDE)
    )
    assert made.keys() == shipped.keys()
    assert all(torch.equal(made[name], shipped[name]) for name in made)
