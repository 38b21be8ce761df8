"""From a benchmark's question to the prompt that the policy reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from megatron_longrlvr.config.benchmark import BenchmarkRunConfig
from megatron_longrlvr.data.chunking import split_into_chunks
from megatron_longrlvr.data.prompt_format import render_prompt
from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.benchmarks.question import Question
from megatron_longrlvr.stages import Prompt

_PLAIN_INSTRUCTION = (
    "Read the text below and answer the question at the end, as briefly as the question allows."
)
# Cutting text at token borders may change how the rest is tokenised, by a few tokens.
_CUT_MARGIN_TOKENS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedQuestion:
    """A prompt, and whether its document lost its middle to the length limit."""

    prompt: Prompt
    question: Question
    was_cut: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptWriter:
    """Writes prompts as the benchmark run asks."""

    config: BenchmarkRunConfig
    tokenizer: Tokenizer

    def count_tokens(self, question: Question) -> int:
        """Tokens of the whole prompt, chat markup included."""
        return len(self._write(question).token_ids)

    def count_text(self, text: str) -> int:
        """Tokens of a text by itself."""
        return len(self.tokenizer.encode(text))

    def prepare(self, question: Question) -> PreparedQuestion:
        """Write the prompt; a document in one piece is cut in the middle if it is too long.

        Raises:
            DataError: The prompt is too long and cannot be cut, or its document holds chunk tags.
        """
        prompt, shown = self._write(question), question
        while len(prompt.token_ids) > self.config.max_prompt_tokens:
            shown = self._cut(shown, num_prompt_tokens=len(prompt.token_ids))
            prompt = self._write(shown)
        return PreparedQuestion(prompt=prompt, question=question, was_cut=shown is not question)

    def _cut(self, question: Question, *, num_prompt_tokens: int) -> Question:
        limit = f"max_prompt_tokens={self.config.max_prompt_tokens}"
        if len(question.documents) > 1:
            raise DataError(f"{question.place}: the prompt is above {limit}; lower source.lengths")
        token_ids = self.tokenizer.encode(question.documents[0])
        # Chunk tags go with the text that they enclose, so the share of the document is what has
        # to go; the rest of the prompt makes this too little by a bit, and another turn follows.
        excess = num_prompt_tokens - self.config.max_prompt_tokens
        num_dropped = excess * len(token_ids) // num_prompt_tokens + _CUT_MARGIN_TOKENS
        num_kept = len(token_ids) - num_dropped
        if num_kept < 2:
            raise DataError(f"{question.place}: the question alone is above {limit}")
        half = num_kept // 2
        kept = self.tokenizer.decode(token_ids[:half]) + self.tokenizer.decode(token_ids[-half:])
        return replace(question, documents=(kept,))

    def _write(self, question: Question) -> Prompt:
        chunks = self._chunks(question)
        write = _WRITERS[self.config.prompt]
        try:
            text = self.tokenizer.render_chat(write(chunks, question.text))
        except ValueError as error:
            raise DataError(f"{question.place}: {error}") from error
        return Prompt(
            prompt_id=question.prompt_id,
            text=text,
            token_ids=tuple(self.tokenizer.encode(text)),
            question=question.text,
            chunks=chunks,
            evidence_chunk_ids=question.evidence or frozenset(),
            reference_answers=question.references,
        )

    def _chunks(self, question: Question) -> tuple[str, ...]:
        if len(question.documents) > 1 or self.config.prompt == "plain":
            return question.documents
        (text,) = question.documents
        chunks = split_into_chunks(
            text, max_tokens=self.config.chunk_tokens, count_tokens=self.count_text
        )
        return tuple(text[chunk.start_char : chunk.end_char] for chunk in chunks)


def _write_plain(documents: Sequence[str], question: str) -> str:
    body = documents[0]
    if len(documents) > 1:
        numbered = enumerate(documents, start=1)
        body = "\n\n".join(f"Document {number}:\n{text}" for number, text in numbered)
    return f"{_PLAIN_INSTRUCTION}\n\n{body}\n\nQuestion: {question}"


def _write_chunks(chunks: Sequence[str], question: str) -> str:
    return render_prompt(chunks=chunks, question=question)


_WRITERS: dict[str, Callable[[Sequence[str], str], str]] = {
    "chunks": _write_chunks,
    "plain": _write_plain,
}
