"""A policy's pass on tensors that say they lie on a GPU, where there is none.

    python -m tests.support.fake_gpu llama

torch's fake tensors have a device, a type and a shape, and no numbers; its CUDA build knows what
each operation would give on a GPU, and refuses operands of two devices. megatron-core is imported
as if CUDA were present, so nothing is patched for the CPU. Autograd needs a driver: what has a
backward of its own here is called without it.

Needs torch's CUDA build, and a process of its own. Prints what lies where.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

_GPU = torch.device("cuda", 0)


class Context:
    """Autograd's, as far as our functions use it."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors

    def set_materialize_grads(self, _value: bool) -> None:
        return


class _Stream:
    """Of the kinds that megatron-core makes while it is imported."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        return

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_kwargs: None


def on_gpu(value: Any) -> Any:
    """The same record with fake tensors; call it under the fake mode."""
    if isinstance(value, Tensor):
        return torch.empty_like(value, device=_GPU)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: on_gpu(getattr(value, each.name)) for each in fields(value)}
        return replace(value, **parts)
    if isinstance(value, list | tuple) and value and not isinstance(value[0], int):
        return type(value)(on_gpu(each) for each in value)
    return value


def pretend() -> None:
    """Have this process import megatron-core as on a machine with one Hopper GPU."""
    cuda = torch.cuda
    cuda.is_available = lambda: True
    cuda.current_device = lambda: 0
    cuda.device_count = lambda: 1
    cuda.get_device_capability = lambda *_: (9, 0)
    for name in ("set_device", "synchronize"):
        setattr(cuda, name, lambda *_: None)
    cuda.Stream = cuda.Event = _Stream
    cuda.current_stream = lambda *_: _Stream()
    cuda.stream = lambda *_: contextlib.nullcontext()
    from megatron_longrlvr.model import mcore  # noqa: F401, I001 - comes first
    from megatron.core.tensor_parallel import random

    from megatron_longrlvr.parallel import device, groups

    # Random states lie on the GPU, and weights are not drawn here.
    groups._seed_generators = lambda *_args, **_kwargs: None
    random.CudaRNGStatesTracker.fork = lambda *_args, **_kwargs: contextlib.nullcontext()
    cuda.is_available = lambda: False  # or the fake mode would start the driver
    device._planned.append(_GPU)


def devices_of_a_pass(family: str) -> set[torch.device]:
    """Where weights, hidden states, log-probabilities and gradients of the head lie."""
    from megatron_longrlvr.config.policy import ModelConfig
    from megatron_longrlvr.model.build import build_chunks
    from megatron_longrlvr.model.local_batch import localize
    from megatron_longrlvr.model.logprobs import _TokenLogprobs
    from megatron_longrlvr.parallel.groups import start_planned_groups
    from megatron_longrlvr.parallel.layout import ParallelLayout
    from megatron_longrlvr.planner.workload import Lengths
    from tests.support.gpu_checks import one_group
    from tests.support.saved_bytes import tiny_spec

    groups = start_planned_groups(ParallelLayout(world_size=1), rank=0)
    spec = tiny_spec(family)
    packed = one_group(spec, Lengths(prompt=64, response=16), 2)
    place = {"cp_rank": 0, "cp_group": groups.cp, "multiple": 1, "device": torch.device("cpu")}
    real = localize(packed.micro_batches[0], spec=spec, layout=groups.layout, **place)
    shapes = ShapeEnv(allow_dynamic_output_shape_ops=True, allow_scalar_outputs=True)
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes), torch.no_grad():
        torch.nn.Module.to = lambda module, *_args, **_kwargs: module
        with _GPU:
            (chunk,) = build_chunks(spec, groups, ModelConfig(path="-", dtype="bf16"))
        batch = on_gpu(real)
        hidden = chunk(batch.token_ids, batch.attention, batch.selected)
        context = Context()
        weight, shard = chunk.output_shard(spec.vocab_size)
        found = _TokenLogprobs.forward(context, hidden, weight, batch.target_ids, shard, 0.7, 32)
        gradients = _TokenLogprobs.backward(context, *found)[:2]
        return {each.device for each in (*chunk.parameters(), hidden, *found, *gradients)}


def devices_of_attention() -> set[torch.device]:
    """Where results and gradients of attention by blocks lie, with padded queries and without."""
    from megatron_longrlvr.model.block_attention import _BlockAttention
    from megatron_longrlvr.model.sequence_plan import plan_sequences
    from tests.support.masked_attention import segments_of

    devices = set()
    for groups in ([(64, (16, 16))], [(64, (16,)), (40, (8,))]):
        segments = segments_of(groups)
        plan = plan_sequences(segments, cp=1, cp_rank=0, multiple=1, device=torch.device("cpu"))
        tokens = sum(segment.num_tokens for segment in segments)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            query, grad = (_fake(tokens, 8), _fake(tokens, 8))
            key, value = (_fake(tokens, 2), _fake(tokens, 2))
            context = Context()
            out = _BlockAttention.forward(context, query, key, value, on_gpu(plan))
            found = [out, *_BlockAttention.backward(context, grad)[:3]]
            for one, like in zip(found, (query, query, key, value), strict=True):
                assert (one.shape, one.dtype) == (like.shape, like.dtype)
            devices |= {one.device for one in found}
    return devices


def _fake(tokens: int, heads: int) -> Tensor:
    return torch.empty(tokens, heads, 64, device=_GPU, dtype=torch.bfloat16)


if __name__ == "__main__":
    pretend()
    places = devices_of_attention() | devices_of_a_pass(sys.argv[1])
    sys.stdout.write(f"all on {', '.join(map(str, places))}\n")
