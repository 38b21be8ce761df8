"""Prompts of the toy task, dealt without end."""

from __future__ import annotations

from typing import Protocol

from megatron_longrlvr.config.task import ToyTaskConfig
from megatron_longrlvr.data.prompt_format import render_prompt
from megatron_longrlvr.data.sources import CountedPrompts
from megatron_longrlvr.data.toy_task import ToyTask
from megatron_longrlvr.stages import Prompt


class Encoder(Protocol):
    """The one thing a prompt source asks of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as it stands."""
        ...


class ToyPromptSource(CountedPrompts):
    """Deals questions 0, 1, 2 and so on of a split.

    Prompts carry no instruction: the task's only one is known to the policy.
    """

    def __init__(self, config: ToyTaskConfig, tokenizer: Encoder) -> None:
        super().__init__()
        self._task = ToyTask(config)
        self._name = f"toy-{config.split}"
        self._tokenizer = tokenizer

    def prompt_at(self, place: int) -> Prompt:
        example = self._task.example(place)
        text = render_prompt(chunks=example.chunks, question=example.question, instruction="")
        return Prompt(
            prompt_id=f"{self._name}:{place}",
            text=text,
            token_ids=tuple(self._tokenizer.encode(text)),
            question=example.question,
            chunks=example.chunks,
            evidence_chunk_ids=frozenset(example.evidence_chunk_ids),
            reference_answers=(example.answer,),
        )
