"""Put the questions of a benchmark to an engine, a batch at a time.

Each batch is dealt over the data-parallel ranks and its responses are written in the order of the
questions, so that the outputs do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from megatron_longrlvr.algorithms.packing import ALONE, Peers
from megatron_longrlvr.config.benchmark import BenchmarkRunConfig
from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.benchmarks.outputs import OutputsFile
from megatron_longrlvr.evaluation.benchmarks.prompts import PreparedQuestion, PromptWriter
from megatron_longrlvr.evaluation.benchmarks.question import Question
from megatron_longrlvr.rollout.engine import RolloutEngine, SamplingParams
from megatron_longrlvr.stages import FinishReason, PromptBatch, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkCounts:
    """What became of the questions of a run, on all ranks."""

    num_asked: int
    num_cut: int
    """Asked with a document that lost its middle to the length limit."""

    num_aborted: int
    """Not written because the engine gave up on a sample; asked again by the next run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """A question that was put to the engine, as it travels between ranks."""

    prompt_id: str
    was_cut: bool
    is_aborted: bool
    records: Sequence[Mapping[str, object]]
    """One a sample; not written if any of them was aborted."""


def ask_questions(
    questions: Iterable[Question],
    *,
    config: BenchmarkRunConfig,
    writer: PromptWriter,
    engine: RolloutEngine,
    outputs: OutputsFile | None,
    on_progress: Callable[[int], None],
    peers: Peers = ALONE,
) -> BenchmarkCounts:
    """Sample every question and write the responses; every rank calls this with all questions.

    Args:
        questions: Those that are not done yet, the same on every rank.
        config: How to sample.
        writer: Writes the prompts.
        engine: Samples.
        outputs: Takes the responses; None on ranks that do not write.
        on_progress: Told after each batch how many questions it held.
        peers: Whom the questions are dealt to.

    Raises:
        DataError: A question cannot be asked, of whichever rank.
    """
    num_asked = num_cut = num_aborted = 0
    for batch in _batches(iter(questions), config.questions_per_batch * peers.size):
        prepared = _prepare(batch[peers.rank :: peers.size], writer, peers)
        shares = peers.gather(_ask(prepared, config, engine))
        # Rank r had the questions r, r + size, ...
        asked: list[_Asked] = [shares[i % peers.size][i // peers.size] for i in range(len(batch))]
        for one in asked:
            num_asked += 1
            num_cut += one.was_cut
            num_aborted += one.is_aborted
            if outputs is not None and not one.is_aborted:
                outputs.append(one.prompt_id, one.records)
        on_progress(len(batch))
    return BenchmarkCounts(num_asked=num_asked, num_cut=num_cut, num_aborted=num_aborted)


def _prepare(
    questions: Sequence[Question], writer: PromptWriter, peers: Peers
) -> list[PreparedQuestion]:
    prepared, problem = [], None
    try:
        prepared = [writer.prepare(one) for one in questions]
    except DataError as error:
        problem = str(error)
    # Ranks that went on without the one that cannot would wait for it for ever.
    problems = [text for text in peers.gather(problem) if text is not None]
    if problems:
        raise DataError(problems[0])
    return prepared


def _ask(
    prepared: Sequence[PreparedQuestion], config: BenchmarkRunConfig, engine: RolloutEngine
) -> list[_Asked]:
    """Sample this rank's questions; also called without any, for engines that span ranks."""
    params = SamplingParams(
        max_response_tokens=config.max_response_tokens,
        temperature=config.temperature,
        seed=config.seed,
    )
    size = config.samples_per_question
    prompts = tuple(one.prompt for one in prepared)
    samples = engine.generate(PromptBatch(step=0, prompts=prompts, group_size=size), params).samples
    asked = []
    for index, one in enumerate(prepared):
        group = samples[index * size : (index + 1) * size]
        asked.append(
            _Asked(
                prompt_id=one.prompt.prompt_id,
                was_cut=one.was_cut,
                is_aborted=any(one.finish_reason is FinishReason.ABORTED for one in group),
                records=[_record(one, sample) for sample in group],
            )
        )
    return asked


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


def _batches(questions: Iterator[Question], size: int) -> Iterator[list[Question]]:
    while batch := list(islice(questions, size)):
        yield batch
