"""Answers that models give to questions, and whether they are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_longrlvr.chat.client import read_keys
from megatron_longrlvr.config.synthesis import AnswerCheckConfig
from megatron_longrlvr.data.synthesis.kept import KeptResults, Part, hash_of
from megatron_longrlvr.data.synthesis.language_model import only_keys, text_of
from megatron_longrlvr.data.synthesis.stage import Unanswered
from megatron_longrlvr.rewards.answer.registry import VERIFIERS, best_verification
from megatron_longrlvr.rewards.answer.verification import Ruling
from megatron_longrlvr.rewards.judge.client import JudgeClient
from megatron_longrlvr.rewards.judge.query import JudgeQuery
from megatron_longrlvr.rewards.judge.template import load_template
from megatron_longrlvr.stages import Verdict

_HOW_TO_REACH = {"endpoints", "retry", "breaker", "outage", "cache", "structured_output"}


def read_answer(content: Mapping[str, Any]) -> str | None:
    """The answer in a reply; None where the model says that it has none."""
    only_keys(content, ["answer"])
    return None if content["answer"] is None else text_of(content, "answer")


def check_settings(config: AnswerCheckConfig) -> Mapping[str, Part]:
    """What the checks depend on."""
    if config.judge is None:
        return {"verifier": config.verifier}
    judge = config.judge.model_dump(mode="json", exclude=_HOW_TO_REACH)
    version = load_template(config.judge.template).version
    return {"verifier": config.verifier, "judge": {**judge, "template": version}}


class AnswerChecker:
    """Compares answers as training does. Belongs to one event loop."""

    def __init__(self, config: AnswerCheckConfig, kept: KeptResults) -> None:
        """Send nothing yet.

        Raises:
            ConfigError: A key or the judge's template is missing.
        """
        self._verify = VERIFIERS[config.verifier]
        self._kept = kept
        self._settings = check_settings(config)
        self._judge = None
        if config.judge is not None:
            keys = read_keys(config.judge.endpoints, section="answers.judge")
            self._judge = JudgeClient(config.judge, load_template(config.judge.template), keys)
            self._max_answer_chars = config.judge.max_answer_chars

    async def is_right(self, answer: str | None, *, question: str, reference: str) -> bool:
        """Whether an answer says what the reference says; none at all does not.

        Raises:
            Unanswered: The judge gave no verdict.
        """
        if answer is None:
            return False
        ruling = best_verification(self._verify, answer, [reference]).ruling
        if ruling is not Ruling.UNDECIDED or self._judge is None:
            return ruling is Ruling.RIGHT
        if len(answer) > self._max_answer_chars:
            return False
        key = hash_of("verdict", self._settings, question, reference, answer)
        known = self._kept.find(key)
        if known is None:
            query = JudgeQuery(question=question, references=(reference,), answer=answer)
            vote = await self._judge.ask(query)
            if vote.verdict is Verdict.NONE:
                raise Unanswered(f"answers.judge {vote.reason}")
            known = vote.verdict.value
            self._kept.store(key, known, item=question)
        return known == Verdict.YES.value

    async def close(self) -> None:
        if self._judge is not None:
            await self._judge.close()
