"""Judges with settings that make tests short, and the queries they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron_longrlvr.config.judge import JudgeConfig
from megatron_longrlvr.rewards.judge.query import JudgeQuery
from megatron_longrlvr.rewards.judge.service import JudgeService, open_judge


def judge_settings(*urls: str, **changes: Any) -> dict[str, Any]:
    """A recipe's ``rewards.judge``; ``changes`` replace dotted keys, with ``__`` for the dot."""
    content: dict[str, Any] = {
        "model": "referee",
        "endpoints": [{"url": url, "max_concurrent": 16} for url in urls],
        "cache": None,
        "retry": {
            "max_attempts": 4,
            "backoff_s": 0.01,
            "max_backoff_s": 0.02,
            "connect_timeout_s": 2.0,
            "read_timeout_s": 2.0,
            "total_timeout_s": 10.0,
        },
        "breaker": {"failures": 5, "open_s": 0.02, "max_open_s": 0.05},
    }
    for dotted, value in changes.items():
        section, _, key = dotted.rpartition("__")
        (content.setdefault(section, {}) if section else content)[key] = value
    return content


def judge_config(*urls: str, **changes: Any) -> JudgeConfig:
    return JudgeConfig.model_validate(judge_settings(*urls, **changes))


@contextmanager
def open_test_judge(
    *urls: str, run_dir: Path | None = None, **changes: Any
) -> Iterator[JudgeService]:
    service = open_judge(judge_config(*urls, **changes), run_dir=run_dir)
    try:
        yield service
    finally:
        service.close()


def query(
    answer: str = "Paris", *, question: str = "Which city?", reference: str = "Paris"
) -> JudgeQuery:
    return JudgeQuery(question=question, references=(reference,), answer=answer)
