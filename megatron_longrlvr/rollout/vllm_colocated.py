"""Rollouts from vLLM inside the training processes.

Every rank holds an engine, or a part of one where ``rollout.vllm.tensor_parallel`` is above 1,
whatever the layout of the trainer. Where the engines are not simply one per data-parallel rank,
all ranks put their prompts together and the engines share them out; each sample's random numbers
are its own, so who writes it does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.observability.heartbeat import beat
from megatron_longrlvr.parallel.collectives import gather_objects
from megatron_longrlvr.parallel.device import has_cuda
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.refit.publisher import ProcessPublisher
from megatron_longrlvr.rollout.engine import OnSample, SamplingParams
from megatron_longrlvr.rollout.engine_memory import KV_CACHE, WEIGHTS, EngineMemory
from megatron_longrlvr.rollout.expert_choices import Choices, choices_of_group
from megatron_longrlvr.rollout.sampling import check_lengths, sample_key
from megatron_longrlvr.stages import (
    FinishReason,
    PolicyVersion,
    PromptBatch,
    RolloutBatch,
    Sample,
)

_SEED_RANGE = 2**63  # vLLM's seeds are signed 64-bit numbers
_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """One sample to be written, as it travels between ranks."""

    dp_rank: int
    """Whose prompt it is."""

    prompt_place: int
    """Among that rank's prompts."""

    sample_index: int
    token_ids: Sequence[int]
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """What the engine wrote for a request."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: FinishReason
    experts: Choices | None
    """[tokens, M, K] for all tokens that were run of the first sample of a group, and for those of
    the response of the others; None where they are not asked for."""


class VllmColocatedEngine:
    """Satisfies ``RolloutEngine`` and ``WeightPublisher``."""

    def __init__(
        self,
        llm: Any,  # noqa: ANN401 - untyped vllm
        publisher: ProcessPublisher,
        tokenizer: Tokenizer,
        groups: ProcessGroups,
        *,
        stop_ids: frozenset[int],
        tensor_parallel: int,
        sleep_level: int,
    ) -> None:
        self.llm = llm
        self.publisher = publisher
        self.tokenizer = tokenizer
        self.groups = groups
        self.stop_ids = stop_ids
        self.tensor_parallel = tensor_parallel
        self.memory = EngineMemory(llm, level=sleep_level if has_cuda() else 0)
        self.version = PolicyVersion(0)
        self.memory.sleep()

    def publish(self, version: PolicyVersion) -> Mapping[str, float]:
        """Hand over the policy's weights; see ``WeightPublisher``.

        Raises:
            RefitMismatch: The engine does not hold them afterwards.
        """
        self.memory.wake(WEIGHTS)
        metrics = self.publisher.publish(version)
        self.memory.has_weights = True
        self.version = version
        return metrics

    def generate(
        self, prompts: PromptBatch, params: SamplingParams, *, on_sample: OnSample | None = None
    ) -> RolloutBatch:
        """Sample every prompt; see ``RolloutEngine``. Every rank of the run calls this.

        ``on_sample`` is called when vLLM has returned all of them.

        Raises:
            RefitMismatch: The engine samples from another version than was published last.
            RuntimeError: A prompt is too long for the engine.
        """
        check_lengths(prompts, params, context_tokens=self._context_tokens)
        self._check_version()
        self._wake_all()
        requests = self._requests(prompts, params)
        if self._is_one_engine_per_share:
            written = self._write(requests, params)
        else:
            written = self._write_together(requests, params)
        self.memory.sleep()
        samples = self._samples(prompts, written)
        if on_sample is not None:
            for sample in samples:
                on_sample(sample)
        return RolloutBatch(step=prompts.step, group_size=prompts.group_size, samples=samples)

    def close(self) -> None:
        """Nothing to let go of: the engine ends with the process."""

    def differing_tensors(self) -> Sequence[str]:
        """Tensors that differ from the policy's present ones; every rank calls this."""
        assert self.can_testify, "weights that were dropped in sleep say nothing"
        self.memory.wake(WEIGHTS)
        return self.publisher.differing_tensors(self.version)

    def score_afresh(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token but the first, at temperature 1, from an empty cache.

        The last token is left out where the sequence is as long as the engine takes.
        """
        from vllm import SamplingParams as VllmParams

        self._wake_all()
        self.llm.reset_prefix_cache()
        longest = self._context_tokens - 1
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(sequence[:longest])} for sequence in sequences],
            VllmParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False),
            use_tqdm=False,
        )
        self.memory.sleep()
        return [
            [
                entry[token].logprob
                for entry, token in zip(
                    output.prompt_logprobs[1:], output.prompt_token_ids[1:], strict=True
                )
            ]
            for output in outputs
        ]

    @property
    def can_testify(self) -> bool:
        """Whether the engine still has the weights that it sampled from; see ``Witness``."""
        return self.memory.keeps_weights

    @property
    def _context_tokens(self) -> int:
        return int(self.llm.llm_engine.model_config.max_model_len)

    @property
    def _is_one_engine_per_share(self) -> bool:
        layout = self.groups.layout
        return self.tensor_parallel == 1 and layout.dp == layout.world_size

    def _requests(self, prompts: PromptBatch, params: SamplingParams) -> list[_Request]:
        return [
            _Request(
                dp_rank=self.groups.dp_rank,
                prompt_place=place,
                sample_index=index,
                token_ids=list(prompt.token_ids),
                seed=sample_key(
                    seed=params.seed,
                    step=prompts.step,
                    prompt_id=prompt.prompt_id,
                    sample_index=index,
                )
                % _SEED_RANGE,
            )
            for place, prompt in enumerate(prompts.prompts)
            for index in range(prompts.group_size)
        ]

    def _write_together(
        self, requests: Sequence[_Request], params: SamplingParams
    ) -> list[_Written]:
        """Let the engines of all ranks share out the requests of all ranks."""
        groups, layout = self.groups, self.groups.layout
        is_first_of_replica = (groups.tp_rank, groups.cp_rank, groups.pp_rank) == (0, 0, 0)
        shares = gather_objects(requests if is_first_of_replica else [], groups.world)
        everything = [request for share in shares for request in share]
        engine, place = divmod(groups.rank, self.tensor_parallel)
        num_engines = layout.world_size // self.tensor_parallel
        # Whole prompts: a group's samples share what was computed for theirs.
        own = [
            request
            for request in everything
            if (request.prompt_place * layout.dp + request.dp_rank) % num_engines == engine
        ]
        results = list(zip(map(_identity, own), self._write(own, params), strict=True))
        # All ranks of an engine write the same; the first one tells.
        told = gather_objects(results if place == 0 else [], groups.world)
        by_identity = dict(item for share in told for item in share)
        return [by_identity[_identity(request)] for request in requests]

    def _write(self, requests: Sequence[_Request], params: SamplingParams) -> list[_Written]:
        if not requests:
            return []
        from vllm import SamplingParams as VllmParams

        outputs = self.llm.generate(
            [{"prompt_token_ids": list(request.token_ids)} for request in requests],
            [
                VllmParams(
                    temperature=params.temperature,
                    top_p=params.top_p,
                    top_k=params.top_k,
                    max_tokens=params.max_response_tokens,
                    seed=request.seed,
                    stop_token_ids=sorted(self.stop_ids),
                    ignore_eos=True,  # the tokenizer's is among the stop tokens
                    logprobs=0,  # of the token itself
                    detokenize=False,
                    # A group needs its prompt's experts once.
                    routed_experts_prompt_start=(
                        0 if request.sample_index == 0 else len(request.token_ids)
                    ),
                )
                for request in requests
            ],
            use_tqdm=False,
        )
        beat()
        return [self._read(output, has_experts=params.returns_experts) for output in outputs]

    def _read(self, output: Any, *, has_experts: bool) -> _Written:  # noqa: ANN401
        (completion,) = output.outputs
        versions = [span.version for span in completion.weight_versions or ()]
        if versions != [str(self.version)]:
            raise RefitMismatch(
                f"a sample was written under version {', '.join(versions) or 'unknown'}, "
                f"expected {self.version}"
            )
        token_ids = tuple(completion.token_ids)
        return _Written(
            token_ids=token_ids,
            logprobs=tuple(
                entry[token].logprob
                for entry, token in zip(completion.logprobs, token_ids, strict=True)
            ),
            reason=_REASONS.get(completion.finish_reason, FinishReason.ABORTED),
            experts=completion.routed_experts if has_experts else None,
        )

    def _samples(self, prompts: PromptBatch, written: Sequence[_Written]) -> list[Sample]:
        size = prompts.group_size
        samples = []
        for place, prompt in enumerate(prompts.prompts):
            group = written[place * size : (place + 1) * size]
            choices = choices_of_group(
                [one.experts for one in group], num_prompt_tokens=len(prompt.token_ids)
            )
            samples += [
                Sample(
                    prompt=prompt,
                    sample_index=index,
                    token_ids=one.token_ids,
                    text=self.tokenizer.decode(one.token_ids),
                    behavior_logprobs=one.logprobs,
                    finish_reason=one.reason,
                    policy_version=self.version,
                    experts=experts,
                )
                for index, (one, experts) in enumerate(zip(group, choices, strict=True))
            ]
        return samples

    def _check_version(self) -> None:
        held = self.llm.get_weight_version()
        if held != str(self.version):
            raise RefitMismatch(
                f"the engine holds weights of version {held}, expected {self.version}; "
                "publish() did not take place or did not end"
            )

    def _wake_all(self) -> None:
        """Be ready to sample; every rank calls this alike."""
        self.memory.wake(WEIGHTS)
        if not self.memory.has_weights:
            # Sampled from twice since the last update, by an evaluation for instance.
            self.publish(self.version)
        self.memory.wake(KV_CACHE)


def _identity(request: _Request) -> tuple[int, int, int]:
    return request.dp_rank, request.prompt_place, request.sample_index
