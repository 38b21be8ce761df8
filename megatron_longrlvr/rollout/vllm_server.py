"""Rollouts from vLLM servers: sampled over HTTP, beside whatever the learner does.

The first rank of each data-parallel replica asks for its replica's samples, on all servers; its
results reach the other ranks when they are waited for. A group's samples go to one server, which
computes their prompt once.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.http.background import BackgroundLoop
from megatron_longrlvr.observability.heartbeat import beat
from megatron_longrlvr.parallel.collectives import gather_objects
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.rollout.engine import OnSample, SamplingParams, WeightPublisher
from megatron_longrlvr.rollout.sampling import sample_key
from megatron_longrlvr.rollout.server_client import RequestRefused, ServerFault, WrittenSample
from megatron_longrlvr.rollout.server_pool import ServerPool, ServersFailed
from megatron_longrlvr.rollout.server_process import ServerProcess
from megatron_longrlvr.stages import (
    PolicyVersion,
    Prompt,
    PromptBatch,
    RolloutBatch,
    Sample,
)

_SEED_RANGE = 2**63  # vLLM's seeds are signed 64-bit numbers
# Between two signs of life while nothing comes.
_BEAT_EVERY_S = 5.0


class VllmServerEngine:
    """Satisfies ``AheadEngine`` and ``WeightPublisher``."""

    def __init__(
        self,
        pool: ServerPool,
        publisher: WeightPublisher,
        background: BackgroundLoop,
        tokenizer: Tokenizer,
        groups: ProcessGroups,
        *,
        stop_ids: frozenset[int],
        processes: Sequence[ServerProcess] = (),
    ) -> None:
        """Use servers that are there.

        Args:
            pool: The servers.
            publisher: Gives them the policy's weights.
            background: Where the pool lives.
            tokenizer: The policy's.
            groups: Of this rank.
            stop_ids: Tokens that end a response.
            processes: Servers that end with the engine.
        """
        self.pool = pool
        self.publisher = publisher
        self.tokenizer = tokenizer
        self.groups = groups
        self.stop_ids = stop_ids
        self.version = PolicyVersion(0)
        self._background = background
        self.processes = processes

    def publish(self, version: PolicyVersion) -> Mapping[str, float]:
        """Hand the policy's weights to all servers; see ``WeightPublisher``.

        Raises:
            RefitMismatch: A server does not hold them afterwards, or none is left.
        """
        metrics = self.publisher.publish(version)
        self.version = version
        return metrics

    def generate(
        self, prompts: PromptBatch, params: SamplingParams, *, on_sample: OnSample | None = None
    ) -> RolloutBatch:
        """Sample every prompt; see ``RolloutEngine``. Every rank of the run calls this.

        Raises:
            RuntimeError: No server wrote a sample, or one refused a prompt.
        """
        return self.begin(prompts, params).finish(on_sample=on_sample)

    def begin(self, prompts: PromptBatch, params: SamplingParams) -> PendingSamples:
        """Send the requests of this rank; see ``AheadEngine``."""
        pending = PendingSamples(self, prompts, oldest=self.version)
        if _is_first_of_replica(self.groups):
            for place, prompt in enumerate(prompts.prompts):
                token_ids = list(prompt.token_ids)  # one for the group: prompts are long
                for index in range(prompts.group_size):
                    seed = _seed(prompts.step, prompt, index, params)
                    request = self._request(token_ids, params, seed=seed)
                    future = self._background.submit(self.pool.write(request, place=place))
                    pending.expect(place, index, future)
        return pending

    def close(self) -> None:
        """Give up what is under way and let go of the servers. Closing twice does nothing."""
        self._background.close(self.pool.close)
        for process in self.processes:
            process.stop()

    def _request(
        self, token_ids: Sequence[int], params: SamplingParams, *, seed: int
    ) -> dict[str, Any]:
        return {
            "token_ids": token_ids,
            "sampling_params": {
                "temperature": params.temperature,
                "top_p": params.top_p,
                "top_k": params.top_k,
                "max_tokens": params.max_response_tokens,
                "seed": seed,
                "stop_token_ids": sorted(self.stop_ids),
                "ignore_eos": True,  # the tokenizer's is among the stop tokens
                "logprobs": 0,  # of the token itself
                "detokenize": False,
            },
        }


class PendingSamples:
    """Satisfies ``PendingRollouts``."""

    def __init__(
        self, engine: VllmServerEngine, prompts: PromptBatch, *, oldest: PolicyVersion
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._oldest = oldest
        self._num_expected = 0
        self._done: queue.SimpleQueue[tuple[int, int, Future[WrittenSample]]] = queue.SimpleQueue()

    def expect(self, place: int, index: int, future: Future[WrittenSample]) -> None:
        """Wait for one more: sample ``index`` of the prompt at ``place``."""
        self._num_expected += 1
        future.add_done_callback(lambda done: self._done.put((place, index, done)))

    def finish(self, *, on_sample: OnSample | None = None) -> RolloutBatch:
        """Wait for all of them; every rank of the run calls this alike.

        Raises:
            RuntimeError: No server wrote a sample, one refused a prompt, or wrote with weights
                that it should not have; on every rank.
        """
        own: dict[tuple[int, int], Sample] = {}
        problem = ""
        try:
            for _ in range(self._num_expected):
                place, index, sample = self._next()
                own[place, index] = sample
                if on_sample is not None:
                    on_sample(sample)
        except RuntimeError as failure:
            problem = str(failure)
        samples = self._share(own, problem)
        return RolloutBatch(
            step=self._prompts.step,
            group_size=self._prompts.group_size,
            samples=[samples[key] for key in sorted(samples)],
        )

    def _share(
        self, own: Mapping[tuple[int, int], Sample], problem: str
    ) -> Mapping[tuple[int, int], Sample]:
        """Hand this replica's samples to all of its ranks, and a failure to all of the run."""
        groups = self._engine.groups
        if groups.layout.world_size > 1:
            is_alone = groups.layout.dp == groups.layout.world_size
            share = (groups.dp_rank, {} if is_alone else own, problem)
            shares = gather_objects(share, groups.world)
            problem = next((text for _, _, text in shares if text), "")
            if not is_alone:
                own = own or next(
                    found for rank, found, _ in shares if rank == groups.dp_rank and found
                )
        if problem:
            raise RuntimeError(problem)
        return own

    def _next(self) -> tuple[int, int, Sample]:
        while True:
            try:
                place, index, future = self._done.get(timeout=_BEAT_EVERY_S)
                break
            except queue.Empty:
                beat()
        prompt = self._prompts.prompts[place]
        name = f"sample {prompt.prompt_id}/{index} of step {self._prompts.step}"
        try:
            written = future.result()
        except RequestRefused as refusal:
            raise RuntimeError(
                f"a rollout server refused {name} with a prompt of {len(prompt.token_ids)} "
                f"tokens: {refusal}"
            ) from None
        except (ServersFailed, ServerFault) as failure:
            raise RuntimeError(f"{name}: {failure}") from None
        except CancelledError:
            raise RuntimeError(f"{name} was given up") from None
        return place, index, self._sample(prompt, index, written, name)

    def _sample(self, prompt: Prompt, index: int, written: WrittenSample, name: str) -> Sample:
        first, *later = written.versions
        newest = self._engine.version
        if not self._oldest <= first <= (later or [first])[-1] <= newest:
            told = ", ".join(str(version) for version in written.versions)
            raise RefitMismatch(
                f"{name} was written under version {told}, expected {self._oldest} to {newest}"
            )
        return Sample(
            prompt=prompt,
            sample_index=index,
            token_ids=written.token_ids,
            text=self._engine.tokenizer.decode(written.token_ids),
            behavior_logprobs=written.logprobs,
            finish_reason=written.reason,
            policy_version=first,
            later_versions=tuple(later),
        )


def _seed(step: int, prompt: Prompt, index: int, params: SamplingParams) -> int:
    key = sample_key(seed=params.seed, step=step, prompt_id=prompt.prompt_id, sample_index=index)
    return key % _SEED_RANGE


def _is_first_of_replica(groups: ProcessGroups) -> bool:
    return (groups.tp_rank, groups.cp_rank, groups.pp_rank) == (0, 0, 0)
