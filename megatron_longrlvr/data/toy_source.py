"""Prompts of the toy task, dealt without end."""

from __future__ import annotations

from typing import Protocol

from megatron_longrlvr.config.task import ToyTaskConfig
from megatron_longrlvr.data.prompt_format import render_prompt
from megatron_longrlvr.data.toy_task import ToyTask
from megatron_longrlvr.stages import Prompt


class Encoder(Protocol):
    """The one thing a prompt source asks of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as it stands."""
        ...


class ToyPromptSource:
    """Deals questions 0, 1, 2 and so on of a split; satisfies ``PromptSource``.

    Prompts carry no instruction: the task's only one is known to the policy.
    """

    def __init__(self, config: ToyTaskConfig, tokenizer: Encoder) -> None:
        self._task = ToyTask(config)
        self._name = f"toy-{config.split}"
        self._tokenizer = tokenizer
        self._cursor = 0

    def draw(self, num_prompts: int) -> tuple[Prompt, ...]:
        if num_prompts < 1:
            raise ValueError(f"num_prompts must be at least 1, got {num_prompts}")
        start = self._cursor
        self._cursor += num_prompts
        return tuple(self._prompt(index) for index in range(start, self._cursor))

    def state(self) -> int:
        return self._cursor

    def restore(self, cursor: int) -> None:
        if cursor < 0:
            raise ValueError(f"a prompt source cannot continue after {cursor} prompts")
        self._cursor = cursor

    def _prompt(self, index: int) -> Prompt:
        example = self._task.example(index)
        text = render_prompt(chunks=example.chunks, question=example.question, instruction="")
        return Prompt(
            prompt_id=f"{self._name}:{index}",
            text=text,
            token_ids=tuple(self._tokenizer.encode(text)),
            question=example.question,
            chunks=example.chunks,
            evidence_chunk_ids=frozenset(example.evidence_chunk_ids),
            reference_answers=(example.answer,),
        )
