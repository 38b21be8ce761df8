"""Long responses: the charge by hand; what leaves the loss stays in the baseline of its group."""

from dataclasses import replace

import pytest

from megatron_longrlvr.algorithms.assign import assign_advantages
from megatron_longrlvr.algorithms.overlong import charge_overlong, overlong_charge
from megatron_longrlvr.config.training import OverlongConfig
from megatron_longrlvr.observability import names
from megatron_longrlvr.stages import FinishReason, ScoredBatch
from tests.unit.algorithms.builders import algorithm, prompt, scored_sample


def batch_of(*scored):
    return ScoredBatch(step=1, group_size=len(scored), scored=scored)


def truncated(scored):
    return replace(scored, sample=replace(scored.sample, finish_reason=FinishReason.LENGTH))


@pytest.mark.parametrize(
    ("num_tokens", "expected"),
    [(1, 0.0), (16, 0.0), (17, 0.25), (18, 0.5), (20, 1.0)],
)
def test_charge_grows_within_the_buffer(num_tokens, expected):
    assert overlong_charge(num_tokens, max_tokens=20, buffer_tokens=4) == expected


def test_no_buffer_charges_nothing():
    assert overlong_charge(20, max_tokens=20, buffer_tokens=0) == 0.0
    batch = batch_of(scored_sample(prompt("p"), 0, num_tokens=20, reward=1.0))
    assert charge_overlong(batch, OverlongConfig(penalty=3.0), max_tokens=20) == batch


def test_charge_is_taken_off_the_reward_and_counted():
    scored = [
        scored_sample(prompt("p"), index, num_tokens=count, reward=1.0)
        for index, count in enumerate((4, 9, 10))
    ]
    config = OverlongConfig(buffer_tokens=2, penalty=0.5)
    charged = charge_overlong(batch_of(*scored), config, max_tokens=10)
    assert [one.reward for one in charged.scored] == [1.0, 0.75, 0.5]
    # Equal rewards have no spread; charged for their length they do: mean .75, std .25.
    found = assign_advantages(charged, algorithm(overlong=config))
    assert [tokens[0] for tokens in found.advantages] == pytest.approx([1.0, 0.0, -1.0])
    assert found.findings == {names.OVERLONG_CHARGE_MEAN: [0.0, 0.25, 0.5]}


def test_truncated_samples_leave_the_loss_and_stay_in_the_baseline():
    scored = [
        scored_sample(prompt("p"), 0, reward=1.0),
        scored_sample(prompt("p"), 1, reward=2.0),
        truncated(scored_sample(prompt("p"), 2, reward=0.0)),
    ]
    config = algorithm(overlong=OverlongConfig(mask_truncated=True), advantage="dr_grpo")
    found = assign_advantages(batch_of(*scored), config)
    assert [one.sample.sample_index for one in found.scored] == [0, 1]
    assert [tokens[0] for tokens in found.advantages] == [0.0, 1.0]
    assert found.findings == {names.OVERLONG_MASKED_FRAC: [0.0, 0.0, 1.0]}
    assert found.num_dropped_groups == 0


@pytest.mark.parametrize("kind", ["grpo", "gae"])
def test_a_group_of_truncated_samples_is_dropped_and_counted(kind):
    scored = [truncated(scored_sample(prompt("p"), i, reward=float(i))) for i in range(2)]
    config = algorithm(
        overlong=OverlongConfig(mask_truncated=True),
        advantage=kind,
        drop_uninformative_groups=False,
    )
    found = assign_advantages(batch_of(*scored), config)
    assert (found.scored, found.num_dropped_groups) == ([], 1)


def test_truncated_samples_stay_unless_the_recipe_says_otherwise():
    scored = [truncated(scored_sample(prompt("p"), i, reward=float(i))) for i in range(2)]
    found = assign_advantages(batch_of(*scored), algorithm())
    assert len(found.scored) == 2
    assert found.findings == {}
