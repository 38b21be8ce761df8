"""Names of everything that is measured: ``stage/quantity_unit``.

A ``mean`` or ``frac`` is over all data-parallel ranks; a name without such an ending is a total.
``frac`` lies in [0, 1]. Times are seconds of the slowest rank; GiB is 1024**3 bytes.
"""

from __future__ import annotations

# What the policy wrote.
ROLLOUT_PROMPTS = "rollout/prompts"
ROLLOUT_SAMPLES = "rollout/samples"
ROLLOUT_ROUNDS = "rollout/rounds"
ROLLOUT_RESPONSE_TOKENS = "rollout/response_tokens"
ROLLOUT_RESPONSE_TOKENS_MEAN = "rollout/response_tokens_mean"
ROLLOUT_TRUNCATED_FRAC = "rollout/truncated_frac"
ROLLOUT_CITED_CHUNKS_MEAN = "rollout/cited_chunks_mean"
ROLLOUT_TOKENS_PER_S = "rollout/tokens_per_s"
ROLLOUT_STALENESS_MEAN = "rollout/staleness_mean"
"""Optimizer steps between the weights that began a sample and those that learn from it first."""

ROLLOUT_STALENESS_MAX = "rollout/staleness_max"
ROLLOUT_MIXED_VERSIONS_FRAC = "rollout/mixed_versions_frac"
"""Samples during which the weights changed."""

ROLLOUT_PARSE_PREFIX = "rollout/parse_"
"""Followed by a parse outcome and ``_frac``; see :func:`parse_outcome_frac`."""

# What it earned; over valid samples unless the name says otherwise.
REWARD_MEAN = "reward/mean"
REWARD_STD = "reward/std"
REWARD_ANSWER_MEAN = "reward/answer_mean"
REWARD_CONTEXT_F_BETA_MEAN = "reward/context_f_beta_mean"
REWARD_CONTEXT_PRECISION_MEAN = "reward/context_precision_mean"
REWARD_CONTEXT_RECALL_MEAN = "reward/context_recall_mean"
REWARD_FORMAT_OK_FRAC = "reward/format_ok_frac"
REWARD_INVALID_SAMPLES = "reward/invalid_samples"
REWARD_GROUPS_INFORMATIVE_FRAC = "reward/groups_informative_frac"
"""Groups with spread in the reward, dropped or not."""

REWARD_GROUPS_DROPPED_FRAC = "reward/groups_dropped_frac"
"""Groups that were left out of loss and denominator."""

REWARD_GROUPS_TOO_FEW_VALID = "reward/groups_too_few_valid"
"""Groups dropped because fewer than two of their samples are valid."""

# With algorithm.overlong; over valid samples.
OVERLONG_CHARGE_MEAN = "overlong/charge_mean"
"""What is taken off a reward for the length of the response."""

OVERLONG_MASKED_FRAC = "overlong/masked_frac"
"""Samples left out of the loss because they were cut at the longest length."""

# With algorithm.credit=segment; over the samples that are learned from.
CREDIT_UNDIVIDED_FRAC = "credit/undivided_frac"
"""Samples whose tokens all get the advantage of the whole reward: not of the expected format."""

CREDIT_CONTEXT_TOKENS_FRAC = "credit/context_tokens_frac"
"""Share of a response's tokens that answer for its citations; mean over the other samples."""

# What the judge did; only in runs with a judge.
JUDGE_VERIFIER_DECIDED_FRAC = "judge/verifier_decided_frac"
"""Share of the answers that needed no judge."""

JUDGE_ANSWERS = "judge/answers"
"""Answers that the judge was asked about."""

JUDGE_CACHED_FRAC = "judge/cached_frac"
JUDGE_YES_FRAC = "judge/yes_frac"
"""Among verdicts of yes and no."""

JUDGE_FAILED = "judge/failed"
JUDGE_FAILED_FRAC = "judge/failed_frac"
JUDGE_FAILED_PREFIX = "judge/failed_"
"""Followed by a reason; see :func:`judge_failed_by`."""

JUDGE_LATENCY_S_MEAN = "judge/latency_s_mean"
"""Of verdicts that were not cached."""

JUDGE_ATTACKS = "judge/attacks"
"""Alarm: answers that try to talk to the judge. Such a sample is kept."""

JUDGE_ATTACKS_FRAC = "judge/attacks_frac"
"""Of all answers."""

JUDGE_REQUESTS = "judge/requests"
JUDGE_RETRIES = "judge/retries"
JUDGE_CIRCUIT_OPENINGS = "judge/circuit_openings"
JUDGE_PAUSED_S = "judge/paused_s"
"""Time that the run waited for the judge to come back."""

# Answer right or wrong against context grounded or not: four shares that sum to 1.
REWARD_RIGHT_GROUNDED_FRAC = "reward/right_grounded_frac"
REWARD_RIGHT_UNGROUNDED_FRAC = "reward/right_ungrounded_frac"
REWARD_WRONG_GROUNDED_FRAC = "reward/wrong_grounded_frac"
REWARD_WRONG_UNGROUNDED_FRAC = "reward/wrong_ungrounded_frac"
REWARD_GROUNDED_GIVEN_RIGHT = "reward/grounded_given_right"
"""Share of the right answers whose citations are grounded; unmeasured without a right answer."""

# Whether a reward has anything to say to a group, and to the choice of one evidence chunk; over
# valid samples. Parts of the reward are named as in ``rewards/composite.py``.
SIGNAL_FLAT_ANSWER_FRAC = "signal/flat_answer_frac"
"""Groups that earn the same answer reward throughout: without signal under outcome-only."""

SIGNAL_FLAT_CONTEXT_FRAC = "signal/flat_context_frac"
"""Groups that cite equally well throughout."""

SIGNAL_FLAT_REWARD_FRAC = "signal/flat_reward_frac"
"""Groups without signal under the reward of this run."""

SIGNAL_OTHERS_CITED_FRAC = "signal/others_cited_frac"
"""Over evidence chunks of samples: all *other* evidence of the prompt is cited. The factor by which
the paper says an outcome-only gradient shrinks; 1 where there is no other evidence."""

SIGNAL_OTHERS_CITED_INDEPENDENT_FRAC = "signal/others_cited_independent_frac"
"""The same if chunks were cited independently of each other, as the paper assumes: the product of
the rates at which the samples of a group cite each of the others."""

SIGNAL_RIGHT_GIVEN_ALL_CITED = "signal/right_given_all_cited"
"""Share of right answers where all evidence is cited, or all but one chunk, or less. The paper's
all-or-nothing assumption is that the last two are equal."""

SIGNAL_RIGHT_GIVEN_ONE_MISSING = "signal/right_given_one_missing"
SIGNAL_RIGHT_GIVEN_MORE_MISSING = "signal/right_given_more_missing"

# How well evidence is found, where; citations count as far as the reward counted them.
GROUNDING_CITATIONS_MEAN = "grounding/citations_mean"
"""Ids as written, repeats included."""

GROUNDING_REPEATED_CITATIONS_FRAC = "grounding/repeated_citations_frac"
"""Written ids that the response has written before."""

GROUNDING_UNKNOWN_CITATIONS_FRAC = "grounding/unknown_citations_frac"
"""Written ids that no chunk carries."""

# Signs that the reward is being gamed: shares of all samples, see ``observability/alarms.py``.
ALARM_PREFIX = "alarm/"
"""Followed by the name of an alarm and ``_frac``; see :func:`alarm_frac`."""

ALARM_LENGTH_RATIO = "alarm/length_ratio"
"""Mean response length over that of the first steps of the run."""

ALARM_RAISED = "alarm/raised"
"""Number of alarms above their threshold."""

# Held-out measurement.
EVAL_SAMPLES = "eval/samples"
EVAL_PROMPTS = "eval/prompts"
EVAL_INVALID_SAMPLES = "eval/invalid_samples"
EVAL_REWARD_MEAN = "eval/reward_mean"
EVAL_ANSWER_MEAN = "eval/answer_mean"
EVAL_ANSWER_STDERR = "eval/answer_stderr"
EVAL_CONTEXT_F_BETA_MEAN = "eval/context_f_beta_mean"
EVAL_CONTEXT_F_BETA_STDERR = "eval/context_f_beta_stderr"
EVAL_CONTEXT_PRECISION_MEAN = "eval/context_precision_mean"
EVAL_CONTEXT_RECALL_MEAN = "eval/context_recall_mean"
EVAL_FORMAT_OK_FRAC = "eval/format_ok_frac"
EVAL_RESPONSE_TOKENS_MEAN = "eval/response_tokens_mean"
EVAL_TRUNCATED_FRAC = "eval/truncated_frac"

# What the optimizer step did; means over response tokens.
UPDATE_PREFIX = "update/"
UPDATE_LOSS = "update/loss"
UPDATE_GRAD_NORM = "update/grad_norm"
UPDATE_CLIPPED_FRAC = "update/clipped_frac"
UPDATE_CLIPPED_LOW_FRAC = "update/clipped_low_frac"
UPDATE_CLIPPED_HIGH_FRAC = "update/clipped_high_frac"
UPDATE_DUAL_CLIPPED_FRAC = "update/dual_clipped_frac"
UPDATE_RATIO_MEAN = "update/ratio_mean"
UPDATE_KL = "update/kl"
"""To the frozen reference, by the recipe's estimator."""

UPDATE_BEHAVIOR_PROXIMAL_KL = "update/behavior_proximal_kl"
UPDATE_ENTROPY_MEAN = "update/entropy_mean"
UPDATE_LR = "update/lr"
UPDATE_SKIPPED = "update/skipped"

# How the update's tokens fell on the experts of a mixture; a prompt counts once for each sample.
UPDATE_EXPERT_LOAD_PEAK_MEAN = "update/expert_load_peak_mean"
"""Tokens of a layer's busiest expert over the mean of its experts; 1 is even. Mean over layers."""

UPDATE_EXPERT_LOAD_PEAK_MAX = "update/expert_load_peak_max"
"""The same in the layer where it is largest."""

UPDATE_EXPERT_IDLE_FRAC = "update/expert_idle_frac"
"""Experts that got no token."""

UPDATE_ROUTER_BALANCE_LOSS = "update/router_balance_loss"
"""Without its coefficient, mean over layers; 1 is even."""

UPDATE_ROUTER_Z_LOSS = "update/router_z_loss"
UPDATE_ROUTER_REPLAY_CHANGED_FRAC = "update/router_replay_changed_frac"
"""Choices of the engine that the learner's own router would not have made; with
rollout.routing_replay."""

# What the critic said before the step's first update, and what its own updates did; over response
# tokens. Only with algorithm.advantage=gae.
CRITIC_PREFIX = "critic/"
CRITIC_EXPLAINED_VARIANCE = "critic/explained_variance"
"""1 - Var(return - value) / Var(return): 1 foresees everything, 0 nothing."""

CRITIC_VALUE_MEAN = "critic/value_mean"
CRITIC_RETURN_MEAN = "critic/return_mean"
CRITIC_LOSS = "critic/loss"
CRITIC_SQUARE_ERROR_MEAN = "critic/square_error_mean"
"""Between value and return, as the critic stood at each of its updates."""

CRITIC_CLIPPED_FRAC = "critic/clipped_frac"
CRITIC_GRAD_NORM = "critic/grad_norm"
CRITIC_LR = "critic/lr"

# How the update's tokens were packed.
PACKING_PADDING_FRAC = "packing/padding_frac"
"""Share of the tokens run through the model that stand for nothing."""

PACKING_REPEATED_PROMPT_FRAC = "packing/repeated_prompt_frac"
"""Share that is a prompt computed again, because its group was split over micro-batches."""

PACKING_LOAD_IMBALANCE = "packing/load_imbalance"
"""FLOPs of the busiest data-parallel rank over the mean of all; worst update of the step."""

# Model FLOPs of all ranks, and their share of the devices' peak where that is known.
FLOPS_GENERATE_TFLOP = "flops/generate_tflop"
FLOPS_LOGPROBS_TFLOP = "flops/logprobs_tflop"
FLOPS_UPDATE_TFLOP = "flops/update_tflop"
FLOPS_CRITIC_TFLOP = "flops/critic_tflop"
"""Values and the critic's updates; only with a critic."""

MFU_GENERATE_FRAC = "mfu/generate_frac"
MFU_LOGPROBS_FRAC = "mfu/logprobs_frac"
MFU_UPDATE_FRAC = "mfu/update_frac"
MFU_CRITIC_FRAC = "mfu/critic_frac"

# Where the time of a step went.
TIMING_GENERATE_S = "timing/generate_s"
TIMING_SCORE_S = "timing/score_s"
TIMING_LOGPROBS_S = "timing/logprobs_s"
TIMING_CRITIC_S = "timing/critic_s"
"""Values, advantages and the critic's updates; 0 without one."""

TIMING_UPDATE_S = "timing/update_s"
TIMING_PUBLISH_S = "timing/publish_s"
TIMING_STEP_S = "timing/step_s"
TIMING_EVALUATE_S = "timing/evaluate_s"
TIMING_SAVE_BLOCKED_S = "timing/save_blocked_s"
"""Time that training waited for checkpoints since the step before, on the first rank."""

# Learner minus engine log-probability of response tokens, before the step's first update (nats).
MISMATCH_GAP_MEAN = "mismatch/gap_mean"
MISMATCH_GAP_ABS_MEAN = "mismatch/gap_abs_mean"
MISMATCH_GAP_MAX = "mismatch/gap_max"
"""Largest absolute gap of the step."""

MISMATCH_KL = "mismatch/kl"
"""k3 estimate of KL(engine || learner)."""

# Handing the new weights to an engine that has a copy of its own.
REFIT_GB = "refit/gb"
"""Bytes of all tensors, in units of 1e9."""

REFIT_GB_PER_S = "refit/gb_per_s"
REFIT_VERIFY_S = "refit/verify_s"

# Highest use so far, of the fullest rank.
MEMORY_HOST_PEAK_GIB = "memory/host_peak_gib"
MEMORY_DEVICE_PEAK_GIB = "memory/device_peak_gib"

# What NeMo-Aligner's loop says; only with trainer.loop=nemo_aligner. Its durations nest.
ALIGNER_ROLLOUT_S = "aligner/rollout_s"
ALIGNER_PREPARE_FOR_INFERENCE_S = "aligner/prepare_for_inference_s"
ALIGNER_BATCH_ITERATOR_INIT_S = "aligner/batch_iterator_init_s"
ALIGNER_GENERATE_S = "aligner/generate_s"
ALIGNER_LOGPROBS_S = "aligner/logprobs_s"
ALIGNER_CRITIC_WAIT_S = "aligner/critic_wait_s"
ALIGNER_FINISH_INFERENCE_S = "aligner/finish_inference_s"
ALIGNER_TRAIN_S = "aligner/train_s"
ALIGNER_VALIDATION_S = "aligner/validation_s"
"""Of the measurement that was made last, which may be several steps back."""

ALIGNER_PROMPT_TOKENS_MEAN = "aligner/prompt_tokens_mean"
ALIGNER_CONSUMED_SAMPLES = "aligner/consumed_samples"


EVIDENCE_BOUNDS = (1, 2, 3, 4, 5, 9)
"""Numbers of evidence chunks that prompts are told apart by; the last is open."""

PROMPT_BOUNDS = (0, 1024, 4096, 16_384, 65_536)
"""Prompt lengths (tokens) that samples are told apart by; the last is open."""

NUM_DECILES = 10


def evidence_bucket(num_evidence: int) -> int:
    """Largest of the bounds that a number of evidence chunks reaches."""
    return max(bound for bound in EVIDENCE_BOUNDS if bound <= num_evidence)


def prompt_bucket(num_tokens: int) -> int:
    """Largest of the bounds that a prompt's length reaches."""
    return max(bound for bound in PROMPT_BOUNDS if bound <= num_tokens)


def others_cited_by_evidence(lowest: int) -> str:
    """``signal/others_cited_frac`` of prompts with ``lowest`` evidence chunks to the next bound."""
    return f"signal/evidence_from_{lowest}_others_cited_frac"


def evidence_gradient(part: str) -> str:
    """Name of the pull of a part of the reward on citing an evidence chunk.

    Covariance, within groups, of the part with "this evidence chunk is cited", mean over evidence
    chunks: the gradient with respect to the logit of a chunk that is cited by a coin of its own.
    """
    return f"signal/evidence_gradient_{part}"


def advantage_variance_frac(part: str) -> str:
    """Name of the share of the advantages' variance that a part of the reward brings in.

    The shares of all parts add up to 1; one that pulls against the rest is negative.
    """
    return f"signal/advantage_variance_{part}_frac"


def part_grad_norm(part: str) -> str:
    """Name of the norm of the gradient that a part of the reward sends, on measured steps."""
    return f"signal/grad_norm_{part}"


def grounding_by_evidence(lowest: int, quantity: str) -> str:
    """Name of a quantity over prompts with ``lowest`` evidence chunks to the next bound."""
    return f"grounding/evidence_from_{lowest}_{quantity}_mean"


def grounding_by_prompt(lowest: int, quantity: str) -> str:
    """Name of a quantity over prompts from ``lowest`` tokens to the next bound."""
    return f"grounding/prompt_from_{lowest}_{quantity}_mean"


def grounding_by_decile(decile: int, quantity: str) -> str:
    """Name of a quantity over chunks that begin in a tenth of their document, from 0.

    ``recall``: share of the evidence there that is cited; ``precision``: share of the citations
    there that is evidence; ``cited``: share of all chunks there that is cited.
    """
    return f"grounding/decile_{decile}_{quantity}_frac"


def alarm_frac(alarm: str) -> str:
    """Name of the share of samples that look like an alarm."""
    return f"{ALARM_PREFIX}{alarm}_frac"


def held_out(name: str) -> str:
    """Name under which a held-out measurement logs what training logs under ``name``."""
    return f"eval/{name}"


def judge_failed_by(reason: str) -> str:
    """Name of the number of answers without verdict for one reason."""
    return f"{JUDGE_FAILED_PREFIX}{reason}"


def mismatch_above_frac(threshold: float) -> str:
    """Name of the share of tokens whose absolute gap is above a threshold (nats)."""
    return f"mismatch/above_{threshold:g}_frac"


def mismatch_decile(decile: int) -> str:
    """Name of the mean absolute gap in a tenth of the responses, from 0."""
    return f"mismatch/decile_{decile}_abs_mean"


def mismatch_prompt(lowest: int) -> str:
    """Name of the mean absolute gap behind prompts from ``lowest`` tokens to the next bound."""
    return f"mismatch/prompt_from_{lowest}_abs_mean"


def parse_outcome_frac(outcome: str) -> str:
    """Name of the share of samples that parsed to an outcome."""
    return f"{ROLLOUT_PARSE_PREFIX}{outcome}_frac"
