"""A server that speaks OpenAI's embeddings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from megatron_longrlvr.chat.client import EMBEDDINGS, ChatClient, Request, read_keys
from megatron_longrlvr.chat.endpoint import EndpointSettings
from megatron_longrlvr.config.synthesis import EmbeddingServerConfig
from megatron_longrlvr.data.synthesis.embedders.embedder import Vectors, unit_length
from megatron_longrlvr.errors import ServersUnavailable
from megatron_longrlvr.http.background import BackgroundLoop


class ServerEmbedder:
    """Sends the chunks of a document in batches, several at the same time."""

    def __init__(self, config: EmbeddingServerConfig) -> None:
        """Send nothing yet.

        Raises:
            ConfigError: A key's environment variable is not set.
        """
        self._config = config
        keys = read_keys(config.endpoints, section="embed")
        settings = EndpointSettings(retry=config.retry, breaker=config.breaker, max_tokens=0)
        self._background = BackgroundLoop("embed")
        self._client = ChatClient(config.endpoints, settings, keys)

    def embed(self, chunks: Sequence[str]) -> Vectors:
        return self._background.submit(self._embed(chunks)).result()

    def close(self) -> None:
        self._background.close(self._client.close)

    async def _embed(self, chunks: Sequence[str]) -> Vectors:
        size = self._config.batch_size
        batches = [chunks[start : start + size] for start in range(0, len(chunks), size)]
        pieces = await asyncio.gather(*(self._ask(batch) for batch in batches))
        return unit_length(np.concatenate(pieces))

    async def _ask(self, batch: Sequence[str]) -> Any:  # noqa: ANN401 - a numpy array
        content = {"model": self._config.model, "input": list(batch), "encoding_format": "float"}
        request = Request(
            path=EMBEDDINGS,
            make_body=lambda: json.dumps(content).encode("ascii"),
            read=lambda reply: _read_vectors(reply, count=len(batch)),
            accept=lambda vectors: vectors,
        )
        answer = await self._client.ask(request)
        if answer.value is None:
            failure = answer.failure
            raise ServersUnavailable(f"embed: no embeddings: {failure.reason} {failure.detail}")
        return answer.value


def _read_vectors(reply: Any, *, count: int) -> Any:  # noqa: ANN401 - JSON in, a numpy array out
    rows = {entry["index"]: entry["embedding"] for entry in reply["data"]}
    vectors = np.array([rows[index] for index in range(count)], dtype=np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError("not one finite vector for each text")
    return vectors
