"""Sections about one training step and about the run as a whole."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_longrlvr.config.mismatch import MismatchConfig
from megatron_longrlvr.config.rollout_server import RolloutServerConfig
from megatron_longrlvr.config.section import Section
from megatron_longrlvr.config.vllm import VllmConfig


class RunSection(Section):
    """Name, place and random seed of a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    dir: str
    """Run directory; created when absent."""

    seed: int = Field(default=0, ge=0)
    """Drives prompt order and sampling; the task has a seed of its own."""


class RolloutConfig(Section):
    """How responses are sampled."""

    engine: Literal["megatron", "vllm_colocated", "vllm_server"] = "megatron"
    """``megatron`` decodes with a key/value cache on the learner's own weights;
    ``vllm_colocated`` runs vLLM inside the training processes and hands it the new weights after
    each step; ``vllm_server`` does so with vLLM in processes of its own, which can sample while the
    learner trains."""

    vllm: VllmConfig = VllmConfig()
    server: RolloutServerConfig = RolloutServerConfig()

    prompts_per_step: int = Field(gt=0)
    """Over all data-parallel ranks."""

    group_size: int = Field(default=8, gt=0)
    """Samples per prompt."""

    max_response_tokens: int = Field(gt=0)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    """0 keeps every token."""

    stop: list[str] = []
    """Further tokens, besides the tokenizer's end-of-sequence token, that end a response."""

    routing_replay: bool = False
    """The learner sends every token to the experts that the engine chose for it while sampling, and
    weighs them by its own router. Without it, tokens whose experts are a rounding apart take other
    ones in the learner, and their log-probabilities lie far apart. For mixtures, with ``megatron``
    or ``vllm_colocated``."""

    max_concurrent_samples: int = Field(default=256, gt=0)
    """Samples decoded at the same time by one engine; the others wait for a free place."""


class KlConfig(Section):
    """Penalty for leaving the frozen starting policy."""

    coefficient: float = Field(default=0.0, ge=0)
    """0 switches the penalty and the reference model off."""

    estimator: Literal["k1", "k2", "k3"] = "k3"
    place: Literal["loss", "reward"] = "loss"


class DynamicSamplingConfig(Section):
    """Sample further prompts when groups turn out to teach nothing."""

    enabled: bool = False
    max_rounds: int = Field(default=3, gt=0)
    """Rounds of sampling per step; afterwards the step goes on with the groups it has."""


class OverlongConfig(Section):
    """What becomes of responses near ``rollout.max_response_tokens``, as in DAPO."""

    buffer_tokens: int = Field(default=0, ge=0)
    """Over so many tokens below the longest response a charge on the reward grows from 0 to
    ``penalty``; 0 charges nothing. Only advantages know of it: ``reward/`` and dynamic sampling go
    by what the task pays."""

    penalty: float = Field(default=1.0, gt=0)
    """In units of reward."""

    mask_truncated: bool = False
    """Leave responses that were cut at the longest length out of the loss and its denominator;
    they stay in the baseline of their siblings."""


class AlgorithmConfig(Section):
    """From rewards to a loss."""

    advantage: Literal["grpo", "dr_grpo", "rloo", "leave_one_out", "gae"] = "grpo"
    """``grpo``: reward minus group mean over group std; ``dr_grpo``: without the std; ``rloo``:
    reward minus the mean of the others; ``leave_one_out``: the same over the others' std; ``gae``:
    PPO's, for each token, from the values of the ``critic`` section's model."""

    credit: Literal["sequence", "segment"] = "sequence"
    """``sequence``: all tokens of a response have the advantage of the whole reward, as in the
    paper; ``segment``: tokens up to the end of the citation block have that of the context reward,
    and the answer's tokens that of the answer reward."""

    whiten_advantages: bool = False
    """Then shift and scale them to mean 0 and variance 1 over the step on all ranks: over samples,
    which with ``dr_grpo`` is REINFORCE++ with a baseline, or with ``gae`` over response tokens."""

    drop_uninformative_groups: bool = True
    """Leave groups without spread in the reward out of the loss and of its denominator; with
    ``gae`` every group teaches something, and this has to be false."""

    loss: Literal["clipped", "gspo", "cispo"] = "clipped"
    """``clipped``: PPO's, with a ratio for every token; ``gspo``: with one ratio for a response,
    whose bounds are some hundred times closer to 1; ``cispo``: weights instead of bounds."""

    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The ratio is held above 1 - ``clip_low``; not read by ``cispo``."""

    clip_high: float = Field(default=0.28, gt=0)
    """The ratio is held below 1 + ``clip_high``."""

    dual_clip: float | None = Field(default=10.0, gt=1)
    """Bound on the ratio's effect at negative advantages; null switches it off."""

    normalizer: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    """Denominator of the loss: response tokens; tokens of each sample, then samples; or samples
    times ``rollout.max_response_tokens``. All counted over every rank."""

    updates_per_step: int = Field(default=1, gt=0)
    """Optimizer steps on each batch of rollouts; each takes an equal share of the groups."""

    proximal: Literal["recompute", "behavior"] = "recompute"
    """Log-probabilities the ratio is taken against: recomputed by the learner before its first
    update, or those that the engine reported while sampling (exact with ``megatron``)."""

    mismatch: MismatchConfig = MismatchConfig()

    max_staleness: int = Field(default=0, ge=0)
    """Training steps that sampling may run ahead of learning; 0 samples and learns in turn."""

    entropy_coefficient: float = Field(default=0.0, ge=0)
    kl: KlConfig = KlConfig()
    dynamic_sampling: DynamicSamplingConfig = DynamicSamplingConfig()
    overlong: OverlongConfig = OverlongConfig()
    shared_prompt: bool = True
    """Compute a group's prompt once instead of once per sample. Loss and gradients are the same;
    a 64K prompt with eight 4K responses costs about a fifth."""

    micro_batch_tokens: int = Field(gt=0)
    """Token budget of one forward pass. A group above it is split, and its prompt computed once
    for each part; a single sample above it is a micro-batch of its own."""


class KeepBestConfig(Section):
    """What makes a checkpoint the best one of a run."""

    metric: str = Field(pattern=r"^eval/[a-z0-9_]+$")
    """Of the held-out measurement, e.g. ``eval/answer_mean``."""

    mode: Literal["max", "min"] = "max"


class TrainerConfig(Section):
    """Length of the run and what happens periodically; 0 switches a schedule off."""

    loop: Literal["native", "nemo_aligner"] = "native"
    """``nemo_aligner`` has NeMo-Aligner's ``PPOTrainer`` drive the same parts; a run may go on with
    the other loop."""

    steps: int = Field(gt=0)
    eval_every: int = Field(default=0, ge=0)
    """Held-out evaluation every so many steps, and at the start and the end."""

    save_every: int = Field(default=0, ge=0)
    """Checkpoint every so many steps, and at the end."""

    keep_checkpoints: int = Field(default=2, gt=0)
    """Newest checkpoints that stay on disk."""

    keep_best: KeepBestConfig | None = None
    """Keep the best checkpoint as well; ``checkpoints/best`` is a link to it. Those that are saved
    after a step with a measurement take part."""

    async_save: bool = True
    """Write checkpoints in processes of their own while training goes on. One that is still being
    written when the next is due, or at the end, is waited for."""

    sample_every: int = Field(default=1, ge=0)
    """Write ``samples/step_*.jsonl`` every so many steps."""

    eval_samples: int = Field(default=16, ge=0)
    """Held-out prompts whose responses are written at each evaluation, ``samples/heldout_*.jsonl``;
    always the same ones, so that a report can show how they change."""

    gradient_parts_every: int = Field(default=0, ge=0)
    """Measure the gradient of each term of the reward, a charge for length among them, every so
    many steps. It takes a pass over the step's first batch for the whole and for each term that is
    paid, and changes nothing in the run."""

    tensorboard: bool = True

    export_hf: bool = False
    """Write the final policy as a Hugging Face folder, ``hf/`` in the run directory."""
