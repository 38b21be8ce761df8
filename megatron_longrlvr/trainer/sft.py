"""Supervised training on demonstrations of the toy task: how its starting model is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.config.sft import DemonstrationKind, SftRunConfig
from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.data.build import build_prompt_source
from megatron_longrlvr.data.tokenizer import Tokenizer, load_tokenizer
from megatron_longrlvr.data.toy_source import ToyPromptSource
from megatron_longrlvr.data.toy_task import ToyTask
from megatron_longrlvr.data.toy_tokenizer import toy_vocabulary, write_toy_tokenizer
from megatron_longrlvr.evaluation.runner import Evaluator
from megatron_longrlvr.model.hf_export import export_policy
from megatron_longrlvr.model.hf_writer import save_hf_folder
from megatron_longrlvr.model.initialization import random_hf_tensors
from megatron_longrlvr.model.learner import Learner, LearnerSettings
from megatron_longrlvr.model.policy import load_policy
from megatron_longrlvr.model.spec import read_model_spec, spec_from_new
from megatron_longrlvr.observability.step_metrics import update_metrics
from megatron_longrlvr.parallel.groups import ProcessGroups, launched_world_size
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.rewards.scorer import RewardScorer
from megatron_longrlvr.rollout.megatron_engine import MegatronEngine
from megatron_longrlvr.stages import (
    AdvantageBatch,
    FinishReason,
    PackedBatch,
    PolicyVersion,
    Prompt,
    Sample,
    ScoredSample,
)
from megatron_longrlvr.trainer.assembly import check_model, data_parallel_peers, model_folder
from megatron_longrlvr.trainer.interrupt import StopRequest
from megatron_longrlvr.trainer.journal import open_journal, silent_journal
from megatron_longrlvr.trainer.run_dir import RunDir
from megatron_longrlvr.trainer.schedule import Every
from megatron_longrlvr.trainer.session import STOPPED_EXIT_CODE, process_groups, share_run_dir

# Steps between two lines on the display.
_SHOW_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """Deals batches of demonstrations, stage after stage."""

    config: SftRunConfig
    tokenizer: Tokenizer
    groups: ProcessGroups

    @property
    def num_steps(self) -> int:
        return sum(stage.steps for stage in self.config.demonstrations.stages)

    def batches(self) -> Iterator[PackedBatch]:
        """This data-parallel rank's share of each step's batch."""
        step = 0
        for stage in self.config.demonstrations.stages:
            sources = [ToyPromptSource(kind.task, self.tokenizer) for kind in stage.kinds]
            for turn in range(stage.steps):
                step += 1
                place = turn % len(sources)
                samples = self._draw(sources[place], stage.kinds[place])
                yield self._pack(step, samples[self.groups.dp_rank :: self.groups.layout.dp])

    def _draw(self, source: ToyPromptSource, kind: DemonstrationKind) -> list[Sample]:
        task, start = ToyTask(kind.task), source.state()
        prompts = source.draw(self.config.demonstrations.batch_size)
        return [
            self._sample(prompt, task, start + place, kind) for place, prompt in enumerate(prompts)
        ]

    def _sample(self, prompt: Prompt, task: ToyTask, index: int, kind: DemonstrationKind) -> Sample:
        text = task.demonstration(index, citation_accuracy=kind.citation_accuracy)
        token_ids = (*self.tokenizer.encode(text), min(self.tokenizer.stop_ids))
        return Sample(
            prompt=prompt,
            sample_index=0,
            token_ids=token_ids,
            text=text,
            behavior_logprobs=(0.0,) * len(token_ids),
            finish_reason=FinishReason.STOP,
            policy_version=PolicyVersion(0),
        )

    def _pack(self, step: int, samples: list[Sample]) -> PackedBatch:
        batch = AdvantageBatch(
            step=step,
            scored=[_as_scored(sample) for sample in samples],
            advantages=[0.0] * len(samples),
            num_groups=len(samples),
            num_dropped_groups=0,
        )
        (packed,) = pack(
            batch,
            config=AlgorithmConfig(
                micro_batch_tokens=self.config.demonstrations.micro_batch_tokens
            ),
            max_response_tokens=self.config.max_response_tokens,
            peers=data_parallel_peers(self.groups),
        )
        return packed


def run_sft(config: SftRunConfig) -> int:
    """Train on the recipe's demonstrations and write the result to ``hf/``; on every rank.

    Returns:
        Exit code: 0, or ``STOPPED_EXIT_CODE`` when stopped by a signal.
    """
    layout = ParallelLayout.from_config(config.layout, launched_world_size())
    stop = StopRequest()
    with process_groups(layout, seed=config.run.seed) as groups:
        run_dir = share_run_dir(config, Path(config.run.dir), groups)
        folder = _starting_folder(config, run_dir, groups)
        tokenizer = load_tokenizer(folder)
        demonstrations = Demonstrations(config=config, tokenizer=tokenizer, groups=groups)
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
                if packed.step % _SHOW_EVERY == 0:
                    loss = stats.metrics["loss"]
                    journal.say(f"step {packed.step}/{demonstrations.num_steps}  loss {loss:.4f}")
                if Every(config.export_every).is_due(packed.step):
                    step_folder = run_dir.path / f"hf_{packed.step:06d}"
                    export_policy(learner.policy, step_folder, tokenizer_folder=folder)
                if stop.signal_name is not None:
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


def _as_scored(sample: Sample) -> ScoredSample:
    return ScoredSample(
        sample=sample,
        reward=0.0,
        reward_parts={},
        cited_chunk_ids=(),
        answer=None,
        parse_outcome="",
        is_valid=True,
    )
