"""Supervised training on demonstrations: how a starting model learns the format."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist

from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.config.sft import SftRunConfig
from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.data.build import build_prompt_source
from megatron_longrlvr.data.tokenizer import Tokenizer, load_tokenizer
from megatron_longrlvr.data.toy_tokenizer import toy_vocabulary, write_toy_tokenizer
from megatron_longrlvr.evaluation.runner import Evaluator
from megatron_longrlvr.model.hf_export import export_policy
from megatron_longrlvr.model.hf_writer import save_hf_folder
from megatron_longrlvr.model.initialization import random_hf_tensors
from megatron_longrlvr.model.learner import Learner, LearnerSettings
from megatron_longrlvr.model.policy import load_policy
from megatron_longrlvr.model.spec import read_model_spec, spec_from_new
from megatron_longrlvr.observability.step_metrics import update_metrics
from megatron_longrlvr.parallel.collectives import all_ranks_agree
from megatron_longrlvr.parallel.groups import ProcessGroups, launched_world_size
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.rewards.scorer import RewardScorer
from megatron_longrlvr.rollout.megatron_engine import MegatronEngine
from megatron_longrlvr.trainer.assembly import check_model, data_parallel_peers
from megatron_longrlvr.trainer.demonstrations import Demonstrations
from megatron_longrlvr.trainer.interrupt import StopRequest
from megatron_longrlvr.trainer.journal import open_journal, silent_journal
from megatron_longrlvr.trainer.model_folder import model_folder
from megatron_longrlvr.trainer.run_dir import RunDir
from megatron_longrlvr.trainer.schedule import Every
from megatron_longrlvr.trainer.session import (
    STOPPED_EXIT_CODE,
    held_run_dir,
    process_groups,
    share_run_dir,
)

# At most so many steps between two lines on the display.
_SHOW_EVERY = 50


def run_sft(config: SftRunConfig) -> int:
    """Train on the recipe's demonstrations and write the result to ``hf/``; on every rank.

    Returns:
        Exit code: 0, or ``STOPPED_EXIT_CODE`` when stopped by a signal.
    """
    layout = ParallelLayout.from_config(config.layout, launched_world_size())
    stop = StopRequest()
    path = Path(config.run.dir)
    with process_groups(layout, seed=config.run.seed) as groups, held_run_dir(path, groups):
        run_dir = share_run_dir(config, path, groups)
        folder = _starting_folder(config, run_dir, groups)
        tokenizer = load_tokenizer(folder)
        demonstrations = Demonstrations(
            config=config,
            tokenizer=tokenizer,
            peers=data_parallel_peers(groups),
            num_ranks=layout.dp,
        )
        show = Every(min(_SHOW_EVERY, max(1, demonstrations.num_steps // 10)))
        learner = _build_learner(config, folder, groups, demonstrations.num_steps)
        journal = silent_journal()
        if groups.rank == 0:
            journal = open_journal(
                config,
                run_dir.path,
                run_name=config.run.name,
                num_steps=demonstrations.num_steps,
                first_step=0,
                tensorboard=False,
            )
        try:
            for packed in demonstrations.batches():
                stats = learner.imitate(packed)
                journal.record_quietly(packed.step, update_metrics(stats.metrics))
                if show.is_due(packed.step):
                    loss = stats.metrics["loss"]
                    journal.say(f"step {packed.step}/{demonstrations.num_steps}  loss {loss:.4f}")
                if Every(config.export_every).is_due(packed.step):
                    step_folder = run_dir.path / f"hf_{packed.step:06d}"
                    export_policy(learner.policy, step_folder, tokenizer_folder=folder)
                # A signal reaches the ranks at different moments; they stop after the same step.
                if not all_ranks_agree(stop.signal_name is None, groups.world):
                    return STOPPED_EXIT_CODE
            for temperature in (1.0, 0.0):
                evaluator = _build_evaluator(config, learner, tokenizer, temperature)
                if evaluator is not None:
                    metrics, _ = evaluator.evaluate()
                    journal.say(f"at temperature {temperature:g}:")
                    journal.record_eval(demonstrations.num_steps, metrics)
            export_policy(learner.policy, run_dir.path / "hf", tokenizer_folder=folder)
        finally:
            journal.close()
        if groups.rank == 0:
            run_dir.mark_finished(demonstrations.num_steps)
    return 0


def _starting_folder(config: SftRunConfig, run_dir: RunDir, groups: ProcessGroups) -> Path:
    """The folder to start from; random weights are drawn into ``random/`` first."""
    if config.model.new is None:
        assert config.model.path is not None, "the schema asks for one of the two"
        return model_folder(config.model.path)
    folder = run_dir.path / "random"
    if groups.rank == 0 and not folder.exists():
        tokenizer_folder = run_dir.path / "tokenizer"
        tokenizer_folder.mkdir(exist_ok=True)
        write_toy_tokenizer(tokenizer_folder)
        spec = spec_from_new(config.model.new, len(toy_vocabulary()))
        tensors = random_hf_tensors(spec, seed=config.run.seed)
        save_hf_folder(folder, tensors, spec, tokenizer_folder=tokenizer_folder)
    dist.barrier(group=groups.world)
    return folder


def _build_learner(
    config: SftRunConfig, folder: Path, groups: ProcessGroups, num_steps: int
) -> Learner:
    spec = read_model_spec(folder)
    check_model(spec, groups.layout, longest_tokens=config.max_response_tokens)
    compute = config.model.model_dump(exclude={"path", "new"})
    policy = load_policy(folder, spec, groups, ModelConfig(path=str(folder), **compute))
    settings = LearnerSettings(
        optimizer=config.optimizer, num_optimizer_steps=num_steps, temperature=1.0
    )
    return Learner(policy, settings)


def _build_evaluator(
    config: SftRunConfig, learner: Learner, tokenizer: Tokenizer, temperature: float
) -> Evaluator | None:
    if config.evaluation is None:
        return None
    evaluation = config.evaluation.model_copy(update={"temperature": temperature})
    source, _ = build_prompt_source(
        evaluation.data, tokenizer, max_prompt_tokens=2**31, overlong="refuse", seed=evaluation.seed
    )
    groups = learner.policy.groups
    engine = MegatronEngine(
        learner.policy, tokenizer, max_concurrent_samples=256, stop_ids=tokenizer.stop_ids
    )
    engine.publish(learner.version)
    return Evaluator(
        config=evaluation,
        prompts=source.draw(evaluation.num_prompts)[groups.dp_rank :: groups.layout.dp],
        engine=engine,
        scorer=RewardScorer(RewardsConfig(answer="unordered")),
        max_response_tokens=config.max_response_tokens,
        groups=groups,
    )
