"""One vLLM server: the routes that a run uses, and what their answers mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from megatron_longrlvr.config.rollout_server import RolloutServerConfig
from megatron_longrlvr.http.connections import Connections, HttpFailure, HttpTimeouts, Reply
from megatron_longrlvr.stages import FinishReason, PolicyVersion

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
# Of a server's message in one of ours.
_MAX_MESSAGE_CHARS = 400


class ServerFault(Exception):  # noqa: N818 - a value that travels as an exception, never shown
    """A server did not do what it was asked; another one may."""

    def __init__(self, message: str, *, is_answer: bool = False) -> None:
        super().__init__(message)
        self.is_answer = is_answer
        """The server itself said so."""


class RequestRefused(Exception):  # noqa: N818 - likewise
    """A server will not do this, and no other one would."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenSample:
    """What a server wrote for a request."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: FinishReason
    versions: tuple[PolicyVersion, ...]
    """Of the weights that wrote it, in order."""


class ServerClient:
    """Speaks to one server. Belongs to one event loop."""

    def __init__(self, url: str, config: RolloutServerConfig, *, max_concurrent: int) -> None:
        self.url = url
        self._config = config
        # Samples, and beside them health checks and an update.
        self._writing = Connections(url, count=max_concurrent)
        self._control = Connections(url, count=2)
        self._places = asyncio.Semaphore(max_concurrent)

    async def write(self, request: Mapping[str, Any]) -> WrittenSample:
        """Have one sample written.

        Raises:
            RequestRefused: The server finds fault with the request.
            ServerFault: Anything else came but a sample.
        """
        async with self._places:
            # Only now: the texts of all that wait would be many times the prompts.
            body = json.dumps(request).encode()
            reply = await self._request(
                self._writing,
                "POST",
                "/inference/v1/generate",
                body,
                timeout_s=self._config.request_timeout_s,
            )
        return _read_sample(reply)

    async def check_health(self, *, timeout_s: float) -> str:
        """Make sure that the server is well, whatever its engine is busy with; returns its URL."""
        await self._request(self._control, "GET", "/health", timeout_s=timeout_s, is_json=False)
        return self.url

    async def version(self, *, timeout_s: float) -> str:
        """Make sure that the server is well; returns the version of its weights."""
        await self.check_health(timeout_s=timeout_s)
        info = await self._request(self._control, "GET", "/weight_info", timeout_s=timeout_s)
        return str(info.get("weight_version"))

    async def pause(self, *, keeps_running: bool) -> None:
        """Write no further token; what is running is ended first, or kept to go on later."""
        await self._update(f"/pause?mode={'keep' if keeps_running else 'wait'}")

    async def resume(self) -> None:
        await self._update("/resume")

    async def connect_transfer(self, info: Mapping[str, Any]) -> None:
        """Get ready for updates, for broadcasts from whom ``info`` says; may be repeated."""
        await self._update("/init_weight_transfer_engine", {"init_info": info})

    async def start_update(self) -> None:
        await self._update("/start_weight_update")

    async def send_bucket(self, bucket: Mapping[str, Any]) -> None:
        await self._update("/update_weights", {"update_info": bucket})

    async def finish_update(self, version: PolicyVersion) -> None:
        await self._update("/finish_weight_update", {"weight_version": str(version)})

    async def reset_prefix_cache(self, *, with_running: bool) -> bool:
        """Forget what older weights computed, of running samples too where asked.

        Returns:
            Whether the server did.
        """
        wanted = str(with_running).lower()
        result = await self._update(f"/reset_prefix_cache?reset_running_requests={wanted}")
        return result.get("success") is True

    async def call_workers(self, method: str, *args: str) -> Sequence[Mapping[str, Any]]:
        """Call a method of every worker; returns what each of them answered."""
        result = await self._update("/collective_rpc", {"method": method, "args": list(args)})
        results: Sequence[Mapping[str, Any]] = result["results"]
        return results

    async def close(self) -> None:
        await self._writing.close()
        await self._control.close()

    async def _update(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return await self._request(
            self._control,
            "POST",
            path,
            b"" if body is None else json.dumps(body).encode(),
            timeout_s=self._config.update_timeout_s,
        )

    async def _request(
        self,
        connections: Connections,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        timeout_s: float,
        is_json: bool = True,
    ) -> dict[str, Any]:
        timeouts = HttpTimeouts(
            connect_s=min(timeout_s, self._config.health_timeout_s), read_s=timeout_s
        )
        route = path.partition("?")[0]
        try:
            reply = await connections.request(method, path, body, timeouts)
        except HttpFailure as failure:
            raise ServerFault(f"{self.url}{route}: {failure.trouble}") from None
        if reply.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}:
            raise RequestRefused(_message(reply))
        if reply.status != HTTPStatus.OK:
            raise ServerFault(
                f"{self.url}{route}: status {reply.status}, {_message(reply)}", is_answer=True
            )
        return _read_json(reply, f"{self.url}{route}") if is_json else {}


def _read_json(reply: Reply, where: str) -> dict[str, Any]:
    try:
        content = json.loads(reply.content)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ServerFault(f"{where}: the reply is no JSON object")
    return content


def _message(reply: Reply) -> str:
    """What a server says about a failure."""
    text = reply.content.decode("utf-8", errors="replace")
    try:
        error = json.loads(text)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:_MAX_MESSAGE_CHARS] or "without a message"


def _read_sample(content: Mapping[str, Any]) -> WrittenSample:
    try:
        (choice,) = content["choices"]
        reason = _REASONS.get(choice["finish_reason"])
        if reason is None:
            raise ServerFault(f"a sample ended with finish_reason {choice['finish_reason']!r}")
        sample = WrittenSample(
            token_ids=tuple(int(token) for token in choice["token_ids"]),
            logprobs=tuple(float(entry["logprob"]) for entry in choice["logprobs"]["content"]),
            reason=reason,
            versions=tuple(
                PolicyVersion(int(span["version"])) for span in choice["weight_versions"]
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerFault(f"a reply is no sample: {error!r}") from None
    if len(sample.logprobs) != len(sample.token_ids) or not sample.versions:
        raise ServerFault("a reply lacks log-probabilities or versions of its tokens")
    return sample
