"""The records one training step passes from stage to stage, in order.

    PromptBatch -> RolloutBatch -> ScoredBatch -> AdvantageBatch -> PackedBatch -> TrainBatch

A later record holds the earlier one rather than filling in its blanks, so a scored
sample and an unscored one are different types and no field is Optional "until later".
Text-side records hold Python lists; tensors start at PackedBatch. Every record holds the
share of one data-parallel rank; numbers named ``num_global_*`` are sums over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

PolicyVersion = NewType("PolicyVersion", int)
"""Number of optimizer steps in the weights that produced something."""


class FinishReason(StrEnum):
    """Why the engine stopped writing a sample."""

    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One question over one chunked document."""

    prompt_id: str
    text: str
    """What the policy reads, before tokenisation."""

    token_ids: Sequence[int]
    question: str
    chunks: Sequence[str]
    """Chunk texts; the index is the chunk id that the policy cites."""

    evidence_chunk_ids: frozenset[int]
    reference_answers: Sequence[str]
    """Any one of them counts as right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptBatch:
    """The prompts of one step, each to be sampled ``group_size`` times."""

    step: int
    prompts: Sequence[Prompt]
    group_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertChoices:
    """Experts that an engine sent the tokens of a sample to, in every layer.

    Shapes: P tokens of the prompt, R of the response, M layers, K experts per token.
    """

    prompt: NDArray[np.unsignedinteger]
    """[P, M, K]; the same array for all samples of a group. Without meaning in layers that have no
    experts."""

    response: NDArray[np.unsignedinteger]
    """[R - 1, M, K]: an engine does not run the last token, whose continuation nobody asks for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One response as the engine produced it."""

    prompt: Prompt
    sample_index: int
    """Place within its group, from 0."""

    token_ids: Sequence[int]
    """Response tokens, the stop token included where one was written."""

    text: str
    """``token_ids`` decoded, without the stop token."""

    behavior_logprobs: Sequence[float]
    """Natural log, one per token of ``token_ids``, under the sampling temperature."""

    finish_reason: FinishReason
    policy_version: PolicyVersion
    """Of the weights that its first token was written with."""

    later_versions: Sequence[PolicyVersion] = ()
    """Of weights that took over while it was being written, in order."""

    experts: ExpertChoices | None = None
    """None where the run does not replay them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutBatch:
    """Samples in group order: ``group_size`` consecutive samples share a prompt."""

    step: int
    group_size: int
    samples: Sequence[Sample]


class Verdict(StrEnum):
    """What a judge says about an answer."""

    YES = "yes"
    NO = "no"
    NONE = "none"
    """Nothing that can be relied on; never a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """A judge's verdict and how it came about."""

    verdict: Verdict
    reason: str = ""
    """Why there is none; empty for yes and no."""

    is_cached: bool = False
    """Found among earlier verdicts, or asked for once on behalf of several equal answers."""

    latency_s: float = 0.0
    """From the question to the verdict, waiting and repeated requests included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSample:
    """A sample with its reward and the parts that reward was made of."""

    sample: Sample
    reward: float
    reward_parts: Mapping[str, float]
    """``answer``, ``context_f_beta``, ``context_precision``, ``context_recall`` and so on."""

    cited_chunk_ids: Sequence[int]
    """As written: in order, with repeats."""

    answer: str | None
    """Text of the answer block; None where the response has none."""

    parse_outcome: str
    """Value of a ``ParseOutcome``."""

    is_valid: bool
    """False where no reward could be found out; such a sample leaves loss and baseline."""

    judgement: Judgement | None = None
    """None where no judge was asked."""

    overlong_charge: float = 0.0
    """What the reward was lowered by for the length of the response; in none of its parts."""

    alarms: Sequence[str] = ()
    """Kinds of attempt to influence a judge that the answer holds; empty without a judge."""

    @classmethod
    def without_reward(cls, sample: Sample) -> ScoredSample:
        """A sample that nobody scores: its advantages come from elsewhere."""
        return cls(
            sample=sample,
            reward=0.0,
            reward_parts={},
            cited_chunk_ids=(),
            answer=None,
            parse_outcome="",
            is_valid=True,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredBatch:
    """Scored samples, still in group order."""

    step: int
    group_size: int
    scored: Sequence[ScoredSample]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvantageBatch:
    """Scored samples with their advantages; groups that teach nothing are already dropped."""

    step: int
    scored: Sequence[ScoredSample]
    advantages: Sequence[Sequence[float]]
    """Of each sample, one per token of its response; NaN where a critic has yet to say."""

    num_groups: int
    """Groups before dropping."""

    num_dropped_groups: int
    findings: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What was found on the way, by metric name, to be averaged over all ranks. The recipe says
    which names there are, so that every rank has the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run of tokens in a packed row: a whole sample, a shared prompt, or one response to it."""

    num_tokens: int
    continues: int | None = None
    """Index of the segment whose tokens come before these; None where a sample starts here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Whole samples packed one after the other, without padding, for one forward pass.

    Samples of a group may share their prompt: it stands once, as a segment that each of their
    responses continues.

    Index t speaks about token t itself: its advantage, its log-probability. The learner alone
    shifts by one, where it meets logits.

    Shapes: T packed tokens, S samples.
    """

    token_ids: Tensor
    """[T] int64."""

    segments: Sequence[Segment]
    """In order, without gaps: their tokens add up to T."""

    is_response: Tensor
    """[T] bool; True where the policy wrote the token."""

    rewards: Tensor
    """[T] float32; a sample's reward at the last token of its response, 0 elsewhere."""

    advantages: Tensor
    """[T] float32; 0 outside responses. NaN inside where a critic has yet to say, so that an
    update without its word is refused."""

    behavior_logprobs: Tensor
    """[T] float32; 0 outside responses."""

    loss_weights: Tensor
    """[T] float32; 0 outside responses. The loss of a step is the sum over all ranks and tokens
    of weight times token loss: the normaliser, with its global denominator, is in here."""

    sample_ids: Sequence[str]
    """[S] ``prompt_id/sample_index``, for messages."""

    experts: Tensor | None = None
    """[M, T, K] int16 experts of each token in each of M layers, as the engine chose them; -1 where
    it did not run the token. None where the run does not replay them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """One data-parallel rank's micro-batches for one step."""

    step: int
    micro_batches: Sequence[MicroBatch]
    num_global_response_tokens: int
    num_global_samples: int
    num_global_tokens: int
    """Of prompts and responses, a prompt counted once for every sample."""

    num_repeated_prompt_tokens: int
    """Prompt tokens computed again because a group did not fit into one micro-batch."""

    load_imbalance: float
    """Work of the busiest rank over the mean of all; 1 is even."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """A packed batch with the log-probabilities the loss compares against."""

    packed: PackedBatch
    proximal_logprobs: Sequence[Tensor]
    """Per micro-batch [T] float32, 0 outside responses; the trainer's policy before this step's
    first update. Shape of the micro-batch's tokens."""

    reference_logprobs: Sequence[Tensor] | None
    """Per micro-batch [T] float32; frozen reference policy, None when the KL term is off."""

    expert_load: Tensor | None = None
    """[M, E] float32 share of the tokens, of all ranks, that each of E experts got in each layer
    under the proximal policy; a row sums to 1, or to 0 in a layer without experts. None where no
    loss of the router needs it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueBatch:
    """A packed batch with what the critic said about it, and what it is to learn."""

    packed: PackedBatch
    values: Sequence[Tensor]
    """Per micro-batch [T] float32, 0 outside responses: what the critic, before this step's first
    update, expected to be earned from the token on."""

    returns: Sequence[Tensor]
    """Per micro-batch [T] float32, 0 outside responses: what was earned, as GAE has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateStats:
    """What one optimizer step did; means over global response tokens."""

    version: PolicyVersion
    """Optimizer steps in the weights that were trained, the policy's or the critic's."""

    metrics: Mapping[str, float]
    """``loss``, ``grad_norm``, ``clipped_frac``, ``behavior_proximal_kl`` and so on."""
