"""What a recipe's sections ask of each other.

A field's own range is on the field; here is what only shows when two sections are read together,
or together with the number of ranks. Nothing is changed, and neither model, data nor GPU is needed.
"""

from __future__ import annotations

from megatron_longrlvr.config.mismatch import MismatchConfig
from megatron_longrlvr.config.policy import OptimizerConfig
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.config.synthesis import SynthesisConfig
from megatron_longrlvr.config.task import DataSource, FileDataConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.parallel.layout import ParallelLayout

# Engines that have processes and weights of their own.
_SAMPLING_WHILE_TRAINING = ("vllm_server",)

# Engines that can say where they sent each token.
_TELLING_EXPERTS = ("megatron", "vllm_colocated")

# Variants of the reward that pay for the answer and for the citations.
_WITH_BOTH_PARTS = ("longrlvr", "authors_code")


def check_train_config(config: TrainConfig, *, world_size: int) -> None:
    """Refuse settings that cannot run together on ``world_size`` ranks.

    Raises:
        ConfigError: Opens with the dotted key to change.
    """
    layout = ParallelLayout.from_config(config.layout, world_size)
    _check_shares(config, layout)
    _check_engine(config)
    _check_routing_replay(config)
    check_engine_size(config, layout)
    _check_algorithm(config)
    _check_critic(config)
    _check_credit(config)
    _check_overlong(config)
    _check_staleness(config)
    _check_optimizer(config.optimizer, "optimizer")
    _check_acceleration(config, layout)
    _check_evaluation(config)
    _check_keep_best(config)


def _check_shares(config: TrainConfig, layout: ParallelLayout) -> None:
    prompts, updates = config.rollout.prompts_per_step, config.algorithm.updates_per_step
    if prompts % layout.dp:
        raise ConfigError(
            f"rollout.prompts_per_step={prompts} does not divide into equal shares for the "
            f"{layout.dp} data-parallel ranks of {layout.world_size} processes; "
            f"use a multiple of {layout.dp}"
        )
    if (prompts // layout.dp) % updates:
        raise ConfigError(
            f"algorithm.updates_per_step={updates} does not divide the {prompts // layout.dp} "
            f"groups that each data-parallel rank has of rollout.prompts_per_step={prompts}"
        )


def check_engine_size(config: TrainConfig, layout: ParallelLayout) -> None:
    """Refuse an engine that does not fit the ranks, or the recipe's longest prompt and response.

    Raises:
        ConfigError: Opens with the dotted key to change.
    """
    rollout = config.rollout
    if rollout.engine == "megatron":
        return
    if rollout.engine == "vllm_colocated" and layout.world_size % rollout.vllm.tensor_parallel:
        raise ConfigError(
            f"rollout.vllm.tensor_parallel={rollout.vllm.tensor_parallel} does not divide the "
            f"{layout.world_size} processes of this run"
        )
    if rollout.engine == "vllm_server" and rollout.server.broadcast_senders > layout.world_size:
        raise ConfigError(
            f"rollout.server.broadcast_senders={rollout.server.broadcast_senders} is above the "
            f"{layout.world_size} processes of this run"
        )
    needed = config.data.max_prompt_tokens + rollout.max_response_tokens
    if rollout.vllm.max_model_len is not None and rollout.vllm.max_model_len < needed:
        raise ConfigError(
            f"rollout.vllm.max_model_len={rollout.vllm.max_model_len} is below the {needed} tokens "
            "of data.max_prompt_tokens and rollout.max_response_tokens"
        )


def _check_engine(config: TrainConfig) -> None:
    rollout = config.rollout
    if rollout.engine == "megatron":
        return
    if rollout.top_p < 1 or rollout.top_k > 0:
        raise ConfigError(
            f"rollout.engine={rollout.engine} reports log-probabilities of the distribution that "
            f"rollout.top_p={rollout.top_p} and rollout.top_k={rollout.top_k} leave, which the "
            "learner does not train; set rollout.top_p=1 and rollout.top_k=0"
        )


def _check_routing_replay(config: TrainConfig) -> None:
    rollout = config.rollout
    if not rollout.routing_replay:
        return
    if rollout.engine not in _TELLING_EXPERTS:
        raise ConfigError(
            "rollout.routing_replay=true needs an engine that tells which experts it chose, which "
            f"rollout.engine={rollout.engine} does not; use {' or '.join(_TELLING_EXPERTS)}"
        )
    if rollout.engine == "vllm_colocated" and not rollout.vllm.prefix_caching:
        raise ConfigError(
            "rollout.routing_replay=true needs rollout.vllm.prefix_caching=true: vLLM keeps the "
            "experts of a prompt beside its keys and values"
        )


def _check_algorithm(config: TrainConfig) -> None:
    rollout, algorithm = config.rollout, config.algorithm
    if rollout.group_size < 2 and algorithm.advantage != "gae":
        raise ConfigError(
            f"rollout.group_size={rollout.group_size} leaves algorithm.advantage="
            f"{algorithm.advantage} nothing to compare a sample with; use at least 2"
        )
    if algorithm.kl.coefficient > 0 and (algorithm.kl.estimator, algorithm.kl.place) == (
        "k1",
        "loss",
    ):
        raise ConfigError(
            "algorithm.kl.estimator=k1 has a gradient of mean 0 in the loss; set "
            "algorithm.kl.place=reward, or use k2 or k3"
        )
    if algorithm.proximal == "behavior":
        if algorithm.mismatch != MismatchConfig():
            raise ConfigError(
                "algorithm.mismatch compares with the learner's own log-probabilities, which "
                "algorithm.proximal=behavior does not compute; set algorithm.proximal=recompute"
            )
        _check_behavior_is_proximal(config)


def _check_staleness(config: TrainConfig) -> None:
    rollout, algorithm = config.rollout, config.algorithm
    if algorithm.max_staleness == 0:
        return
    given = f"algorithm.max_staleness={algorithm.max_staleness}"
    if rollout.engine not in _SAMPLING_WHILE_TRAINING:
        raise ConfigError(
            f"{given} needs an engine that samples while the learner trains, which "
            f"rollout.engine={rollout.engine} does not; use {', '.join(_SAMPLING_WHILE_TRAINING)} "
            "or set algorithm.max_staleness=0"
        )
    if algorithm.mismatch.importance != "truncated":
        raise ConfigError(
            f"{given} learns from samples of older weights, whose distance the loss must make up "
            "for; set algorithm.mismatch.importance=truncated"
        )
    if algorithm.dynamic_sampling.enabled:
        raise ConfigError(
            f"{given} begins a step's samples before it is known how many more the one before "
            "it needs; set algorithm.dynamic_sampling.enabled=false"
        )


def _check_behavior_is_proximal(config: TrainConfig) -> None:
    rollout = config.rollout
    if rollout.engine != "megatron":
        raise ConfigError(
            f"algorithm.proximal=behavior needs the learner's own log-probabilities, which "
            f"rollout.engine={rollout.engine} does not report; set algorithm.proximal=recompute"
        )
    if rollout.top_p < 1 or rollout.top_k > 0:
        raise ConfigError(
            "algorithm.proximal=behavior takes the ratio against the distribution that was "
            f"sampled from, which rollout.top_p={rollout.top_p} and rollout.top_k={rollout.top_k} "
            "cut off; set algorithm.proximal=recompute, or rollout.top_p=1 and rollout.top_k=0"
        )


def _check_critic(config: TrainConfig) -> None:
    critic, advantage = config.critic, config.algorithm.advantage
    if critic is None:
        if advantage == "gae":
            raise ConfigError("algorithm.advantage=gae needs a critic section; add one")
        return
    if advantage != "gae":
        raise ConfigError(
            f"critic is read by algorithm.advantage=gae alone, not by {advantage}; leave it out"
        )
    if config.algorithm.drop_uninformative_groups:
        raise ConfigError(
            "algorithm.drop_uninformative_groups=true leaves out groups that a critic learns from; "
            "set it to false with algorithm.advantage=gae"
        )
    if critic.warmup_steps >= config.trainer.steps:
        raise ConfigError(
            f"critic.warmup_steps={critic.warmup_steps} leaves the policy none of the "
            f"trainer.steps={config.trainer.steps}"
        )
    _check_optimizer(critic.optimizer, "critic.optimizer")
    if critic.offload and critic.optimizer.host_frac > 0:
        raise ConfigError(
            "critic.offload=true moves the whole optimizer to the host and back, and "
            f"critic.optimizer.host_frac={critic.optimizer.host_frac} keeps a share of it there; "
            "use one of them"
        )
    if critic.offload and config.model.fp8 is not None:
        raise ConfigError(
            "critic.offload=true moves weights as their type has them, which "
            f"model.fp8.kind={config.model.fp8.kind} does not leave in one place; use one of them"
        )
    trainer = config.trainer
    if trainer.gradient_parts_every > 0:
        raise ConfigError(
            f"trainer.gradient_parts_every={trainer.gradient_parts_every} divides the advantages "
            "of a group, which algorithm.advantage=gae does not have; set it to 0"
        )


def _check_credit(config: TrainConfig) -> None:
    if config.algorithm.credit == "sequence":
        return
    given = f"algorithm.credit={config.algorithm.credit}"
    if config.algorithm.advantage == "gae":
        raise ConfigError(
            f"{given} takes the advantage of each part of the reward within a group, which "
            "algorithm.advantage=gae does not; use another one or algorithm.credit=sequence"
        )
    if config.rewards.variant not in _WITH_BOTH_PARTS:
        raise ConfigError(
            f"{given} needs a reward for context and answer, and rewards.variant="
            f"{config.rewards.variant} pays for one of them alone; "
            f"use {' or '.join(_WITH_BOTH_PARTS)}"
        )
    if config.trainer.gradient_parts_every > 0:
        raise ConfigError(
            f"trainer.gradient_parts_every={config.trainer.gradient_parts_every} divides one "
            f"advantage of a response by term of the reward, and {given} gives it two; set it to 0"
        )


def _check_overlong(config: TrainConfig) -> None:
    overlong, longest = config.algorithm.overlong, config.rollout.max_response_tokens
    if overlong.buffer_tokens > longest:
        raise ConfigError(
            f"algorithm.overlong.buffer_tokens={overlong.buffer_tokens} is above "
            f"rollout.max_response_tokens={longest}, below which it lies"
        )
    if overlong.mask_truncated and config.trainer.gradient_parts_every > 0:
        raise ConfigError(
            f"trainer.gradient_parts_every={config.trainer.gradient_parts_every} needs all samples "
            "of a group in the loss, and algorithm.overlong.mask_truncated=true leaves out some "
            "that the others are compared with; set it to 0"
        )


def _check_optimizer(optimizer: OptimizerConfig, key: str) -> None:
    if optimizer.min_lr > optimizer.lr:
        raise ConfigError(
            f"{key}.min_lr={optimizer.min_lr} is above {key}.lr={optimizer.lr}, "
            "which it is the end of"
        )


def _check_acceleration(config: TrainConfig, layout: ParallelLayout) -> None:
    model, optimizer = config.model, config.optimizer
    if model.offload is not None and model.offload.kind == "layers" and layout.pp > 1:
        raise ConfigError(
            f"model.offload.kind=layers does not go together with layout.pp={layout.pp}; use "
            "model.offload.kind=modules or layout.pp=1"
        )
    if model.fp8 is not None and config.rollout.engine == "megatron":
        raise ConfigError(
            f"model.fp8.kind={model.fp8.kind} takes rows of many tokens, and "
            "rollout.engine=megatron decodes one token of each sample at a time; use "
            "vllm_colocated or vllm_server"
        )
    if model.fp8 is not None and model.fp8.parameters and not optimizer.distributed:
        raise ConfigError(
            "model.fp8.parameters=true keeps fp32 weights in the distributed optimizer alone; set "
            "optimizer.distributed=true"
        )
    _check_fused_attention(config)
    if optimizer.host_frac > 0 and not optimizer.distributed:
        raise ConfigError(
            f"optimizer.host_frac={optimizer.host_frac} needs optimizer.distributed=true"
        )


def _check_fused_attention(config: TrainConfig) -> None:
    if config.model.attention != "transformer_engine":
        return
    if config.algorithm.shared_prompt:
        raise ConfigError(
            "model.attention=transformer_engine cannot have samples share a prompt; set "
            "algorithm.shared_prompt=false, or model.attention=torch"
        )
    if config.rollout.engine == "megatron":
        raise ConfigError(
            "model.attention=transformer_engine has no key/value cache, which "
            "rollout.engine=megatron decodes with; use vllm_colocated or vllm_server, or "
            "model.attention=torch"
        )


def _check_evaluation(config: TrainConfig) -> None:
    evaluation = config.evaluation
    if evaluation is None:
        if config.trainer.eval_every > 0:
            raise ConfigError(
                f"trainer.eval_every={config.trainer.eval_every} needs an evaluation section; "
                "add one or set trainer.eval_every=0"
            )
        return
    if evaluation.temperature == 0 and evaluation.samples_per_prompt > 1:
        raise ConfigError(
            f"evaluation.samples_per_prompt={evaluation.samples_per_prompt} at "
            "evaluation.temperature=0 decodes the same response again and again; use 1"
        )
    if _share_prompts(config.data.train, evaluation.data):
        raise ConfigError(
            "evaluation.data holds prompts of data.train; evaluate on held-out ones "
            "(evaluation.data.split=heldout, or other evaluation.data.paths)"
        )


def _check_keep_best(config: TrainConfig) -> None:
    trainer = config.trainer
    if trainer.keep_best is not None and 0 in {trainer.eval_every, trainer.save_every}:
        raise ConfigError(
            f"trainer.keep_best={trainer.keep_best.metric} needs checkpoints that were measured; "
            f"trainer.eval_every={trainer.eval_every} and trainer.save_every={trainer.save_every} "
            "must both be above 0"
        )


def _share_prompts(train: DataSource, heldout: DataSource) -> bool:
    if isinstance(train, FileDataConfig) and isinstance(heldout, FileDataConfig):
        return not set(train.paths).isdisjoint(heldout.paths)
    return train == heldout


def check_synthesis_config(config: SynthesisConfig) -> None:
    """Refuse a synthesis whose stages name models that it does not describe.

    Raises:
        ConfigError: Names the key.
    """
    named = {"generate": config.generate.model, "score": config.score.model}
    if config.difficulty is not None:
        named["difficulty"] = config.difficulty.model
    if config.evidence is not None:
        named["evidence"] = config.evidence.model
    for stage, model in named.items():
        if model not in config.models:
            known = ", ".join(config.models)
            raise ConfigError(f"{stage}.model={model!r} is not in models, which has {known}")
