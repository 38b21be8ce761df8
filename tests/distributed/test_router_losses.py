"""The router's losses are of the step: nothing about how it is computed changes their gradient.

The policy gradient is switched off (advantages of 0), so that what is left is the gradient of the
two losses alone. Expected is transformers with plain autograd, sample by sample: in each layer with
experts E * sum_e f_e P_e and the mean of squared log-denominators, over the tokens of all whole
samples. megatron-core's own would be of a micro-batch, times its tokens.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.spec import read_model_spec
from megatron_longrlvr.trainer.assembly import data_parallel_peers
from tests.support.gradients import FP32_RTOL, assert_same_pass
from tests.support.learners import gather_gradients, start_learner, start_policy
from tests.support.sample_groups import joined, random_groups
from tests.support.tiny_models import save_tiny_model, tiny_model

BALANCE, Z = 0.3, 0.07
LOSSES = {"balance_coefficient": BALANCE, "z_coefficient": Z}
SHARED = {"shared_prompt": True, "micro_batch_tokens": 200}
LAYOUTS_OF_TWO = [
    pytest.param({"ep": 2}, {}, id="ep2"),
    pytest.param({"tp": 2, "sequence_parallel": True}, {}, id="tp2-sp"),
    pytest.param({"pp": 2}, {"recompute": "full"}, id="pp2-recompute"),
    pytest.param({"cp": 2, "ep": 2}, {}, id="cp2-ep2"),
]
PACKINGS = [
    pytest.param({"shared_prompt": False, "micro_batch_tokens": 200}, id="whole-samples"),
    pytest.param({"shared_prompt": True, "micro_batch_tokens": 43}, id="split-groups"),
    pytest.param({**SHARED, "proximal": "behavior"}, id="load-counted-apart"),
]


def one_pass(rank, world_size, folder, layout, algorithm, *, model=None, copies=1, losses=LOSSES):  # noqa: ARG001
    """The loss, which is 0, and gradients; and what is reported."""
    policy = start_policy(folder, layout, world_size, router=losses, **(model or {}))
    learner = start_learner(policy, distributed=False)
    config = AlgorithmConfig(**algorithm)
    groups = policy.groups
    everything = [group for copy in range(copies) for group in copied(copy)]
    mine = joined(everything[groups.dp_rank :: groups.layout.dp])
    mine = replace(mine, advantages=[[0.0] * len(values) for values in mine.advantages])
    peers = data_parallel_peers(groups)
    (packed,) = pack(mine, config=config, max_response_tokens=16, peers=peers)
    gradients = learner.accumulate_gradients(learner.add_logprobs(packed, config), config)
    by_name = gather_gradients(learner)
    reported = {
        name: value
        for name, value in learner.apply_gradients(gradients).metrics.items()
        if name.startswith(("expert_", "router_"))
    }
    return gradients.sums["loss"], by_name, reported


def copied(copy):
    """The groups again, with prompts of other names."""
    for group in random_groups(seed=7):
        yield replace(
            group,
            scored=[
                replace(
                    scored,
                    sample=replace(
                        scored.sample,
                        prompt=replace(
                            scored.sample.prompt,
                            prompt_id=f"{scored.sample.prompt.prompt_id}.{copy}",
                        ),
                    ),
                )
                for scored in group.scored
            ],
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "qwen3_moe"
    save_tiny_model(path, "qwen3_moe")
    return path


@pytest.fixture(scope="module")
def reference(pool1, folder):
    return pool1.run(one_pass, folder, {}, SHARED)[0]


def transformers_losses():
    """The model after backward of both losses, and their values by layer."""
    model = tiny_model("qwen3_moe")
    samples = [one.sample for group in random_groups(seed=7) for one in group.scored]
    by_sample = [
        model(
            torch.tensor([[*sample.prompt.token_ids, *sample.token_ids]]), output_router_logits=True
        ).router_logits
        for sample in samples
    ]
    losses = []
    for logits in map(torch.cat, zip(*by_sample, strict=True)):
        chosen = logits.topk(model.config.num_experts_per_tok, dim=-1).indices
        load = torch.bincount(chosen.flatten(), minlength=logits.size(1)) / chosen.numel()
        balance = logits.size(1) * (load * logits.softmax(-1).mean(0)).sum()
        losses.append((load, balance, logits.logsumexp(-1).square().mean()))
    sum(BALANCE * balance + Z * z for _, balance, z in losses).backward()
    return model, losses


def test_gradients_and_reports_are_those_of_transformers(folder, reference):
    loss, gradients, metrics = reference
    model, losses = transformers_losses()
    dense = {name: p.grad for name, p in model.named_parameters() if ".experts." not in name}
    dense = {name: gradient for name, gradient in dense.items() if gradient is not None}
    assert {"model.embed_tokens.weight", "model.layers.3.mlp.gate.weight"} < dense.keys()
    # Another implementation of attention and norms: twice the room.
    assert_same_pass(
        (loss, {name: gradients[name] for name in dense}), (0.0, dense), gradient_rtol=2 * FP32_RTOL
    )
    loads, balances, zs = map(torch.stack, zip(*losses, strict=True))
    peaks = loads.amax(dim=1) * loads.size(1)
    assert len(losses) == read_model_spec(folder).num_layers - 1  # one has no experts
    assert metrics["expert_load_peak_mean"] == pytest.approx(peaks.mean().item())
    assert metrics["expert_load_peak_max"] == pytest.approx(peaks.max().item())
    assert metrics["router_balance_loss"] == pytest.approx(balances.mean().item())
    assert metrics["router_z_loss"] == pytest.approx(zs.mean().item())
    assert metrics["expert_idle_frac"] == (loads == 0).float().mean().item()


@pytest.mark.parametrize("packing", PACKINGS)
def test_packing_changes_no_gradient(pool1, folder, reference, packing):
    (result,) = pool1.run(one_pass, folder, {}, packing)
    assert_same_pass(result[:2], reference[:2])
    assert result[2] == pytest.approx(reference[2])


def test_twice_the_tokens_change_no_gradient(pool1, folder, reference):
    (result,) = pool1.run(twice, folder)
    assert_same_pass(result[:2], reference[:2])


def twice(rank, world_size, folder):
    return one_pass(rank, world_size, folder, {}, SHARED, copies=2)


@pytest.mark.parametrize(("layout", "model"), LAYOUTS_OF_TWO)
def test_layouts_change_no_gradient(pool2, folder, reference, layout, model):
    for result in pool2.run(laid_out, folder, layout, model):
        assert_same_pass(result[:2], reference[:2])
        assert result[2] == pytest.approx(reference[2])


def laid_out(rank, world_size, folder, layout, model):
    return one_pass(rank, world_size, folder, layout, SHARED, model=model)


def test_without_coefficients_nothing_is_charged(pool1, folder, reference):
    (result,) = pool1.run(uncharged, folder)
    assert all(not gradient.any() for gradient in result[1].values())
    assert result[2]["router_z_loss"] == pytest.approx(reference[2]["router_z_loss"])


def uncharged(rank, world_size, folder):
    return one_pass(rank, world_size, folder, {}, SHARED, losses={})
