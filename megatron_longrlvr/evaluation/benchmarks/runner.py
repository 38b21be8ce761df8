"""Put the questions of a benchmark to an engine, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from megatron_longrlvr.config.benchmark import BenchmarkRunConfig
from megatron_longrlvr.evaluation.benchmarks.outputs import OutputsFile
from megatron_longrlvr.evaluation.benchmarks.prompts import PreparedQuestion, PromptWriter
from megatron_longrlvr.evaluation.benchmarks.question import Question
from megatron_longrlvr.rollout.engine import RolloutEngine, SamplingParams
from megatron_longrlvr.stages import FinishReason, PromptBatch, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkCounts:
    """What became of the questions of a run."""

    num_asked: int
    num_cut: int
    """Asked with a document that lost its middle to the length limit."""

    num_aborted: int
    """Not written because the engine gave up on a sample; asked again by the next run."""


def ask_questions(
    questions: Iterable[Question],
    *,
    config: BenchmarkRunConfig,
    writer: PromptWriter,
    engine: RolloutEngine,
    outputs: OutputsFile | None,
    on_progress: Callable[[int], None],
) -> BenchmarkCounts:
    """Sample every question and write the responses; all ranks of a policy call this.

    Args:
        questions: Those that are not done yet.
        config: How to sample.
        writer: Writes the prompts.
        engine: Samples.
        outputs: Takes the responses; None on ranks that do not write.
        on_progress: Told after each batch how many questions it held.
    """
    params = SamplingParams(
        max_response_tokens=config.max_response_tokens,
        temperature=config.temperature,
        seed=config.seed,
    )
    group_size = config.samples_per_question
    num_asked = num_cut = num_aborted = 0
    for prepared in _batches(map(writer.prepare, questions), config.questions_per_batch):
        prompts = tuple(one.prompt for one in prepared)
        batch = PromptBatch(step=0, prompts=prompts, group_size=group_size)
        samples = engine.generate(batch, params).samples
        for index, one in enumerate(prepared):
            group = samples[index * group_size : (index + 1) * group_size]
            is_aborted = any(one.finish_reason is FinishReason.ABORTED for one in group)
            num_asked += 1
            num_cut += one.was_cut
            num_aborted += is_aborted
            if outputs is not None and not is_aborted:
                outputs.append(one.prompt.prompt_id, [_record(one, sample) for sample in group])
        on_progress(len(prepared))
    return BenchmarkCounts(num_asked=num_asked, num_cut=num_cut, num_aborted=num_aborted)


def _record(prepared: PreparedQuestion, sample: Sample) -> dict[str, object]:
    question = prepared.question
    return {
        **question.output_fields,
        question.response_field: sample.text,
        "sample_index": sample.sample_index,
        "num_prompt_tokens": len(prepared.prompt.token_ids),
        "finish_reason": sample.finish_reason.value,
        "was_cut": prepared.was_cut,
    }


def _batches(prepared: Iterator[PreparedQuestion], size: int) -> Iterator[list[PreparedQuestion]]:
    while batch := list(islice(prepared, size)):
        yield batch
