"""A benchmark run: ``longrlvr evaluate TARGET --benchmark FILE``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_longrlvr.config.section import Section


class RulerQaConfig(Section):
    """RULER's two question answering tasks, built from local files."""

    kind: Literal["ruler_qa"]
    squad: str | None = None
    """JSON file in SQuAD's format for ``qa_1``; the task is left out if None."""

    hotpot: str | None = None
    """JSON file in HotpotQA's format for ``qa_2``; the task is left out if None."""

    lengths: list[int] = Field(default=[4096, 8192, 16_384, 32_768, 65_536, 131_072], min_length=1)
    """Tokens of prompt and response together."""

    num_questions: int = Field(default=100, gt=0)
    """The first so many answerable ones of each file, at each length."""

    seed: int = 42
    """Chooses the documents around the evidence and their order."""


class LongBenchV2Config(Section):
    """LongBench v2 from its published JSON file, or the same records as JSON lines."""

    kind: Literal["longbench_v2"]
    path: str


class LongReasonConfig(Section):
    """LongReason from its published records, a file for each split."""

    kind: Literal["longreason"]
    paths: dict[str, str] = Field(min_length=1)
    """File by split, such as ``32k``; JSON, JSON lines or parquet."""


BenchmarkSource = Annotated[
    RulerQaConfig | LongBenchV2Config | LongReasonConfig, Field(discriminator="kind")
]


class BenchmarkRunConfig(Section):
    """What is asked, how it is put to the policy and how responses are sampled."""

    source: BenchmarkSource
    prompt: Literal["chunks", "plain"] = "chunks"
    """``chunks``: numbered chunks and the instruction to cite them; ``plain``: the text alone."""

    chunk_tokens: int = Field(default=512, gt=0)
    """Upper bound on a chunk of a document that comes in one piece."""

    max_prompt_tokens: int = Field(gt=0)
    """Longer prompts lose the middle of their document, and the outputs say so. RULER's prompts
    are built to ``lengths`` and must not be longer than this."""

    max_response_tokens: int = Field(default=4096, gt=0)
    samples_per_question: int = Field(default=1, gt=0)
    temperature: float = Field(default=0.0, ge=0)
    """0 decodes greedily."""

    seed: int = 20_240
    """Of the sampling."""

    questions_per_batch: int = Field(default=8, gt=0)
    """Given to the engine of each data-parallel rank at once; what a stopped run has to repeat."""
