"""Which charts a report has, and in which section: data for the page and for the PNG export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_longrlvr.algorithms.reward_terms import ADVANTAGE_TERMS
from megatron_longrlvr.data.response_format import ParseOutcome
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.alarms import ALARMS
from megatron_longrlvr.rewards.composite import REWARD_TERMS


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One or several metrics over the steps of all runs."""

    section: str
    """Of the page: ``overview``, ``learning``, ``grounding``, ``signal``, ``speed``, ``health``."""

    title: str
    """``{f_beta}`` stands for the name of the F score."""

    metrics: Sequence[tuple[str, str]]
    """Metric and what it is called in the legend."""

    is_share: bool = False
    """The axis runs from 0 to 1."""

    compares_within: str | None = None
    """Dotted key of the configuration; values compare only between runs that share it."""

    note: str = ""
    """What a reader should know to judge by it."""

    @property
    def slug(self) -> str:
        """Name of a file."""
        said = self.title.format(f_beta="f").lower()
        return "_".join("".join(c if c.isalnum() else " " for c in said).split())


def _one(section: str, title: str, metric: str, **more: object) -> Chart:
    return Chart(section=section, title=title, metrics=[(metric, "")], **more)  # type: ignore[arg-type]


def _by(bounds: Sequence[int], unit: str) -> list[tuple[int, str]]:
    """Bounds with what the range from each to the next is called."""
    ends = [*(bound - 1 for bound in bounds[1:]), None]
    return [
        (
            low,
            f"{low}+ {unit}"
            if end is None
            else f"{low} {unit}"
            if low == end
            else f"{low}-{end} {unit}",
        )
        for low, end in zip(bounds, ends, strict=True)
    ]


_EVIDENCE = _by(names.EVIDENCE_BOUNDS, "evidence")
_PROMPTS = _by(names.PROMPT_BOUNDS, "tokens")

CHARTS: Sequence[Chart] = (
    _one("overview", "Held-out {f_beta}", names.EVAL_CONTEXT_F_BETA_MEAN, is_share=True),
    _one("overview", "Held-out answer accuracy", names.EVAL_ANSWER_MEAN, is_share=True),
    _one("overview", "Training reward", names.REWARD_MEAN, compares_within="rewards.variant"),
    _one("overview", "Response length in tokens", names.ROLLOUT_RESPONSE_TOKENS_MEAN),
    _one("learning", "Held-out evidence recall", names.EVAL_CONTEXT_RECALL_MEAN, is_share=True),
    _one(
        "learning", "Held-out citation precision", names.EVAL_CONTEXT_PRECISION_MEAN, is_share=True
    ),
    Chart(
        section="learning",
        title="Training answers and {f_beta}",
        metrics=[
            (names.REWARD_ANSWER_MEAN, "answer"),
            (names.REWARD_CONTEXT_F_BETA_MEAN, "{f_beta}"),
        ],
        is_share=True,
    ),
    Chart(
        section="learning",
        title="Training evidence recall and precision",
        metrics=[
            (names.REWARD_CONTEXT_RECALL_MEAN, "recall"),
            (names.REWARD_CONTEXT_PRECISION_MEAN, "precision"),
        ],
        is_share=True,
    ),
    _one("learning", "Gradient norm before clipping", names.UPDATE_GRAD_NORM),
    _one("learning", "Loss", names.UPDATE_LOSS),
    _one("learning", "Entropy in nats per token", names.UPDATE_ENTROPY_MEAN),
    Chart(
        section="learning",
        title="Tokens at a clipping bound",
        metrics=[
            (names.UPDATE_CLIPPED_LOW_FRAC, "low"),
            (names.UPDATE_CLIPPED_HIGH_FRAC, "high"),
            (names.UPDATE_DUAL_CLIPPED_FRAC, "dual"),
        ],
    ),
    _one("learning", "Divergence from the reference", names.UPDATE_KL),
    _one("learning", "Learning rate", names.UPDATE_LR),
    _one(
        "learning", "Variance of returns that the critic explains", names.CRITIC_EXPLAINED_VARIANCE
    ),
    Chart(
        section="learning",
        title="Loss of the critic",
        metrics=[(names.CRITIC_LOSS, "loss"), (names.CRITIC_SQUARE_ERROR_MEAN, "square error")],
    ),
    Chart(
        section="learning",
        title="Values and returns, mean over response tokens",
        metrics=[(names.CRITIC_VALUE_MEAN, "value"), (names.CRITIC_RETURN_MEAN, "return")],
    ),
    _one("learning", "Gradient norm of the critic", names.CRITIC_GRAD_NORM),
    Chart(
        section="grounding",
        title="Answers by evidence found",
        metrics=[
            (names.REWARD_RIGHT_GROUNDED_FRAC, "right, grounded"),
            (names.REWARD_RIGHT_UNGROUNDED_FRAC, "right, ungrounded"),
            (names.REWARD_WRONG_GROUNDED_FRAC, "wrong, grounded"),
            (names.REWARD_WRONG_UNGROUNDED_FRAC, "wrong, ungrounded"),
        ],
        is_share=True,
        note="Right but ungrounded is right for the wrong reason, or annotated too narrowly.",
    ),
    Chart(
        section="grounding",
        title="{f_beta} by number of evidence chunks",
        metrics=[(names.grounding_by_evidence(low, "f_beta"), said) for low, said in _EVIDENCE],
        is_share=True,
    ),
    Chart(
        section="grounding",
        title="Recall by number of evidence chunks",
        metrics=[(names.grounding_by_evidence(low, "recall"), said) for low, said in _EVIDENCE],
        is_share=True,
    ),
    Chart(
        section="grounding",
        title="Precision by number of evidence chunks",
        metrics=[(names.grounding_by_evidence(low, "precision"), said) for low, said in _EVIDENCE],
        is_share=True,
    ),
    Chart(
        section="grounding",
        title="{f_beta} by length of the prompt",
        metrics=[(names.grounding_by_prompt(low, "f_beta"), said) for low, said in _PROMPTS],
        is_share=True,
    ),
    Chart(
        section="grounding",
        title="Recall by length of the prompt",
        metrics=[(names.grounding_by_prompt(low, "recall"), said) for low, said in _PROMPTS],
        is_share=True,
    ),
    Chart(
        section="grounding",
        title="Citations of a response",
        metrics=[
            (names.GROUNDING_CITATIONS_MEAN, "as written"),
            (names.ROLLOUT_CITED_CHUNKS_MEAN, "distinct"),
        ],
    ),
    Chart(
        section="grounding",
        title="Repeated and invented citations",
        metrics=[
            (names.GROUNDING_REPEATED_CITATIONS_FRAC, "repeated"),
            (names.GROUNDING_UNKNOWN_CITATIONS_FRAC, "no such chunk"),
        ],
        is_share=True,
    ),
    Chart(
        section="grounding",
        title="How responses parse",
        metrics=[
            (names.parse_outcome_frac(outcome.value), outcome.value) for outcome in ParseOutcome
        ],
        is_share=True,
    ),
    Chart(
        section="signal",
        title="Groups without signal",
        metrics=[
            (names.SIGNAL_FLAT_ANSWER_FRAC, "on the answer alone"),
            (names.SIGNAL_FLAT_REWARD_FRAC, "under this run's reward"),
        ],
        is_share=True,
        note="Equal rewards throughout a group give it no gradient.",
    ),
    Chart(
        section="signal",
        title="All other evidence is cited",
        metrics=[
            (names.SIGNAL_OTHERS_CITED_FRAC, "as sampled"),
            (names.SIGNAL_OTHERS_CITED_INDEPENDENT_FRAC, "if citations were independent"),
        ],
        is_share=True,
        note="The factor by which the paper says an outcome-only gradient on a chunk shrinks.",
    ),
    Chart(
        section="signal",
        title="All other evidence is cited, by number of chunks",
        metrics=[(names.others_cited_by_evidence(low), said) for low, said in _EVIDENCE],
        is_share=True,
    ),
    Chart(
        section="signal",
        title="Right answers by evidence cited",
        metrics=[
            (names.SIGNAL_RIGHT_GIVEN_ALL_CITED, "all"),
            (names.SIGNAL_RIGHT_GIVEN_ONE_MISSING, "one missing"),
            (names.SIGNAL_RIGHT_GIVEN_MORE_MISSING, "more missing"),
        ],
        is_share=True,
        note="The paper assumes that the last two are equal: partial evidence earns nothing.",
    ),
    Chart(
        section="signal",
        title="Pull on citing an evidence chunk",
        metrics=[(names.evidence_gradient(term), term) for term in REWARD_TERMS],
        note="Covariance of citing it with each term of the reward, within groups.",
    ),
    Chart(
        section="signal",
        title="Variance of the advantages by term of the reward",
        metrics=[(names.advantage_variance_frac(term), term) for term in REWARD_TERMS],
    ),
    Chart(
        section="signal",
        title="Segment credit",
        metrics=[
            (names.CREDIT_CONTEXT_TOKENS_FRAC, "tokens that answer for citations"),
            (names.CREDIT_UNDIVIDED_FRAC, "responses credited as a whole"),
        ],
        is_share=True,
        note="Measured with algorithm.credit=segment.",
    ),
    Chart(
        section="signal",
        title="Gradient norm by term of the reward",
        metrics=[(names.part_grad_norm(term), term) for term in ("reward", *ADVANTAGE_TERMS)],
        note="Measured where trainer.gradient_parts_every says so.",
    ),
    Chart(
        section="speed",
        title="Seconds of a step",
        metrics=[
            (names.TIMING_GENERATE_S, "generate"),
            (names.TIMING_SCORE_S, "score"),
            (names.TIMING_LOGPROBS_S, "log-probabilities"),
            (names.TIMING_UPDATE_S, "update"),
            (names.TIMING_CRITIC_S, "critic"),
            (names.TIMING_PUBLISH_S, "publish"),
            (names.TIMING_STEP_S, "whole step"),
        ],
    ),
    Chart(
        section="speed",
        title="Model FLOPs utilization",
        metrics=[
            (names.MFU_GENERATE_FRAC, "generate"),
            (names.MFU_LOGPROBS_FRAC, "log-probabilities"),
            (names.MFU_UPDATE_FRAC, "update"),
            (names.MFU_CRITIC_FRAC, "critic"),
        ],
        is_share=True,
        note="Needs the peak rate of the device, which is known for GPUs.",
    ),
    Chart(
        section="speed",
        title="Model FLOPs in units of 1e12",
        metrics=[
            (names.FLOPS_GENERATE_TFLOP, "generate"),
            (names.FLOPS_LOGPROBS_TFLOP, "log-probabilities"),
            (names.FLOPS_UPDATE_TFLOP, "update"),
            (names.FLOPS_CRITIC_TFLOP, "critic"),
        ],
    ),
    _one("speed", "Response tokens per second", names.ROLLOUT_TOKENS_PER_S),
    Chart(
        section="speed",
        title="Peak memory in GiB",
        metrics=[(names.MEMORY_DEVICE_PEAK_GIB, "device"), (names.MEMORY_HOST_PEAK_GIB, "host")],
    ),
    Chart(
        section="speed",
        title="Packing",
        metrics=[
            (names.PACKING_PADDING_FRAC, "padding"),
            (names.PACKING_REPEATED_PROMPT_FRAC, "prompts computed again"),
        ],
        is_share=True,
    ),
    _one("speed", "Load imbalance between ranks", names.PACKING_LOAD_IMBALANCE),
    Chart(
        section="health",
        title="Alarms, share of samples",
        metrics=[(names.alarm_frac(alarm), alarm) for alarm in ALARMS],
        is_share=True,
        note="Thresholds are alarms.* of the recipe; examples are among the rollouts.",
    ),
    _one("health", "Length over that of the first steps", names.ALARM_LENGTH_RATIO),
    Chart(
        section="health",
        title="Gap between engine and learner in nats",
        metrics=[
            (names.MISMATCH_GAP_ABS_MEAN, "mean"),
            (names.MISMATCH_GAP_MAX, "largest"),
            (names.MISMATCH_KL, "k3"),
        ],
    ),
    Chart(
        section="health",
        title="Age of samples in optimizer steps",
        metrics=[(names.ROLLOUT_STALENESS_MEAN, "mean"), (names.ROLLOUT_STALENESS_MAX, "oldest")],
    ),
    Chart(
        section="health",
        title="Invalid samples and skipped updates",
        metrics=[
            (names.REWARD_INVALID_SAMPLES, "invalid samples"),
            (names.UPDATE_SKIPPED, "skipped updates"),
        ],
    ),
    Chart(
        section="health",
        title="Cut off at the longest response",
        metrics=[(names.ROLLOUT_TRUNCATED_FRAC, "")],
        is_share=True,
    ),
    Chart(
        section="health",
        title="Verdicts of the judge",
        metrics=[
            (names.JUDGE_VERIFIER_DECIDED_FRAC, "needed no judge"),
            (names.JUDGE_CACHED_FRAC, "cached"),
            (names.JUDGE_YES_FRAC, "yes"),
            (names.JUDGE_FAILED_FRAC, "without verdict"),
            (names.JUDGE_ATTACKS_FRAC, "attacks"),
        ],
        is_share=True,
    ),
    _one("health", "Seconds to a verdict", names.JUDGE_LATENCY_S_MEAN),
    Chart(
        section="health",
        title="Requests to the judge",
        metrics=[
            (names.JUDGE_REQUESTS, "requests"),
            (names.JUDGE_RETRIES, "retries"),
            (names.JUDGE_CIRCUIT_OPENINGS, "circuits opened"),
        ],
    ),
    _one("health", "Paused for the judge, in seconds", names.JUDGE_PAUSED_S),
)
