"""NeMo-Aligner's settings of a PPO actor and critic, key by key: what each becomes in a recipe.

Keys are those of ``gpt_ppo_actor.yaml`` and ``gpt_ppo_critic.yaml`` of NeMo-Aligner 0.7.0, and of
the model configuration that NeMo merges into them. A pattern may end with ``.*``, which stands for
the key itself and everything below, or with ``*`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Taken:
    """Goes into the recipe."""

    key: str
    """Dotted key of a recipe."""

    convert: Callable[[Any], Any] = lambda value: value
    """Raises ``ValueError`` with what would be accepted."""


@dataclass(frozen=True, slots=True)
class Left:
    """Has no place in a recipe, and the run is none the worse for it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fixed:
    """Only these values mean what our loop does; any other is refused."""

    values: tuple[Any, ...]
    reason: str


Rule = Taken | Left | Fixed


def _dtype(value: object) -> str:
    names = {"bf16": "bf16", "bf16-mixed": "bf16", "bf16-true": "bf16", "32": "fp32"}
    name = names.get(str(value))
    if name is None:
        raise ValueError("bf16 and 32 can be had")
    return name


def _above_zero(value: Any) -> Any:  # noqa: ANN401 - checked here
    if not isinstance(value, int) or value <= 0:
        raise ValueError("give the number of steps; a recipe has no whole passes over the data")
    return value


def _optimizer(value: object) -> bool:
    known = {
        "distributed_fused_adam": True,
        "mcore_distributed_optim": True,
        "fused_adam": False,
        "adamw": False,
    }
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"one of {', '.join(known)} becomes AdamW")
    return known[value]


def _schedule(value: object) -> str:
    known = {"CosineAnnealing": "cosine", "WarmupPolicy": "constant", "WarmupAnnealing": "linear"}
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"one of {', '.join(known)} can be had")
    return known[value]


_OTHER_PLACE = "the job script sets how many processes run where"
_LOGGED = "runs write metrics.jsonl and TensorBoard, and go to W&B where a key is set"
_IN_PROCESS = "rewards and values are computed in the training processes, without servers"
_ONE_RUN = "policy and critic are one run, with one journal and one set of checkpoints"
_SAME_LAYOUT = "the critic is cut by the policy's layout, and trained on its micro-batches"
_LIGHTNING = "belongs to PyTorch Lightning, which does not run"
_FROM_MODEL = "read from the model's own configuration"
_ENGINE = "rollout.engine chooses vLLM or the learner's own weights"
_WHOLE = "all weights are trained"
_IN_STEPS = "warm-up is counted in steps; set model.optim.sched.warmup_steps"
_FP32_STATE = "gradients and optimizer state are fp32"
_BY_BUDGET = "micro-batches are cut by algorithm.micro_batch_tokens"

RULES: Mapping[str, Rule] = {
    "defaults.*": Left("Hydra's list of files; give the resolved settings"),
    "trainer.num_nodes": Left(_OTHER_PLACE),
    "trainer.devices": Left(_OTHER_PLACE),
    "trainer.accelerator": Left("GPUs are used where there are any"),
    "trainer.precision": Taken("model.dtype", _dtype),
    "trainer.ppo.max_steps": Taken("trainer.steps", _above_zero),
    "trainer.ppo.val_check_interval": Taken("trainer.eval_every"),
    "trainer.ppo.save_interval": Taken("trainer.save_every"),
    "trainer.ppo.gradient_clip_val": Taken("optimizer.clip_grad"),
    "trainer.ppo.initial_policy_kl_penalty": Taken("algorithm.kl.coefficient"),
    "trainer.ppo.discount_factor": Taken("critic.gamma"),
    "trainer.ppo.gae_lambda": Taken("critic.lam"),
    "trainer.ppo.normalize_advantages": Taken("algorithm.whiten_advantages"),
    "trainer.ppo.max_epochs": Fixed((1, None), "steps are counted, not passes over the data"),
    "trainer.ppo.model_gbs": Left("model.global_batch_size stands for it"),
    "trainer.ppo.model_mbs": Left(_BY_BUDGET),
    "trainer.ppo.rollout_batch_seq_length": Left("rollouts are packed without padding"),
    "trainer.ppo.critic_warmup_steps": Taken("critic.warmup_steps"),
    "trainer.ppo.trt_llm.*": Left(_ENGINE),
    "trainer.ppo.trt_model_dir": Left(_ENGINE),
    "trainer.ppo.batch_iterator.*": Left("each rank samples its share of the prompts"),
    "trainer.logger": Left(_LIGHTNING),
    "trainer.enable_checkpointing": Left(_LIGHTNING),
    "trainer.use_distributed_sampler": Left(_LIGHTNING),
    "trainer.max_time": Left("the job script says how long it may take"),
    "trainer.max_epochs": Left("trainer.ppo.max_epochs stands for it"),
    "trainer.max_steps": Left("trainer.ppo.max_steps stands for it"),
    "trainer.gradient_clip_val": Left("trainer.ppo.gradient_clip_val stands for it"),
    "remote_critic_rm.*": Left(_IN_PROCESS),
    "exp_manager.explicit_log_dir": Taken("run.dir"),
    "exp_manager.name": Taken("run.name"),
    "exp_manager.*": Left(_LOGGED),
    "pretrained_checkpoint.*": Left("a recipe's model.path names a Hugging Face folder"),
    "model.ppo.entropy_bonus": Taken("algorithm.entropy_coefficient"),
    "model.ppo.num_val_samples": Taken("evaluation.num_prompts"),
    "model.ppo.rollout_micro_batch_size": Left("the engine fills its places by itself"),
    "model.ppo.forward_micro_batch_size": Left(_BY_BUDGET),
    "model.ppo.val_rollout_micro_batch_size": Left("the engine fills its places by itself"),
    "model.ppo.offload_adam_states": Left("optimizer.host_frac says it, in shares"),
    "model.ppo.trt_llm.*": Left(_ENGINE),
    "model.ppo.sampling_params.use_greedy": Fixed((False,), "training samples"),
    "model.ppo.sampling_params.temperature": Taken("rollout.temperature"),
    "model.ppo.sampling_params.top_k": Taken("rollout.top_k"),
    "model.ppo.sampling_params.top_p": Taken("rollout.top_p"),
    "model.ppo.sampling_params.repetition_penalty": Fixed((1, None), "there is no such penalty"),
    "model.ppo.sampling_params.end_strings": Taken("rollout.stop"),
    "model.ppo.sampling_params.*": Left("prompts and log-probabilities are always whole"),
    "model.ppo.length_params.min_length": Fixed((0, 1), "a response may end at once"),
    "model.peft.peft_scheme": Fixed(("none", None), _WHOLE),
    "model.peft.*": Left(_WHOLE),
    "model.mcore_gpt": Fixed((True,), "policies are megatron-core models"),
    "model.micro_batch_size": Left(_BY_BUDGET),
    "model.megatron_amp_O2": Left("bf16 weights have fp32 master weights"),
    "model.max_position_embeddings": Left(_FROM_MODEL),
    "model.tensor_model_parallel_size": Taken("layout.tp"),
    "model.pipeline_model_parallel_size": Taken("layout.pp"),
    "model.virtual_pipeline_model_parallel_size": Taken("layout.vpp", lambda value: value or 1),
    "model.context_parallel_size": Taken("layout.cp"),
    "model.expert_model_parallel_size": Taken("layout.ep"),
    "model.sequence_parallel": Taken("layout.sequence_parallel"),
    "model.activations_checkpoint_granularity": Taken(
        "model.recompute", lambda value: value or "none"
    ),
    "model.activations_checkpoint_*": Left("model.recompute takes whole layers, one at a time"),
    "model.seed": Taken("run.seed"),
    "model.optim.name": Taken("optimizer.distributed", _optimizer),
    "model.optim.lr": Taken("optimizer.lr"),
    "model.optim.weight_decay": Taken("optimizer.weight_decay"),
    "model.optim.eps": Taken("optimizer.eps"),
    "model.optim.sched.name": Taken("optimizer.schedule", _schedule),
    "model.optim.sched.warmup_steps": Taken("optimizer.warmup_steps"),
    "model.optim.sched.min_lr": Taken("optimizer.min_lr"),
    "model.optim.sched.constant_steps": Left("the learning rate decays to the last step"),
    "model.optim.sched.max_steps": Left("the decay is as long as the run"),
    "model.optim.sched.warmup_ratio": Fixed((None,), _IN_STEPS),
    "model.optim.sched": Fixed((None,), "without a section of its own the rate stays as it is"),
    **dict.fromkeys(
        (
            "model.optim.bucket_cap_mb",
            "model.optim.overlap_*",
            "model.optim.contiguous_*",
            "model.optim.store_*",
            "model.optim.distribute_within_nodes",
            "model.optim.average_grad_sync",
            "model.optim.nccl_ub",
        ),
        Left("buckets and overlap are megatron-core's"),
    ),
    "model.optim.dtype": Left(_FP32_STATE),
    "model.optim.grad_sync_dtype": Left(_FP32_STATE),
    "model.optim.param_sync_dtype": Left(_FP32_STATE),
    "model.precision": Left("trainer.precision stands for it"),
    "model.data.*": Left("prompts come from the files that the command names"),
    "model.overwrite_base_config.*": Left("there is no configuration to merge with"),
}
"""Longest pattern first where several fit."""

DERIVED = frozenset(
    {
        "trainer.ppo.use_absolute_kl",
        "model.ppo.num_rollout_samples",
        "model.ppo.ratio_eps",
        "model.ppo.length_params.max_length",
        "model.global_batch_size",
        "model.encoder_seq_length",
        "model.optim.betas",
    }
)
"""Keys that become several of ours, or one together with others: see ``aligner_import.py``."""


_OPTIMIZER = "model.optim."
_ALIKE = (
    "model.peft.peft_scheme",
    "model.peft.*",
    "model.mcore_gpt",
    "model.micro_batch_size",
    "model.megatron_amp_O2",
    "model.max_position_embeddings",
    "model.precision",
    "model.activations_checkpoint_*",
    "model.overwrite_base_config.*",
)

CRITIC_RULES: Mapping[str, Rule] = {
    **{
        key: replace(rule, key=f"critic.{rule.key}") if isinstance(rule, Taken) else rule
        for key, rule in RULES.items()
        if key.startswith(_OPTIMIZER)
    },
    "defaults.*": RULES["defaults.*"],
    "trainer.num_nodes": Left(_SAME_LAYOUT),
    "trainer.devices": Left(_SAME_LAYOUT),
    "trainer.accelerator": RULES["trainer.accelerator"],
    "trainer.precision": Taken("critic.dtype", _dtype),
    "trainer.ppo.gradient_clip_val": Taken("critic.optimizer.clip_grad"),
    "trainer.ppo.max_steps": Left("the decay of its learning rate is as long as the run"),
    "trainer.ppo.port": Left(_IN_PROCESS),
    "trainer.ppo.combine_rm_and_critic_server": Left(_IN_PROCESS),
    "trainer.ppo.max_queue_delay_microseconds": Left(_IN_PROCESS),
    "trainer.ppo.strip_sequence_length_to_multiple": Left(_IN_PROCESS),
    "trainer.ppo.inference_micro_batch_size": Left(_IN_PROCESS),
    **{key: rule for key, rule in RULES.items() if rule == Left(_LIGHTNING)},
    "trainer.max_epochs": Left(_LIGHTNING),
    "trainer.max_steps": Left("trainer.ppo.max_steps stands for it"),
    "trainer.gradient_clip_val": RULES["trainer.gradient_clip_val"],
    "pretrained_checkpoint.*": Left("a recipe's critic.path names a Hugging Face folder"),
    "exp_manager.*": Left(_ONE_RUN),
    "model.loss_clip_val": Taken("critic.value_clip", lambda value: value or None),
    "model.offload_adam_states": Taken("critic.offload"),
    "model.output_sequence": Fixed((True,), "a critic says something of every token"),
    "model.reward_standardization.enable": Fixed((False,), "values are in units of reward"),
    "model.reward_standardization.*": Left("values are in units of reward"),
    "model.forward_micro_batch_size": Left(_BY_BUDGET),
    "model.use_avg_pool": Fixed((False,), "a critic says something of every token"),
    "model.force_head_dtype": Fixed(("float32", "fp32"), "the head computes in fp32"),
    "model.reward_model_type": Left("rewards come from verifiers"),
    "model.regression.num_attributes": Fixed((1,), "a value is one number"),
    "model.regression.*": Left("a value is one number"),
    **{key: RULES[key] for key in _ALIKE},
    "model.encoder_seq_length": Left("the critic reads what the policy reads"),
    "model.sequence_parallel": Left(_SAME_LAYOUT),
    "model.activations_checkpoint_granularity": Taken(
        "critic.recompute", lambda value: value or "none"
    ),
    "model.seed": Left("run.seed stands for it"),
    "model.data.*": Left("it learns from the policy's samples"),
}
"""Of the critic's file."""

SHARED_WITH_POLICY: Mapping[str, str] = {
    "model.global_batch_size": "the critic takes as many updates as the policy",
    **dict.fromkeys(
        (
            "model.tensor_model_parallel_size",
            "model.pipeline_model_parallel_size",
            "model.virtual_pipeline_model_parallel_size",
            "model.context_parallel_size",
            "model.expert_model_parallel_size",
        ),
        _SAME_LAYOUT,
    ),
}
"""Keys of the critic's file whose value has to be that of the actor's, and why."""

CRITIC_DERIVED = frozenset({"model.optim.betas", *SHARED_WITH_POLICY})


def find_rule(key: str, rules: Mapping[str, Rule] = RULES) -> Rule | None:
    """The rule for a dotted key; None where the key is not known."""
    if key in rules:
        return rules[key]
    patterns = [one for one in rules if one.endswith("*") and _fits(key, one)]
    return rules[max(patterns, key=len)] if patterns else None


def _fits(key: str, pattern: str) -> bool:
    return key.startswith(pattern[:-1]) or key == pattern.removesuffix(".*")
