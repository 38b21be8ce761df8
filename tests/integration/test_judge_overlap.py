"""Judging runs while sampling runs: a finished sample is with the judge before the next is done."""

from megatron_longrlvr.config.judge import JudgeOutageConfig
from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.rewards.judge.panel import JudgePanel
from megatron_longrlvr.rewards.scorer import RewardScorer
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.rollout.scripted import ScriptedEngine, ScriptedResponse
from megatron_longrlvr.stages import Prompt, PromptBatch
from tests.support.judge_server import JudgeServer
from tests.support.judges import judge_config, open_test_judge

PROMPT = Prompt(
    prompt_id="p",
    text="",
    token_ids=(1, 2),
    question="Which city?",
    chunks=("a", "b"),
    evidence_chunk_ids=frozenset({1}),
    reference_answers=("Paris",),
)
NUM_SAMPLES = 4


class Characters:
    """A tokenizer of code points."""

    stop_ids = frozenset({0})

    def encode(self, text):
        return [ord(character) for character in text]

    def decode(self, token_ids):
        return "".join(chr(token) for token in token_ids if token)


def test_a_finished_sample_is_judged_while_others_are_sampled():
    with JudgeServer() as server, open_test_judge(server.url) as judge:

        def script(step, prompt, index):  # noqa: ARG001
            # Sampling of each waits until the one before is with the server, and no longer: the
            # test hangs, and is ended by its runner, where judging starts after sampling.
            while len(server.requests) < index:
                pass
            return ScriptedResponse(
                text="<useful_chunks><CHUNK_1></useful_chunks>"
                f"<answer>in Paris, or {index}</answer>"
            )

        panel = JudgePanel(judge=judge, outage=JudgeOutageConfig())
        scorer = RewardScorer(RewardsConfig(judge=judge_config(server.url)), panel)
        batch = PromptBatch(step=1, prompts=(PROMPT,), group_size=NUM_SAMPLES)
        params = SamplingParams(max_response_tokens=200, temperature=1.0, seed=0)
        engine = ScriptedEngine(script, Characters())
        rollouts = engine.generate(batch, params, on_sample=scorer.begin)
        scored = scorer.score(rollouts).scored
    assert [one.reward for one in scored] == [2.0] * NUM_SAMPLES
    assert len(server.requests) == NUM_SAMPLES
