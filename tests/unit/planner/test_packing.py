"""The planner's micro-batches are those that the trainer packs, for groups of equal lengths."""

import pytest

from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.planner.packing import pack_groups
from megatron_longrlvr.planner.workload import Lengths
from megatron_longrlvr.trainer.workload import packed_work
from tests.unit.algorithms.builders import advantage_batch, algorithm, prompt, scored_sample

LENGTHS = Lengths(prompt=10, response=3)
GROUP_SIZE = 4


def packed(num_groups, *, budget, is_shared):
    samples = [
        scored_sample(prompt(f"p{group}", num_tokens=LENGTHS.prompt), index, num_tokens=3)
        for group in range(num_groups)
        for index in range(GROUP_SIZE)
    ]
    config = algorithm(micro_batch_tokens=budget, shared_prompt=is_shared, updates_per_step=1)
    batch = advantage_batch(samples, [1.0] * len(samples))
    (update,) = pack(batch, config=config, max_response_tokens=3)
    return update


@pytest.mark.parametrize("is_shared", [True, False])
# A whole group is 22 tokens, half of one 16, a sample 13; 44 holds two groups, 5 none.
@pytest.mark.parametrize("budget", [5, 13, 16, 21, 22, 30, 44, 100])
def test_rows_are_those_of_the_trainer(budget, is_shared):
    update = packed(3, budget=budget, is_shared=is_shared)
    rows = pack_groups(3, LENGTHS, group_size=GROUP_SIZE, budget=budget, shared_prompt=is_shared)
    sizes = sorted(len(micro_batch.token_ids) for micro_batch in update.micro_batches)
    assert sorted(row.tokens for row in rows) == sizes
    assert sum(row.work.pairs for row in rows) == packed_work(update).pairs
    assert sum(row.responses for row in rows) == 3 * GROUP_SIZE * LENGTHS.response
