"""Prompts without end and a tokenizer without a file, for tests of what goes on around a model."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_longrlvr.stages import Prompt


class Words:
    """A tokenizer whose vocabulary is what it has seen."""

    stop_ids = frozenset({0})

    def __init__(self) -> None:
        self.words = ["<end>"]

    def encode(self, text: str) -> list[int]:
        self.words += [word for word in text.split() if word not in self.words]
        return [self.words.index(word) for word in text.split()]

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(self.words[token] for token in token_ids if token)


class CountingSource:
    """Prompts p0, p1, ... without end."""

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor

    def draw(self, num_prompts: int) -> tuple[Prompt, ...]:
        start, self.cursor = self.cursor, self.cursor + num_prompts
        return tuple(word_prompt(f"p{index}") for index in range(start, self.cursor))

    def state(self) -> int:
        return self.cursor

    def restore(self, cursor: int) -> None:
        self.cursor = cursor


def word_prompt(name: str, *, token_ids: Sequence[int] = (1, 2)) -> Prompt:
    return Prompt(
        prompt_id=name,
        text="",
        token_ids=token_ids,
        question="q",
        chunks=("a", "b"),
        evidence_chunk_ids=frozenset({1}),
        reference_answers=("x",),
    )
