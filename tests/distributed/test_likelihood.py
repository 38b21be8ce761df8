"""Likelihoods of many answers to one document equal transformers', one answer at a time."""

import pytest
import torch

from megatron_longrlvr.evaluation.likelihood import answer_logprobs
from megatron_longrlvr.parallel.groups import close_process_groups
from tests.support.learners import start_policy
from tests.support.tiny_models import save_tiny_model

# fp32 log-probabilities of size 5, through another implementation of attention and norms.
LOGPROB_ATOL = 1e-5

PROMPT = [5, 17, 3, 88, 42, 6, 1]
ANSWERS = [[9, 4, 4], [71], [2, 30, 31, 32, 33], [9, 4, 5]]


def score(rank, world_size, folder, layout, settings):  # noqa: ARG001
    policy = start_policy(folder, layout, world_size)
    found = answer_logprobs(policy, PROMPT, ANSWERS, **settings)
    close_process_groups()
    return found


def expected(model, temperature):
    found = []
    for answer in ANSWERS:
        with torch.no_grad():
            logits = model(torch.tensor([[*PROMPT, *answer]])).logits[0] / temperature
        rows = logits.log_softmax(-1)[len(PROMPT) - 1 : -1]
        found.append(rows.gather(1, torch.tensor(answer)[:, None])[:, 0].tolist())
    return found


def assert_same(found, wanted):
    assert [len(values) for values in found] == [len(answer) for answer in ANSWERS]
    for values, wanted_values in zip(found, wanted, strict=True):
        assert values == pytest.approx(wanted_values, abs=LOGPROB_ATOL)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="one-pass"),
        pytest.param({"micro_batch_tokens": 12}, id="several-passes"),
        pytest.param({"temperature": 0.5}, id="half-temperature"),
    ],
)
def test_one_rank_gives_the_likelihoods_of_transformers(pool1, tmp_path, settings):
    model = save_tiny_model(tmp_path, "llama")
    (found,) = pool1.run(score, tmp_path, {}, settings)
    assert_same(found, expected(model, settings.get("temperature", 1.0)))


@pytest.mark.parametrize("layout", [{"pp": 2}, {"cp": 2}], ids=str)
def test_every_rank_of_a_layout_gives_them(pool2, tmp_path, layout):
    model = save_tiny_model(tmp_path, "llama")
    for found in pool2.run(score, tmp_path, layout, {}):
        assert_same(found, expected(model, 1.0))


@pytest.mark.parametrize(
    ("prompt", "answers", "named"),
    [pytest.param([], [[1]], "prompt", id="no-prompt"), pytest.param([1], [[1], []], "answer 1")],
)
def test_nothing_to_predict_from_is_refused(prompt, answers, named):
    with pytest.raises(ValueError, match=named):
        answer_logprobs(None, prompt, answers)  # type: ignore[arg-type]
