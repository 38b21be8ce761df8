"""Advantages of a batch of which a judge over HTTP misses some answers.

Promise: they are those of the surviving samples, as if the others had never been sampled: equal to
the last bit, not near.
"""

import pytest

from megatron_longrlvr.algorithms.assign import assign_advantages
from megatron_longrlvr.config.judge import JudgeOutageConfig
from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.errors import JudgeUnavailable
from megatron_longrlvr.rewards.judge.panel import JudgePanel
from megatron_longrlvr.rewards.scorer import RewardScorer
from megatron_longrlvr.stages import (
    FinishReason,
    PolicyVersion,
    Prompt,
    RolloutBatch,
    Sample,
    ScoredBatch,
)
from tests.support.judge_server import JudgeServer, Reply, honest
from tests.support.judges import judge_config, open_test_judge

NUM_GROUPS, GROUP_SIZE = 10, 8
# A tenth of the 80 samples.
TENTH = {(0, 2), (1, 0), (1, 5), (4, 7), (6, 3), (7, 1), (8, 4), (9, 6)}
# Group 3 keeps a single valid sample, group 5 none.
WHOLE_GROUPS = {(0, 2), *((3, index) for index in range(7)), *((5, index) for index in range(8))}
KINDS = ["grpo", "dr_grpo", "rloo", "leave_one_out"]


def prompt(group):
    return Prompt(
        prompt_id=f"p{group}",
        text="",
        token_ids=[0],
        question=f"Which city is {group}?",
        chunks=["a", "b", "c"],
        evidence_chunk_ids=frozenset({0, 1}),
        reference_answers=["Paris"],
    )


def sample(group, index):
    """Right for every third sample, in words of its own; cites one or two of two chunks."""
    cited = "<CHUNK_0> <CHUNK_1>" if index % 2 else "<CHUNK_1>"
    city = "in Paris" if (group + index) % 3 == 0 else "in Rome"
    return Sample(
        prompt=prompt(group),
        sample_index=index,
        token_ids=[1],
        text=f"<useful_chunks>{cited}</useful_chunks><answer>{city}, {group} {index}</answer>",
        behavior_logprobs=[-1.0],
        finish_reason=FinishReason.STOP,
        policy_version=PolicyVersion(0),
    )


def misses(missed):
    def script(request):
        group, index = request.answer.split()[-2:]
        return Reply(status=503) if (int(group), int(index)) in missed else honest(request)

    return script


def score(missed, *, max_failure_rate):
    samples = [sample(group, index) for group in range(NUM_GROUPS) for index in range(GROUP_SIZE)]
    outage = JudgeOutageConfig(max_failure_rate=max_failure_rate, action="stop")
    with (
        JudgeServer(misses(missed)) as server,
        open_test_judge(server.url, breaker__failures=10_000) as judge,
    ):
        config = RewardsConfig(judge=judge_config(server.url))
        scorer = RewardScorer(config, JudgePanel(judge=judge, outage=outage))
        for one in samples:
            scorer.begin(one)
        return scorer.score(RolloutBatch(step=1, group_size=GROUP_SIZE, samples=samples))


def survivors_alone(kind, missed, dropped):
    """(group, index) -> advantage, each group cut down to the samples that were not missed."""
    whole = score(set(), max_failure_rate=0)
    advantages = {}
    for group in set(range(NUM_GROUPS)) - dropped:
        mine = whole.scored[group * GROUP_SIZE : (group + 1) * GROUP_SIZE]
        left = [one for one in mine if (group, one.sample.sample_index) not in missed]
        batch = ScoredBatch(step=1, group_size=len(left), scored=left)
        assigned = assign_advantages(batch, algorithm(kind))
        for one, values in zip(assigned.scored, assigned.advantages, strict=True):
            advantages[group, one.sample.sample_index] = values
    return advantages


def algorithm(kind):
    return AlgorithmConfig(micro_batch_tokens=16, advantage=kind, drop_uninformative_groups=False)


@pytest.mark.parametrize(
    ("missed", "dropped"),
    [pytest.param(TENTH, set(), id="tenth"), pytest.param(WHOLE_GROUPS, {3, 5}, id="groups")],
)
@pytest.mark.parametrize("kind", KINDS)
def test_advantages_are_exactly_those_of_the_surviving_samples(kind, missed, dropped):
    assigned = assign_advantages(score(missed, max_failure_rate=0.3), algorithm(kind))
    got = {
        (int(one.sample.prompt.prompt_id[1:]), one.sample.sample_index): values
        for one, values in zip(assigned.scored, assigned.advantages, strict=True)
    }
    assert got == survivors_alone(kind, missed, dropped)
    assert any(any(values) for values in got.values())
    assert (assigned.num_groups, assigned.num_dropped_groups) == (NUM_GROUPS, len(dropped))


def test_without_any_verdict_there_is_nothing_to_learn_from():
    everything = {(group, index) for group in range(NUM_GROUPS) for index in range(GROUP_SIZE)}
    with pytest.raises(JudgeUnavailable, match=r"80 of 80 answers \(server_error 80\)"):
        score(everything, max_failure_rate=0.3)
