"""A language model that is asked for JSON objects: replies are kept, bad ones asked for again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from megatron_longrlvr.chat.client import COMPLETIONS, ChatClient, Request, read_keys
from megatron_longrlvr.chat.endpoint import EndpointSettings
from megatron_longrlvr.chat.grammar import read_object, structured_output
from megatron_longrlvr.chat.reply import Completion, NoReply, RequestFailure, read_completion
from megatron_longrlvr.config.synthesis import ChatModelConfig
from megatron_longrlvr.data.synthesis.kept import KeptResults, Part, hash_of
from megatron_longrlvr.data.synthesis.outcome import Attempt, Fault, Quarantined
from megatron_longrlvr.data.synthesis.progress import StageProgress
from megatron_longrlvr.data.synthesis.prompts import Prompt
from megatron_longrlvr.data.synthesis.stage import Unanswered, Unusable
from megatron_longrlvr.errors import ConfigError

# Of 31 bits: every server takes such a seed.
_SEED_CHARS = 7
# How a model is reached, and what it costs, is not what it writes.
_NO_SETTINGS = {
    *("endpoints", "retry", "breaker", "structured_output"),
    *("price_per_million_prompt_tokens", "price_per_million_reply_tokens"),
}

_Value = TypeVar("_Value")


class WrongContent(Exception):  # noqa: N818 - read as "the reply has wrong content"
    """A reply of the right form says something impossible."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question(Generic[_Value]):
    """What is asked for, and how a reply is understood."""

    item: str
    """What it is about, for people."""

    prompt: Prompt
    seed: int
    """Another one asks for another reply to the same prompt."""

    read: Callable[[Mapping[str, Any]], _Value]
    """What an object says; raises ``WrongContent``, KeyError or TypeError where it says nothing of
    the kind."""


def model_settings(config: ChatModelConfig) -> Mapping[str, Part]:
    """What the replies of a model depend on."""
    return config.model_dump(mode="json", exclude=_NO_SETTINGS)


class LanguageModel:
    """Replies of one model. Belongs to one event loop."""

    def __init__(
        self, config: ChatModelConfig, *, name: str, kept: KeptResults, progress: StageProgress
    ) -> None:
        """Send nothing yet.

        Args:
            config: Of the recipe.
            name: In the recipe's ``models``.
            kept: Replies are found and stored here.
            progress: Told about each reply that was sent for.

        Raises:
            ConfigError: A key's environment variable is not set.
        """
        self._config = config
        self._name = name
        self._kept = kept
        self._progress = progress
        settings = EndpointSettings(
            retry=config.retry, breaker=config.breaker, max_tokens=config.max_tokens
        )
        keys = read_keys(config.endpoints, section=f"models.{name}")
        self._client = ChatClient(config.endpoints, settings, keys)
        self.max_concurrent = self._client.max_concurrent

    async def ask(self, question: Question[_Value]) -> _Value:
        """A reply that can be used, kept or new.

        Raises:
            Unusable: Not one of the attempts had the right form and content.
            Unanswered: No server replied.
            ConfigError: The server knows neither key nor model.
        """
        attempts: list[Attempt] = []
        for number in range(self._config.attempts):
            try:
                completion = await self._reply(question, number)
                if completion.is_cut:
                    detail = f"ended at max_tokens={self._config.max_tokens}"
                    raise _Faulty(Fault.CUT, detail, completion.text)
                return _understand(completion.text, question.read)
            except _Faulty as faulty:
                attempts.append(faulty.attempt)
            if attempts[-1].fault is Fault.REFUSED:
                break  # It would be refused again.
        raise Unusable(Quarantined(item=question.item, attempts=tuple(attempts)))

    async def close(self) -> None:
        await self._client.close()

    async def _reply(self, question: Question[Any], attempt: int) -> Completion:
        fields = self._fields(question, attempt)
        key = hash_of(fields)
        known = self._kept.find(key)
        if isinstance(known, str):
            return Completion(**json.loads(known))
        form = question.prompt.form
        content = {
            **fields,
            **structured_output(self._config.structured_output, name=form.name, schema=form.schema),
        }
        body = json.dumps(content).encode("ascii")
        request = Request(
            path=COMPLETIONS,
            make_body=lambda: body,
            read=read_completion,
            accept=lambda completion: completion,
        )
        answer = await self._client.ask(request)
        if answer.value is None:
            raise self._failure(answer.failure)
        self._kept.store(key, json.dumps(asdict(answer.value)), item=question.item)
        self._count(answer.value)
        return answer.value

    def _fields(self, question: Question[Any], attempt: int) -> dict[str, Any]:
        seed = hash_of("seed", question.seed, attempt)[:_SEED_CHARS]
        return {
            "model": self._config.model,
            "messages": list(question.prompt.messages),
            "temperature": self._config.temperature,
            "top_p": self._config.top_p,
            "max_tokens": self._config.max_tokens,
            "seed": int(seed, 16),
            **self._config.extra,
        }

    def _failure(self, failure: RequestFailure) -> Exception:
        if failure.reason is not NoReply.REFUSED:
            return Unanswered(f"models.{self._name} {failure.reason.value}")
        if failure.is_of_request:
            detail = f"status {failure.status}: {failure.detail}"
            return _Faulty(Fault.REFUSED, detail, "")
        return ConfigError(
            f"models.{self._name}: the server refuses with status {failure.status}: "
            f"{failure.detail}"
        )

    def _count(self, completion: Completion) -> None:
        prompt_tokens = completion.prompt_tokens or 0
        reply_tokens = completion.completion_tokens or 0
        cost = prompt_tokens * self._config.price_per_million_prompt_tokens
        cost += reply_tokens * self._config.price_per_million_reply_tokens
        self._progress.spend(
            prompt_tokens=prompt_tokens, reply_tokens=reply_tokens, cost=cost / 1e6
        )


class _Faulty(Exception):  # noqa: N818 - a value
    def __init__(self, fault: Fault, detail: str, raw: str) -> None:
        super().__init__(detail)
        self.attempt = Attempt(fault=fault, detail=detail, raw=raw)


def _understand(text: str, read: Callable[[Mapping[str, Any]], _Value]) -> _Value:
    content = read_object(text)
    if content is None:
        raise _Faulty(Fault.WRONG_GRAMMAR, "not one JSON object", text)
    try:
        return read(content)
    except (KeyError, TypeError) as error:
        raise _Faulty(Fault.WRONG_GRAMMAR, f"{type(error).__name__}: {error}", text) from None
    except WrongContent as error:
        raise _Faulty(Fault.WRONG_CONTENT, str(error), text) from None


def text_of(content: Mapping[str, Any], name: str) -> str:
    """A text of an object, without white space around it.

    Raises:
        WrongContent: It is empty.
        TypeError, KeyError: It is none, or absent.
    """
    value = content[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    # Halves of surrogate pairs are JSON, but no text that could be written.
    text = value.encode("utf-8", errors="ignore").decode("utf-8").strip()
    if not text:
        raise WrongContent(f"{name} is empty")
    return text


def whole_number(value: object, name: str) -> int:
    """A whole number of an object.

    Raises:
        TypeError: It is none.
    """
    if type(value) is not int:
        raise TypeError(f"{name} is no whole number")
    return value


def only_keys(content: Mapping[str, Any], keys: Sequence[str]) -> None:
    """See that an object holds these and no others.

    Raises:
        TypeError: It does not.
    """
    if content.keys() != set(keys):
        raise TypeError(f"keys {sorted(content)} instead of {sorted(keys)}")
