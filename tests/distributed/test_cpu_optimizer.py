"""On CPU, megatron-core's distributed optimizer over torch's AdamW follows plain AdamW, and goes on
after a resume as if it had not stopped, bit for bit.

Upstream loses AdamW's per-parameter step on the way (shared by all parameters, so that it advances
once per parameter and step); the CPU patches mend that, and this is where they are held to it.
Not covered: checkpoint files, other layouts.
"""

import io

import pytest
import torch

from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout

LR, WEIGHT_DECAY, BETAS, EPS, CLIP_GRAD = 0.1, 0.5, (0.9, 0.95), 1e-8, 0.01
# Rounding of about 4 steps of fp32 on weights below 1; a wrong step count moves them by 1e-2.
FP32_ATOL = 1e-6


class ThreeLayers(torch.nn.Module):
    """Three weights on two ranks, each on its own 64 elements of the buffer: one rank holds two."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(11)
        self.first = torch.nn.Linear(4, 8, bias=False)
        self.second = torch.nn.Linear(8, 8, bias=False)
        self.third = torch.nn.Linear(8, 2, bias=False)

    def forward(self, x):
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))


def inputs(step, dp_rank):
    generator = torch.Generator().manual_seed(100 * step + dp_rank)
    return torch.randn(3, 4, generator=generator)


def build():
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.transformer import TransformerConfig

    model = DistributedDataParallel(
        TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1),
        DistributedDataParallelConfig(use_distributed_optimizer=True),
        ThreeLayers(),
    )
    config = OptimizerConfig(
        optimizer="adam",
        lr=LR,
        min_lr=LR,
        weight_decay=WEIGHT_DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_eps=EPS,
        clip_grad=CLIP_GRAD,
        use_distributed_optimizer=True,
    )
    return model, get_megatron_optimizer(config, [model])


def train(model, optimizer, steps, dp_rank):
    for step in steps:
        model.zero_grad_buffer()
        model(inputs(step, dp_rank)).square().sum().backward()
        model.finish_grad_sync()
        assert optimizer.step()[0], "the step was taken"


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def saved_state(optimizer):
    (inner,) = optimizer.chained_optimizers
    state = inner.state_dict() | {
        "param_state": inner.get_parameter_state_dp_zero(),
        "param_state_sharding_type": "dp_zero_gather_scatter",
    }
    file = io.BytesIO()  # the state is made of views of what training goes on to change
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def straight_and_resumed(_rank, world_size):
    groups = start_process_groups(ParallelLayout(world_size=world_size), seed=1)
    model, optimizer = build()
    train(model, optimizer, [0, 1], groups.dp_rank)
    state = saved_state(optimizer)
    train(model, optimizer, [2, 3], groups.dp_rank)

    resumed_model, resumed_optimizer = build()
    resumed_optimizer.chained_optimizers[0].load_state_dict(state)
    # The optimizer has the weights of its shard; gather them into the model as a step would.
    resumed_model.start_param_sync(force_sync=True)
    train(resumed_model, resumed_optimizer, [2, 3], groups.dp_rank)
    return weights(model), weights(resumed_model)


def plain_adamw(world_size):
    model = ThreeLayers()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY
    )
    for step in range(4):
        optimizer.zero_grad()
        for dp_rank in range(world_size):  # DDP averages over ranks
            (model(inputs(step, dp_rank)).square().sum() / world_size).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_GRAD)
        optimizer.step()
    return weights(model)


@pytest.fixture(scope="module")
def both_runs(pool2):
    return pool2.run(straight_and_resumed)


def test_distributed_optimizer_follows_plain_adamw(both_runs):
    expected = plain_adamw(world_size=2)
    for straight, _ in both_runs:
        torch.testing.assert_close(straight, expected, atol=FP32_ATOL, rtol=0)


def test_resumed_optimizer_equals_the_uninterrupted_one(both_runs):
    for straight, resumed in both_runs:
        torch.testing.assert_close(resumed, straight, atol=0, rtol=0)
