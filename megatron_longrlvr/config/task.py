"""Sections about the task: where prompts come from and what a response earns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from megatron_longrlvr.config.judge import JudgeConfig
from megatron_longrlvr.config.section import Section


class ToyTaskConfig(Section):
    """Generated documents whose questions need several chunks; see ``data/toy_task.py``."""

    kind: Literal["toy"]
    num_chunks: int = Field(default=16, ge=4, le=64)
    """Chunks per document, each with a fact of its own."""

    num_evidence: int = Field(default=4, ge=1, le=4)
    """Chunks that one question needs."""

    seed: int = 0
    """Documents and questions depend on this and on the split alone."""

    split: Literal["train", "heldout"] = "train"
    """The two splits share nothing that is asked about."""


class FileDataConfig(Section):
    """JSON lines or parquet in verl's schema; see ``data/dataset.py``."""

    kind: Literal["files"]
    paths: list[str] = Field(min_length=1)
    """Files, read in this order."""

    shuffle: bool = True
    """Deal prompts in an order drawn from ``run.seed``, another one each epoch."""


DataSource = Annotated[ToyTaskConfig | FileDataConfig, Field(discriminator="kind")]


class DataConfig(Section):
    """Where training prompts come from and which of them are used."""

    train: DataSource
    max_prompt_tokens: int = Field(gt=0)
    """Longest prompt that is used whole, chat markup included."""

    overlong_prompts: Literal["refuse", "drop", "cut"] = "refuse"
    """What a prompt above ``max_prompt_tokens`` does: end the run with its name, be left out and
    counted, or lose its first tokens, which are the instruction and the first chunks."""

    allow_unreachable_evidence: bool = False
    """Whether prompts may be used whose evidence is blank or cut off; else they end the run."""


class ContextRewardConfig(Section):
    """Shape of the context reward."""

    beta: float = Field(default=2.0, gt=0)
    """Recall counts ``beta**2`` times as much as precision."""

    eta: float = Field(default=0.1, ge=0, le=1)
    """Share of F-beta paid whatever the answer."""


class RewardsConfig(Section):
    """What a response earns."""

    variant: Literal["longrlvr", "authors_code", "outcome_only", "context_only"] = "longrlvr"
    """``longrlvr``: the paper's formula on sets of chunks; ``authors_code``: the same with the
    released code's list-based precision; ``outcome_only``: the answer reward alone;
    ``context_only``: F-beta alone."""

    context: ContextRewardConfig = ContextRewardConfig()
    parser: Literal["strict", "tolerant"] = "strict"
    """``strict``: exactly one block of each kind, else no reward (the paper's rule);
    ``tolerant``: the last complete block after the reasoning, case and spacing forgiven."""

    answer: Literal[
        "exact",
        "normalized",
        "unordered",
        "choice",
        "number",
        "date",
        "yes_no",
        "list",
        "token_f1",
        "containment",
        "judge",
    ] = "normalized"
    """How the answer is compared with the reference; ``rewards/answer/`` holds a file for each,
    with what it reads and what it leaves undecided. ``judge`` leaves every answer to the judge."""

    judge: JudgeConfig | None = None
    """Judge of the answers that the verifier ``answer`` leaves undecided; null for none, where the
    verifier's score stands."""

    @model_validator(mode="after")
    def _judge_is_described(self) -> RewardsConfig:
        if self.answer == "judge" and self.judge is None:
            raise ValueError("answer=judge needs a judge section")
        return self


class EvaluationConfig(Section):
    """Periodic measurement on held-out prompts."""

    data: DataSource
    num_prompts: int = Field(default=128, gt=0)
    samples_per_prompt: int = Field(default=1, gt=0)
    temperature: float = Field(default=1.0, ge=0)
    """0 decodes greedily."""

    seed: int = 20_240
    """Random stream of its own: evaluating more or less often never changes training."""
