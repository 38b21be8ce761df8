"""vLLM on a GPU tells which experts it chose, and the learner follows it.

Experts come in pairs whose router rows differ by about a rounding of bf16, which engine and learner
do not make alike. ``tests/distributed/test_routing_replay.py`` has the same in fp32, without vLLM.
"""

from dataclasses import replace

import pytest
import torch

from megatron_longrlvr.algorithms.rows import experts_of
from megatron_longrlvr.data.toy_tokenizer import toy_vocabulary, write_toy_tokenizer
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.stages import PromptBatch
from tests.support.gpu_marks import needs, needs_gpu
from tests.support.micro_batches import as_micro_batch
from tests.support.spawn import run_distributed
from tests.support.tiny_models import tiny_model
from tests.support.vllm_runs import random_prompts, start_engine

pytestmark = [*needs_gpu, needs("vllm")]

LENGTHS = [70, 3, 41]
PARAMS = SamplingParams(max_response_tokens=24, temperature=1.0, seed=5, returns_experts=True)
# bf16 on both sides: a handful of ulps of log-probabilities between 1 and 8.
REPLAYED_ATOL = 0.25
# What a wrong expert does to a log-probability, at least once in a response.
FREE_GAP = 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "paired"
    model = tiny_model(
        "qwen3_moe",
        vocab_size=len(toy_vocabulary()),
        head_dim=64,
        hidden_size=64,
        intermediate_size=64,
        moe_intermediate_size=64,
        num_experts_per_tok=1,
        mlp_only_layers=[],
    )
    with torch.no_grad():
        for layer in model.model.layers:
            gate = layer.mlp.gate.weight
            gate[1::2] = gate[::2] + 2**-9 * torch.randn_like(gate[::2])
    model.save_pretrained(path)
    write_toy_tokenizer(path)
    return path


def gaps(rank, world_size, folder):  # noqa: ARG001
    """Largest gap between engine and learner, with the engine's choices replayed and without."""
    policy, engine = start_engine(
        folder,
        engine_dtype="bf16",
        model={"dtype": "bf16"},
        changes={"rollout__routing_replay": True},
    )
    engine.publish(0)
    prompts = random_prompts(LENGTHS, vocab_size=len(toy_vocabulary()))
    batch = PromptBatch(step=1, prompts=prompts, group_size=2)
    samples = engine.generate(batch, PARAMS).samples
    rows = [replace(as_micro_batch(one), experts=experts_of(one)) for one in samples]
    found = {}
    for is_replayed in (True, False):
        follower = replace(policy, replays_routing=is_replayed)
        learned = follower.logprobs(rows, temperature=PARAMS.temperature)
        found[is_replayed] = max(
            float((own[row.is_response].cpu() - torch.tensor(one.behavior_logprobs)).abs().max())
            for own, row, one in zip(learned, rows, samples, strict=True)
        )
    return found


def test_replay_of_what_vllm_tells_closes_the_gap(folder):
    (found,) = run_distributed(gaps, 1, folder)
    assert found[True] < REPLAYED_ATOL
    assert found[False] > FREE_GAP
