"""The one place that chooses classes: from a recipe to a run on this rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from megatron_longrlvr.algorithms.credit import SegmentCredit
from megatron_longrlvr.algorithms.dealing import GroupCost, GroupShape
from megatron_longrlvr.algorithms.packing import Peers
from megatron_longrlvr.checkpoint.store import find_intact, load_checkpoint, load_unused
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.data.build import build_prompt_source
from megatron_longrlvr.data.sources import PromptSource
from megatron_longrlvr.data.tokenizer import Tokenizer, load_tokenizer
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.evaluation.runner import Evaluator
from megatron_longrlvr.model.critic import Critic, load_critic
from megatron_longrlvr.model.flops import forward_flops, group_work
from megatron_longrlvr.model.learner import Learner, LearnerSettings
from megatron_longrlvr.model.optimizer import describe_optimizer
from megatron_longrlvr.model.policy import Policy, load_policy
from megatron_longrlvr.model.precision import describe
from megatron_longrlvr.model.spec import ModelSpec, read_critic_spec, read_model_spec
from megatron_longrlvr.parallel.collectives import (
    all_ranks_agree,
    gather_objects,
)
from megatron_longrlvr.parallel.device import has_cuda
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.rewards.scorer import RewardScorer
from megatron_longrlvr.rollout.engine import AheadEngine, OwnEngine, SamplingParams
from megatron_longrlvr.stages import Sample
from megatron_longrlvr.trainer.async_loop import SamplesAhead
from megatron_longrlvr.trainer.collect import Collector
from megatron_longrlvr.trainer.diagnostics import build_diagnostics
from megatron_longrlvr.trainer.engines import build_engine
from megatron_longrlvr.trainer.gradient_parts import GradientParts
from megatron_longrlvr.trainer.journal import Journal, open_journal, silent_journal
from megatron_longrlvr.trainer.judging import build_scorer
from megatron_longrlvr.trainer.loop import EVAL_DUE, TrainingRun
from megatron_longrlvr.trainer.mismatch_evidence import Witness, examine
from megatron_longrlvr.trainer.mismatch_guard import MismatchGuard
from megatron_longrlvr.trainer.model_folder import model_folder
from megatron_longrlvr.trainer.run_dir import RunDir, check_prompts, fingerprint
from megatron_longrlvr.trainer.sampling import DataShare, PromptDraw, Sampler, SamplesOnDemand
from megatron_longrlvr.trainer.saving import Saver
from megatron_longrlvr.trainer.step import StepParts


def check_model(spec: ModelSpec, layout: ParallelLayout, *, longest_tokens: int) -> None:
    """Refuse a layout that cannot hold the model, or samples longer than it can read.

    Args:
        spec: The model.
        layout: How it is to be cut.
        longest_tokens: Longest prompt and response together.

    Raises:
        ConfigError: Names the key.
    """
    spec.check_layout(layout)
    if longest_tokens > spec.max_position_embeddings:
        raise ConfigError(
            f"data.max_prompt_tokens and rollout.max_response_tokens add up to {longest_tokens}; "
            f"the model reads {spec.max_position_embeddings} (max_position_embeddings)"
        )


def assemble(
    config: TrainConfig,
    groups: ProcessGroups,
    run_dir: RunDir,
    *,
    is_stop_asked: Callable[[], bool] = lambda: False,
) -> TrainingRun:
    """Build every part of a run and bring it to the last checkpoint; every rank calls this.

    Args:
        config: The recipe.
        groups: Of this rank.
        run_dir: Claimed for the recipe.
        is_stop_asked: Whether this rank was told to end the run.
    """
    tokenizer = load_tokenizer(model_folder(config.model.path))
    learner = build_learner(config, groups)
    critic = build_critic(config, groups, tokenizer)
    engine = build_engine(config, learner.policy, tokenizer)
    source, length_notes = build_prompt_source(
        config.data.train,
        tokenizer,
        max_prompt_tokens=config.data.max_prompt_tokens,
        overlong=config.data.overlong_prompts,
        allow_unreachable_evidence=config.data.allow_unreachable_evidence,
        seed=config.run.seed,
    )
    first_step, is_eval_due, digest = 0, True, source.digest()
    checkpoint = find_intact(run_dir.path, groups)
    if checkpoint is not None:
        state = load_checkpoint(checkpoint.directory, learner, critic=critic)
        check_prompts(state, digest, checkpoint=checkpoint.directory)
        source.restore(state.prompt_cursor)
        first_step, is_eval_due = state.step, EVAL_DUE in state.extra
    if critic is not None:
        critic.leave()
    engine.publish(learner.version)
    closing = ExitStack()
    closing.callback(engine.close)
    journal = _open_journal(config, groups, run_dir, first_step=first_step)
    if checkpoint is not None:
        journal.say(f"going on from {checkpoint.directory}, after step {first_step}")
    journal.say(f"{describe(config.model)}; optimizer {describe_optimizer(learner.optimizer)}")
    for note in [*length_notes, *_offload_notes(config)]:
        journal.say(note)
    scorer = build_scorer(
        config.rewards,
        groups,
        run_dir=run_dir.path,
        say=journal.say,
        is_stop_asked=is_stop_asked,
    )
    closing.callback(scorer.close)
    collector = _build_collector(config, groups, source, engine, scorer)
    if checkpoint is not None:
        collector.sampler.take_up(load_unused(checkpoint, groups))
    return TrainingRun(
        parts=replace(
            _step_parts(config, groups, learner, critic, engine, collector),
            credit=build_credit(config, tokenizer),
        ),
        evaluator=build_evaluator(config, groups, engine, tokenizer, scorer=scorer),
        trainer=config.trainer,
        diagnostics=build_diagnostics(config, groups, run_dir.path, first_step=first_step),
        groups=groups,
        tokenizer=tokenizer,
        run_dir=run_dir,
        journal=journal,
        first_step=first_step,
        is_eval_due=is_eval_due,
        prompts_digest=digest,
        saver=Saver(
            run_dir.path, learner, config.trainer, critic=critic, fingerprint=fingerprint(config)
        ),
        close=closing.close,
    )


def _offload_notes(config: TrainConfig) -> list[str]:
    if config.critic is None or not config.critic.offload or has_cuda():
        return []
    return ["critic.offload=true moves nothing: there is no GPU, and all memory is the host's"]


def _step_parts(
    config: TrainConfig,
    groups: ProcessGroups,
    learner: Learner,
    critic: Critic | None,
    engine: OwnEngine,
    collector: Collector,
) -> StepParts:
    peers = data_parallel_peers(groups)
    return StepParts(
        collector=collector,
        learner=learner,
        publisher=engine,
        algorithm=config.algorithm,
        max_response_tokens=config.rollout.max_response_tokens,
        peers=peers,
        cost=training_cost(learner.policy.spec, config.algorithm),
        guard=build_guard(config, learner.policy, engine),
        gradient_parts=GradientParts(
            every=config.trainer.gradient_parts_every,
            rewards=config.rewards,
            algorithm=config.algorithm,
            peers=peers,
        ),
        critic=critic,
    )


def _open_journal(
    config: TrainConfig, groups: ProcessGroups, run_dir: RunDir, *, first_step: int
) -> Journal:
    if groups.rank > 0:
        return silent_journal()
    return open_journal(
        config,
        run_dir.path,
        run_name=config.run.name,
        num_steps=config.trainer.steps,
        first_step=first_step,
        tensorboard=config.trainer.tensorboard,
    )


def _build_collector(
    config: TrainConfig,
    groups: ProcessGroups,
    source: PromptSource,
    engine: OwnEngine,
    scorer: RewardScorer,
) -> Collector:
    share = DataShare(
        rank=groups.dp_rank,
        size=groups.layout.dp,
        all_agree=lambda flag: all_ranks_agree(flag, groups.dp),
    )
    prompts = PromptDraw(source=source, rollout=config.rollout, share=share)
    return Collector(
        sampler=build_sampler(config, prompts, engine),
        scorer=scorer,
        rollout=config.rollout,
        algorithm=config.algorithm,
        share=share,
    )


def build_sampler(config: TrainConfig, prompts: PromptDraw, engine: OwnEngine) -> Sampler:
    """Samples step by step, or ahead of the learner where the recipe allows for staleness."""
    params = SamplingParams(
        max_response_tokens=config.rollout.max_response_tokens,
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        top_k=config.rollout.top_k,
        seed=config.run.seed,
        returns_experts=config.rollout.routing_replay,
    )
    if config.algorithm.max_staleness == 0:
        return SamplesOnDemand(prompts=prompts, engine=engine, params=params)
    assert isinstance(engine, AheadEngine), "the recipe's checks let no other engine through"
    return SamplesAhead(
        prompts,
        engine,
        params,
        max_staleness=config.algorithm.max_staleness,
        last_step=config.trainer.steps,
    )


def build_learner(config: TrainConfig, groups: ProcessGroups) -> Learner:
    """The trainable policy, and the frozen reference where a divergence penalty needs one."""
    folder = model_folder(config.model.path)
    spec = read_model_spec(folder)
    check_model(
        spec,
        groups.layout,
        longest_tokens=config.data.max_prompt_tokens + config.rollout.max_response_tokens,
    )
    if config.rollout.routing_replay and spec.experts is None:
        raise ConfigError(
            f"rollout.routing_replay=true needs a mixture of experts, and model.path="
            f"{config.model.path} is a {spec.architecture}; set it to false"
        )
    policy = load_policy(folder, spec, groups, config.model)
    policy = replace(policy, replays_routing=config.rollout.routing_replay)
    reference = None
    if config.algorithm.kl.coefficient > 0:
        reference = load_policy(folder, spec, groups, config.model)
    warmup_steps = 0 if config.critic is None else config.critic.warmup_steps
    learning_steps = config.trainer.steps - warmup_steps
    settings = LearnerSettings(
        optimizer=config.optimizer,
        num_optimizer_steps=learning_steps * config.algorithm.updates_per_step,
        temperature=config.rollout.temperature,
    )
    return Learner(policy, settings, reference=reference)


def build_critic(config: TrainConfig, groups: ProcessGroups, tokenizer: Tokenizer) -> Critic | None:
    """The value model, where the recipe has one.

    Raises:
        ConfigError: Its folder is no model that this layout and tokenizer can use.
    """
    if config.critic is None:
        return None
    path = config.critic.path or config.model.path
    folder = model_folder(path)
    spec = read_critic_spec(folder)
    longest = config.data.max_prompt_tokens + config.rollout.max_response_tokens
    check_model(spec, groups.layout, longest_tokens=longest)
    if spec.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"critic.path={path} has a vocabulary of {spec.vocab_size} and the policy's tokenizer "
            f"{tokenizer.vocab_size} tokens; use a model of the same tokenizer"
        )
    own = {"dtype": config.critic.dtype, "recompute": config.critic.recompute}
    given = {key: value for key, value in own.items() if value is not None}
    network = load_critic(folder, spec, groups, config.model.model_copy(update=given))
    num_steps = config.trainer.steps * config.algorithm.updates_per_step
    return Critic(
        network,
        config.critic,
        num_optimizer_steps=num_steps,
        is_offloaded=config.critic.offload and has_cuda(),
    )


def build_credit(config: TrainConfig, tokenizer: Tokenizer) -> SegmentCredit | None:
    """What divides advantages over the tokens of a response, where the recipe divides them."""
    if config.algorithm.credit == "sequence":
        return None
    return SegmentCredit(rewards=config.rewards, decode=tokenizer.decode)


def build_guard(config: TrainConfig, policy: Policy, engine: OwnEngine) -> MismatchGuard:
    """The watch over engine and learner; it asks the engine why where that has an answer."""
    examination = None
    # An engine over several ranks would have to be asked the same by all of them.
    is_alone = config.rollout.vllm.tensor_parallel == 1
    if isinstance(engine, Witness) and engine.can_testify and is_alone:
        witness = engine

        def examination(samples: Sequence[Sample]) -> str:
            return str(examine(policy, witness, samples, temperature=config.rollout.temperature))

    return MismatchGuard(algorithm=config.algorithm, groups=policy.groups, examine=examination)


def build_evaluator(
    config: TrainConfig,
    groups: ProcessGroups,
    engine: OwnEngine,
    tokenizer: Tokenizer,
    *,
    scorer: RewardScorer,
) -> Evaluator | None:
    """The held-out measurement, where the recipe has one."""
    if config.evaluation is None:
        return None
    source, _ = build_prompt_source(
        config.evaluation.data,
        tokenizer,
        max_prompt_tokens=config.data.max_prompt_tokens,
        overlong=config.data.overlong_prompts,
        allow_unreachable_evidence=config.data.allow_unreachable_evidence,
        seed=config.evaluation.seed,
    )
    prompts = source.draw(config.evaluation.num_prompts)
    return Evaluator(
        config=config.evaluation,
        prompts=prompts[groups.dp_rank :: groups.layout.dp],
        engine=engine,
        scorer=scorer,
        max_response_tokens=config.rollout.max_response_tokens,
        groups=groups,
    )


def data_parallel_peers(groups: ProcessGroups) -> Peers:
    """The ranks that groups and questions are dealt to."""
    return Peers(
        rank=groups.dp_rank,
        size=groups.layout.dp,
        gather=lambda value: gather_objects(value, groups.dp),
    )


def training_cost(spec: ModelSpec, algorithm: AlgorithmConfig) -> GroupCost:
    """FLOPs of training on a group."""

    def cost(shape: GroupShape) -> float:
        work = group_work(
            shape.num_prompt_tokens, shape.response_tokens, shared_prompt=algorithm.shared_prompt
        )
        return forward_flops(spec, work)

    return cost
