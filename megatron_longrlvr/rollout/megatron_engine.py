"""Rollouts from the learner's own megatron-core model, with a key/value cache.

Needs nothing but the learner, and its log-probabilities are those of the very weights being
trained. Prompts wait in a queue; a cache slot takes the next one as soon as all samples of
its prompt have ended, so short responses do not wait for long ones elsewhere. The ranks of a
data-parallel replica decode together; context-parallel ranks decode the same tokens side by
side, since their group only helps where sequences are long and queries many.

Expert-parallel ranks exchange tokens in every pass, so all of them run each pass together, every
one on its own prompts; those that have none left run a token whose result nobody reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.model.decoding import (
    CacheShape,
    DecodeAttention,
    KeyValueCache,
    PrefillAttention,
    run_pipeline,
)
from megatron_longrlvr.model.logprobs import shard_logits
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.model.rope import inverse_frequencies, rotation
from megatron_longrlvr.model.routing import TokenRouting
from megatron_longrlvr.model.sequence_plan import plan_sequences
from megatron_longrlvr.observability.heartbeat import beat
from megatron_longrlvr.parallel.collectives import all_ranks_agree
from megatron_longrlvr.parallel.device import device
from megatron_longrlvr.rollout.engine import OnSample, SamplingParams
from megatron_longrlvr.rollout.expert_choices import Choices, ChoicesSoFar
from megatron_longrlvr.rollout.expert_recording import recorded_choices
from megatron_longrlvr.rollout.sampling import check_lengths, choose_tokens, sample_uniforms
from megatron_longrlvr.stages import (
    FinishReason,
    PolicyVersion,
    Prompt,
    PromptBatch,
    RolloutBatch,
    Sample,
    Segment,
)

# Prompt tokens per prefill pass; prompts are packed up to it, a longer one goes alone.
_PREFILL_TOKENS = 16_384


@dataclass(kw_only=True)
class _Running:
    """A sample being written."""

    prompt: Prompt
    sample_index: int
    uniforms: Tensor
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    experts: ChoicesSoFar | None = None
    """None where they are not asked for."""

    def add_experts(self, chosen: Choices) -> None:
        """Note the experts of the newest token, which was run just now."""
        assert self.experts is not None, "asked for from the prompt on"
        self.experts.response.append(chosen)


@dataclass(kw_only=True)
class _Decoding:
    """State of one call of ``generate``."""

    params: SamplingParams
    step: int
    cache: KeyValueCache
    waiting: deque[Prompt]
    slots: list[Prompt | None]
    running: dict[int, _Running] = field(default_factory=dict)
    """By place among slots * group."""

    done: list[Sample] = field(default_factory=list)
    on_sample: OnSample | None = None


class MegatronEngine:
    """Decodes with the policy's own chunks; publishing weights is only a new version number."""

    def __init__(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        *,
        max_concurrent_samples: int,
        stop_ids: frozenset[int],
    ) -> None:
        self.policy = policy
        self.tokenizer = tokenizer
        self.max_concurrent_samples = max_concurrent_samples
        self.stop_ids = stop_ids
        self.version = PolicyVersion(0)
        inverse, self._rope_scaling = inverse_frequencies(policy.spec.rope, policy.spec.head_dim)
        self._inverse_frequencies = inverse.to(device())

    def publish(self, version: PolicyVersion) -> Mapping[str, float]:
        """Take note of the version; learner and engine share their weights."""
        self.version = version
        return {}

    def close(self) -> None:
        """Nothing to let go of."""

    def generate(
        self, prompts: PromptBatch, params: SamplingParams, *, on_sample: OnSample | None = None
    ) -> RolloutBatch:
        """Sample every prompt; see ``RolloutEngine``.

        Collective over expert-parallel ranks, also for those without prompts.

        Raises:
            RuntimeError: A prompt is too long for the model.
        """
        check_lengths(prompts, params, context_tokens=self.policy.spec.max_position_embeddings)
        with self._inference():
            samples = self._decode_all(prompts, params, on_sample)
        return RolloutBatch(step=prompts.step, group_size=prompts.group_size, samples=samples)

    def _decode_all(
        self, prompts: PromptBatch, params: SamplingParams, on_sample: OnSample | None
    ) -> list[Sample]:
        num_slots = max(self.max_concurrent_samples // prompts.group_size, 1)
        num_slots = min(num_slots, len(prompts.prompts))
        state = _Decoding(
            params=params,
            step=prompts.step,
            cache=KeyValueCache(
                shape=CacheShape(
                    num_slots=num_slots,
                    group_size=prompts.group_size,
                    prompt_places=max(
                        (len(prompt.token_ids) for prompt in prompts.prompts), default=0
                    ),
                    response_places=params.max_response_tokens,
                )
            ),
            waiting=deque(prompts.prompts),
            slots=[None] * num_slots,
            on_sample=on_sample,
        )
        while self._is_pass_due(state):
            beat()
            if slots := self._admit(state):
                self._prefill(state, slots)
            elif state.running:
                self._decode_step(state)
            else:
                self._keep_experts_company(state)
        order = {id(prompt): index for index, prompt in enumerate(prompts.prompts)}
        state.done.sort(key=lambda sample: (order[id(sample.prompt)], sample.sample_index))
        return state.done

    def _is_pass_due(self, state: _Decoding) -> bool:
        """Whether this rank has work left, or one that it shares experts with."""
        has_work = bool(state.waiting or state.running)
        groups = self.policy.groups
        if groups.layout.ep == 1:
            return has_work
        # All ranks of the group are between two passes, or about to return.
        return not all_ranks_agree(not has_work, groups.ep)

    def _admit(self, state: _Decoding) -> list[int]:
        """Give waiting prompts, one pass of them, the slots whose samples have all ended."""
        free = [slot for slot, prompt in enumerate(state.slots) if prompt is None]
        slots: list[int] = []
        num_tokens = 0
        while free and state.waiting:
            num_tokens += len(state.waiting[0].token_ids)
            if slots and num_tokens > _PREFILL_TOKENS:
                break
            slots.append(free.pop(0))
            state.slots[slots[-1]] = state.waiting.popleft()
        return slots

    def _prefill(self, state: _Decoding, slots: Sequence[int]) -> None:
        prompts = [prompt for slot in slots if (prompt := state.slots[slot]) is not None]
        lengths = [len(prompt.token_ids) for prompt in prompts]
        routing = _routing(state)
        attention = self._packed_attention(state.cache, lengths, slots=slots, routing=routing)
        token_ids = self._padded([token for prompt in prompts for token in prompt.token_ids])
        selected = torch.tensor(lengths, device=device()).cumsum(0) - 1
        logits = self._logits(token_ids, attention, selected)
        group_size = state.cache.shape.group_size
        for slot, prompt in zip(slots, prompts, strict=True):
            for index in range(group_size):
                state.running[slot * group_size + index] = self._start(state, prompt, index)
        if routing is not None:
            choices = recorded_choices(
                self.policy, routing, num_tokens=len(token_ids), lengths=lengths
            )
            for slot, chosen in zip(slots, choices, strict=True):
                for place in range(slot * group_size, (slot + 1) * group_size):
                    state.running[place].experts = ChoicesSoFar(prompt=chosen)
        places = [slot * group_size + index for slot in slots for index in range(group_size)]
        if logits is not None:
            logits = logits.repeat_interleave(group_size, dim=0)
        self._append(state, places, logits)

    def _keep_experts_company(self, state: _Decoding) -> None:
        """Run one token, so that the experts here can serve the other ranks' tokens."""
        attention = self._packed_attention(state.cache, [1], slots=(), routing=None)
        nothing = torch.zeros(1, dtype=torch.int64, device=device())
        run_pipeline(self.policy, self._padded([0]), attention, nothing)

    def _packed_attention(
        self,
        cache: KeyValueCache,
        lengths: Sequence[int],
        *,
        slots: Sequence[int],
        routing: TokenRouting | None,
    ) -> PrefillAttention:
        """Causal attention of packed sequences; the first ones go to these slots of the cache."""
        plan = plan_sequences(
            [Segment(num_tokens=length) for length in lengths],
            cp=1,
            cp_rank=0,
            multiple=self._token_multiple(),
            device=device(),
        )
        cos, sin = rotation(plan.positions, self._inverse_frequencies, self._rope_scaling)
        return PrefillAttention(
            cache=cache,
            plan=plan,
            cos=cos,
            sin=sin,
            slots=tuple(slots),
            lengths=tuple(lengths[: len(slots)]),
            routing=routing,
        )

    def _decode_step(self, state: _Decoding) -> None:
        shape = state.cache.shape
        places = sorted(state.running)
        newest = [len(state.running[place].token_ids) - 1 for place in places]
        rows = torch.tensor(places, device=device())
        written = torch.tensor(newest, device=device())
        prompt_lengths = torch.tensor(
            [0 if prompt is None else len(prompt.token_ids) for prompt in state.slots],
            device=device(),
        )
        response_lengths = torch.zeros(
            shape.num_slots * shape.group_size, dtype=torch.int64, device=device()
        )
        response_lengths[rows] = written + 1
        token_ids = self._padded([state.running[place].token_ids[-1] for place in places])
        positions = torch.zeros(len(token_ids), dtype=torch.int64, device=device())
        positions[: len(rows)] = prompt_lengths[rows // shape.group_size] + written
        cos, sin = rotation(positions, self._inverse_frequencies, self._rope_scaling)
        attention = DecodeAttention(
            cache=state.cache,
            rows=rows,
            places=written,
            prompt_lengths=prompt_lengths,
            response_lengths=response_lengths,
            cos=cos,
            sin=sin,
            routing=_routing(state),
        )
        selected = torch.arange(len(rows), device=device())
        logits = self._logits(token_ids, attention, selected)
        if attention.routing is not None:
            choices = recorded_choices(
                self.policy,
                attention.routing,
                num_tokens=len(token_ids),
                lengths=[1] * len(places),
            )
            for place, (chosen,) in zip(places, choices, strict=True):
                state.running[place].add_experts(chosen)
        self._append(state, places, logits)

    def _append(self, state: _Decoding, places: Sequence[int], logits: Tensor | None) -> None:
        """Draw the next token of the samples at these places; end those that are through."""
        samples = [state.running[place] for place in places]
        drawn = torch.zeros(2, len(places), dtype=torch.float64, device=device())
        if logits is not None:
            uniforms = torch.stack([sample.uniforms[len(sample.token_ids)] for sample in samples])
            tokens, logprobs = choose_tokens(logits, uniforms, state.params)
            # float64 carries token ids and float32 log-probabilities exactly in one message.
            drawn = torch.stack([tokens.double(), logprobs.double()])
        drawn = self.policy.share_from_last_stage(drawn.contiguous())
        for place, sample, token, logprob in zip(places, samples, *drawn.tolist(), strict=True):
            sample.token_ids.append(int(token))
            sample.logprobs.append(logprob)
            if int(token) in self.stop_ids:
                self._end(state, place, FinishReason.STOP)
            elif len(sample.token_ids) == state.params.max_response_tokens:
                self._end(state, place, FinishReason.LENGTH)

    def _end(self, state: _Decoding, place: int, reason: FinishReason) -> None:
        sample = self._finish(state.running.pop(place), reason)
        state.done.append(sample)
        if state.on_sample is not None:
            state.on_sample(sample)
        group_size = state.cache.shape.group_size
        slot = place // group_size
        siblings = range(slot * group_size, (slot + 1) * group_size)
        if not any(sibling in state.running for sibling in siblings):
            state.slots[slot] = None

    def _start(self, state: _Decoding, prompt: Prompt, index: int) -> _Running:
        uniforms = sample_uniforms(
            seed=state.params.seed,
            step=state.step,
            prompt_id=prompt.prompt_id,
            sample_index=index,
            count=state.params.max_response_tokens,
        )
        return _Running(prompt=prompt, sample_index=index, uniforms=torch.from_numpy(uniforms))

    def _finish(self, running: _Running, reason: FinishReason) -> Sample:
        return Sample(
            prompt=running.prompt,
            sample_index=running.sample_index,
            token_ids=tuple(running.token_ids),
            text=self.tokenizer.decode(running.token_ids),
            behavior_logprobs=tuple(running.logprobs),
            finish_reason=reason,
            policy_version=self.version,
            experts=None if running.experts is None else running.experts.finish(),
        )

    def _logits(
        self,
        token_ids: Tensor,
        attention: PrefillAttention | DecodeAttention,
        selected: Tensor,
    ) -> Tensor | None:
        """[B, V] float32 logits on the last pipeline stage, None elsewhere."""
        hidden = run_pipeline(self.policy, token_ids, attention, selected)
        if hidden is None:
            return None
        weight, shard = self.policy.chunks[-1].output_shard(self.policy.spec.vocab_size)
        logits, group = shard_logits(hidden, weight, shard), shard.group
        if group.size() > 1:
            # All tensor-parallel ranks decode the same samples, so all of them reach this.
            parts = [torch.empty_like(logits) for _ in range(group.size())]
            dist.all_gather(parts, logits, group=group)
            logits = torch.cat(parts, dim=1)
        return logits[:, : self.policy.spec.vocab_size]

    def _padded(self, token_ids: Sequence[int]) -> Tensor:
        missing = -len(token_ids) % self._token_multiple()
        return torch.tensor([*token_ids, *[0] * missing], device=device())

    def _token_multiple(self) -> int:
        layout = self.policy.groups.layout
        return layout.tp if layout.sequence_parallel else 1

    @contextmanager
    def _inference(self) -> Iterator[None]:
        for chunk in self.policy.chunks:
            chunk.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for chunk in self.policy.chunks:
                chunk.train()


def _routing(state: _Decoding) -> TokenRouting | None:
    return TokenRouting(recorded={}) if state.params.returns_experts else None
