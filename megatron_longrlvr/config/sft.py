"""The recipe of a supervised run: imitate demonstrations."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from megatron_longrlvr.config.policy import LayoutConfig, OptimizerConfig, SftModelConfig
from megatron_longrlvr.config.section import Section
from megatron_longrlvr.config.task import EvaluationConfig, ToyTaskConfig
from megatron_longrlvr.config.training import RunSection


class DemonstrationKind(Section):
    """Demonstrations of one difficulty: of the toy task, or of questions in data files."""

    task: ToyTaskConfig | None = None
    paths: list[str] = []
    """JSON lines or parquet, as for training; each question is answered with its evidence and its
    first reference answer, in the format and without reasoning."""

    citation_accuracy: float = Field(default=1.0, ge=0, le=1)
    """Probability that a citation is right; see ``data/toy_task.py`` for what it is otherwise.
    Answers follow the citations, right or wrong. For the toy task alone."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.task is None) != bool(self.paths):
            raise ValueError("give either task or paths")
        if self.paths and self.citation_accuracy != 1.0:
            raise ValueError("citation_accuracy goes with task; those of paths are all right")
        return self


class DemonstrationStage(Section):
    """So many steps on the same mixture of demonstrations."""

    steps: int = Field(gt=0)
    kinds: list[DemonstrationKind] = Field(min_length=1)
    """Taken in turns: the first step's whole batch is of the first kind, the next one's of the
    second, and so on around."""


class DemonstrationsConfig(Section):
    """What is imitated, easy stages first; prompts are not repeated within a stage.

    The loss is cross-entropy on response tokens, end of sequence included, over their number in
    the whole batch. Learning rate and its schedule run over all stages together.
    """

    stages: list[DemonstrationStage] = Field(min_length=1)
    batch_size: int = Field(gt=0)
    """Demonstrations per step, over all data-parallel ranks."""

    micro_batch_tokens: int = Field(gt=0)
    """Token budget of one forward pass; a prompt from a data file that exceeds it is refused."""


class SftRunConfig(Section):
    """A supervised run: ``longrlvr sft``."""

    kind: Literal["sft"]
    run: RunSection
    model: SftModelConfig
    layout: LayoutConfig = LayoutConfig()
    demonstrations: DemonstrationsConfig
    optimizer: OptimizerConfig
    evaluation: EvaluationConfig | None = None
    """Measured with the trained policy, at the end; also greedily."""

    max_response_tokens: int = Field(default=32, gt=0)
    """Limit for responses sampled in evaluation."""

    export_every: int = Field(default=0, ge=0)
    """Write a Hugging Face folder, ``hf_000200/`` and so on, every so many steps; the last one is
    ``hf/``. 0 writes the last one alone."""
