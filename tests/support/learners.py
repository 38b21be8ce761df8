"""Build learners on tiny models inside a rank, and read their gradients and weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.config.critic import CriticConfig
from megatron_longrlvr.config.policy import ModelConfig, OptimizerConfig
from megatron_longrlvr.model.critic import Critic, load_critic
from megatron_longrlvr.model.hf_weights import parameters_by_name
from megatron_longrlvr.model.learner import Learner, LearnerSettings
from megatron_longrlvr.model.policy import Policy, load_policy
from megatron_longrlvr.model.policy_model import unwrap
from megatron_longrlvr.model.spec import ModelSpec, read_critic_spec, read_model_spec
from megatron_longrlvr.model.trainee import Trainee
from megatron_longrlvr.model.weight_map import (
    Rule,
    merge,
    rules_for_body,
    rules_for_model,
    tied_output_rule,
    value_head_rule,
)
from megatron_longrlvr.parallel.groups import ProcessGroups, start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout

TEMPERATURE = 0.7


def start_groups(layout: dict, world_size: int) -> ProcessGroups:
    return start_process_groups(ParallelLayout(world_size=world_size, **layout), seed=0)


def start_policy(
    folder: Path, layout: dict, world_size: int, *, unchecked: dict | None = None, **model: object
) -> Policy:
    """A policy, in fp32 unless told otherwise; nobody checks the ``unchecked`` settings."""
    groups = start_groups(layout, world_size)
    settings = {"dtype": "fp32", "logprob_chunk_tokens": 7, **model}
    config = ModelConfig(path=str(folder), **settings).model_copy(update=unchecked)
    return load_policy(folder, read_model_spec(folder), groups, config)


def start_learner(policy: Policy, *, lr: float = 1e-2, clip: float = 0.5, **optimizer) -> Learner:
    config = OptimizerConfig(lr=lr, clip_grad=clip, **optimizer)
    settings = LearnerSettings(optimizer=config, num_optimizer_steps=10, temperature=TEMPERATURE)
    return Learner(policy, settings)


def start_critic(
    folder: Path,
    groups: ProcessGroups,
    *,
    dtype: str = "fp32",
    is_offloaded: bool = False,
    **settings: object,
) -> Critic:
    """A critic; ``settings`` are those of its section, its optimizer's among them."""
    optimizer = {"lr": 1e-2, "clip_grad": 0.5, **settings.pop("optimizer", {})}
    network = load_critic(
        folder, read_critic_spec(folder), groups, ModelConfig(path=str(folder), dtype=dtype)
    )
    config = CriticConfig(optimizer=OptimizerConfig(**optimizer), **settings)
    return Critic(network, config, num_optimizer_steps=10, is_offloaded=is_offloaded)


def gather_gradients(learner: Learner) -> dict[str, Tensor]:
    """Full gradients by Hugging Face name, from the reduced gradient buffers; on every rank."""
    return _gather(learner, _policy_rules(learner.policy.spec), "main_grad")


def gather_weights(learner: Learner) -> dict[str, Tensor]:
    """Full weights by Hugging Face name, on every rank."""
    return _gather(learner, _policy_rules(learner.policy.spec), "data")


def gather_critic_gradients(critic: Critic) -> dict[str, Tensor]:
    """Full gradients by Hugging Face name, on every rank."""
    return _gather(critic, _critic_rules(critic.network.spec), "main_grad")


def gather_critic_weights(critic: Critic) -> dict[str, Tensor]:
    """Full weights by Hugging Face name, on every rank."""
    return _gather(critic, _critic_rules(critic.network.spec), "data")


def _policy_rules(spec: ModelSpec) -> list[Rule]:
    tied = [tied_output_rule(spec)] if spec.tie_word_embeddings else []
    return [*rules_for_model(spec), *tied]


def _critic_rules(spec: ModelSpec) -> list[Rule]:
    return [*rules_for_body(spec), value_head_rule(spec)]


def _gather(trainee: Trainee, listed: Sequence[Rule], attribute: str) -> dict[str, Tensor]:
    rules = {rule.megatron_name: rule for rule in listed}
    groups, spec = trainee.network.groups, trainee.network.spec
    merged: dict[str, Tensor] = {}
    chunks = [unwrap(chunk) for chunk in trainee.wrapped]
    for name, parameter in parameters_by_name(chunks).items():
        own = getattr(parameter, attribute).detach().clone().to(parameter.dtype)
        shards = [torch.empty_like(own) for _ in range(groups.layout.tp)]
        dist.all_gather(shards, own, group=groups.tp)
        merged.update(merge(rules[name], shards, spec))
    for group in (groups.ep, groups.pp):
        parts: list[dict[str, Tensor]] = [{} for _ in range(group.size())]
        dist.all_gather_object(parts, merged, group=group)
        merged = {name: tensor.clone() for part in parts for name, tensor in part.items()}
    return merged
