"""What an update holds besides activations does not grow with the prompt.

Logits exist only for a chunk of response tokens, and no mask or matrix of attention scores exists
at all, whether in the forward or in the backward pass. And a learner that is let go is freed.
"""

import gc
import weakref

import pytest

from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.objectives import policy_gradient
from megatron_longrlvr.model.schedule import run_micro_batches
from megatron_longrlvr.parallel.groups import close_process_groups
from tests.support.learners import TEMPERATURE, start_learner, start_policy
from tests.support.live_tensors import LiveTensors
from tests.support.micro_batches import random_batch
from tests.support.sample_groups import joined, random_groups
from tests.support.tiny_models import VOCAB_SIZE, save_tiny_model

RESPONSES = (40, 25, 33, 38)
CHUNK_TOKENS = 16
PROMPTS = (1024, 2048, 4096, 8192)


def peaks(rank, world_size, folder, prompt_tokens, shared_prompt):  # noqa: ARG001
    """Peak bytes of logits, and of what is larger than any activation, of forward and backward."""
    policy = start_policy(folder, {}, world_size, logprob_chunk_tokens=CHUNK_TOKENS)
    learner = start_learner(policy, distributed=False)
    config = AlgorithmConfig(micro_batch_tokens=10**6, shared_prompt=shared_prompt)
    batch = joined(random_groups(seed=1, shapes=[(prompt_tokens, RESPONSES)]))
    (packed,) = pack(batch, config=config, max_response_tokens=64)
    (row,) = packed.micro_batches
    spec = policy.spec
    widest = max(2 * spec.intermediate_size, 3 * spec.num_heads * spec.head_dim)

    def is_logits(tensor):
        return tensor.dim() == 2 and tensor.size(-1) == VOCAB_SIZE

    def is_square(tensor):
        return tensor.numel() > len(row.token_ids) * widest

    with LiveTensors(is_logits) as logits, LiveTensors(is_square) as squares:
        train_batch = learner.add_logprobs(packed, config)
        run_micro_batches(
            learner.wrapped,
            policy.localize(packed.micro_batches),
            policy_gradient(train_batch, config),
            settings=policy.settings(TEMPERATURE),
            forward_only=False,
        )
    close_process_groups()
    return logits.peak_bytes, squares.peak_bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tiny_model(path, "llama", num_layers=1)
    return path


@pytest.mark.parametrize("shared_prompt", [True, False], ids=["shared", "repeated"])
def test_logits_and_masks_are_flat_in_the_prompt(pool1, folder, shared_prompt):
    prompts = PROMPTS if shared_prompt else PROMPTS[:2]
    found = [pool1.run(peaks, folder, tokens, shared_prompt)[0] for tokens in prompts]
    logits = {logits for logits, _ in found}
    assert len(logits) == 1, "the same responses, the same logits"
    one_chunk = CHUNK_TOKENS * VOCAB_SIZE * 4
    # Logits, their exponentials, slope and gradient of one chunk, and what is left of the last one.
    assert one_chunk < logits.pop() <= 12 * one_chunk
    assert [squares for _, squares in found] == [0] * len(prompts)


def learner_outlives_its_use(rank, world_size, folder):  # noqa: ARG001
    policy = start_policy(folder, {}, world_size)
    learner = start_learner(policy)
    config = AlgorithmConfig(micro_batch_tokens=64)
    learner.update(learner.add_logprobs(random_batch(seed=1), config), config)
    model = weakref.ref(learner.wrapped[0])
    del policy, learner
    close_process_groups()
    gc.collect()
    return model() is not None


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_learner_is_freed_with_its_last_reference(pool1, tmp_path, family):
    save_tiny_model(tmp_path, family)
    assert pool1.run(learner_outlives_its_use, tmp_path) == [False]
