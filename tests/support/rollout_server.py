"""A real HTTP server that speaks vLLM's routes of sampling and updating, and fails as it is told.

What it writes depends on the request's seed alone, as with vLLM, so any server writes the same. Its
weights are real tensors, read from the files or broadcasts it is sent; only no model computes with
them.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.refit.bucket_reader import BucketReader, GroupInfo, ServerBucket
from megatron_longrlvr.refit.marks import mark, marked_columns
from tests.support.http_server import HttpReply, HttpServer

LOGPROB = -1.25
VOCAB_SIZE = 30
LONGEST_PROMPT = 50


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A request for a sample."""

    index: int
    """From 0, in the order of arrival at this server."""

    server: RolloutServer
    payload: dict[str, Any]

    @property
    def seed(self) -> int:
        return int(self.payload["sampling_params"]["seed"])


Fault = Callable[[Arrival], HttpReply | None]
"""What is answered instead of a sample; None for the sample."""


def tokens_of(seed: int, *, count: int, stop_ids: list[int]) -> list[int]:
    """What every server writes for a seed: up to the first stop token."""
    draw, token_ids = random.Random(seed), []
    while len(token_ids) < count:
        token_ids.append(draw.randrange(VOCAB_SIZE))
        if token_ids[-1] in stop_ids:
            break
    return token_ids


class RolloutServer(HttpServer):
    """Serves at ``address`` while it is entered."""

    def __init__(
        self, fault: Fault | None = None, *, version: str = "0", weights: Path | None = None
    ) -> None:
        super().__init__()
        self.fault = fault
        self.seeds: list[int] = []
        """Of all requests for a sample that came."""

        self.answered: list[int] = []
        """Of those that got it."""

        self.routes: list[str] = []
        """Of everything else but health checks, in order, without the query."""

        self.weights: dict[str, Tensor] = {} if weights is None else load_file(weights)
        self.reader = BucketReader(torch.device("cpu"))
        self.joins_broadcasts = True
        self.on_bucket: Callable[[ServerBucket], HttpReply | None] | None = None
        """What is answered instead of reading a bucket; None for reading it."""

        self.version = version
        self.is_well = True
        self.resets_cache = True
        self.spoils: Callable[[dict[str, Tensor]], None] | None = None
        """Done to the weights when an update ends."""

        self.holds_first = 0
        """Samples that are begun and not written before the second update."""

        self._has_begun = asyncio.Event()
        self._was_updated = asyncio.Event()
        self._runs = asyncio.Event()
        self._runs.set()

    async def answer(self, route: str, headers: dict[str, str], payload: Any) -> HttpReply:  # noqa: ARG002
        path = route.split()[1].partition("?")[0]
        if path == "/health":
            return HttpReply() if self.is_well else HttpReply(hangs=True)
        if path == "/weight_info":
            return _json({"weight_version": self.version})
        if path == "/inference/v1/generate":
            return await self._write(payload)
        self.routes.append(path)
        if path == "/pause" and self.version == "0" and self.holds_first:
            await self._has_begun.wait()
        if path == "/init_weight_transfer_engine":
            if self.joins_broadcasts:
                info = GroupInfo(**payload["init_info"])
                await asyncio.to_thread(self.reader.join, info, worker=0)
            return _json({"message": "done"})
        if path == "/update_weights":
            bucket = ServerBucket(**payload["update_info"])
            if self.on_bucket is not None and (instead := self.on_bucket(bucket)) is not None:
                return instead
            try:
                self.weights.update(await asyncio.to_thread(self.reader.read, bucket))
            except RefitMismatch as mismatch:
                return _json({"error": {"message": str(mismatch), "code": 500}}, status=500)
            return _json({"message": "done"})
        return self._control(path, payload)

    async def _write(self, payload: dict[str, Any]) -> HttpReply:
        arrival = Arrival(index=len(self.seeds), server=self, payload=payload)
        self.seeds.append(arrival.seed)
        if self.fault is not None and (instead := self.fault(arrival)) is not None:
            return instead
        if len(payload["token_ids"]) > LONGEST_PROMPT:
            message = f"The prompt is longer than the maximum model length of {LONGEST_PROMPT}."
            return _json({"error": {"message": message, "code": 400}}, status=400)
        begun = self.version
        if len(self.seeds) == self.holds_first:
            self._has_begun.set()
        if arrival.index < self.holds_first:  # here a paused server keeps what it has begun
            await self._was_updated.wait()
        await self._runs.wait()
        self.answered.append(arrival.seed)
        return _json(self._sample(arrival, begun))

    def _sample(self, arrival: Arrival, begun: str) -> dict[str, Any]:
        params = arrival.payload["sampling_params"]
        count, stop_ids = params["max_tokens"], params["stop_token_ids"]
        token_ids = tokens_of(arrival.seed, count=count, stop_ids=stop_ids)
        versions = [begun] if begun == self.version else [begun, self.version]
        return {
            "choices": [
                {
                    "finish_reason": "stop" if token_ids[-1] in stop_ids else "length",
                    "token_ids": token_ids,
                    "logprobs": {
                        "content": [{"token_id": one, "logprob": LOGPROB} for one in token_ids]
                    },
                    "weight_versions": [{"version": version} for version in versions],
                }
            ]
        }

    def _control(self, path: str, payload: Any) -> HttpReply:
        if path == "/pause":
            self._runs.clear()
        elif path == "/resume":
            self._runs.set()
        elif path == "/start_weight_update":
            self.reader.begin()
        elif path == "/finish_weight_update":
            if self.spoils is not None:
                self.spoils(self.weights)
            if self.version == "0":
                self._was_updated.set()
            self.version = payload["weight_version"]
        elif path == "/reset_prefix_cache":
            return _json({"success": self.resets_cache})
        elif path == "/collective_rpc":
            return _json({"results": [getattr(self, f"_{payload['method']}")(*payload["args"])]})
        else:
            return HttpReply(status=404)
        return _json({"message": "done"})

    def _longrlvr_forget_update(self) -> dict[str, bool]:
        return {"was_active": False}

    def _longrlvr_read_buckets(self) -> dict[str, int]:
        return {"buckets": self.reader.num_read}

    def _longrlvr_held_parts(self) -> dict[str, Any]:
        return {
            name: {
                "rows": [0, len(tensor)],
                "columns": None if tensor.dim() == 1 else [0, tensor.shape[1]],
                "dtype": "float32",
            }
            for name, tensor in self.weights.items()
        }

    def _longrlvr_read_marks(self, version: str, num_columns: str) -> dict[str, str]:
        marks = {}
        for name, told in self._longrlvr_held_parts().items():
            columns = None if told["columns"] is None else slice(*told["columns"])
            part = SimpleNamespace(
                hf_name=name,
                rows=slice(*told["rows"]),
                columns=columns,
                dtype=self.weights[name].dtype,
            )
            chosen = marked_columns(part, count=int(num_columns), version=int(version))
            marks[name] = str(mark(self.weights[name], part, chosen))
        return marks


def _json(content: Any, *, status: int = 200) -> HttpReply:
    return HttpReply(status=status, body=json.dumps(content).encode())
