"""Run directories for reports: any number of rollouts, and texts that attack the page."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.metric_log import MetricKind, MetricLog, MetricRecord
from megatron_longrlvr.observability.samples import SampleRecord, heldout_path, samples_path

CONFIG = {
    "kind": "train",
    "run": {"name": "toy", "dir": "runs/toy", "seed": 0},
    "model": {"path": "models/start"},
    "rewards": {"variant": "longrlvr", "context": {"beta": 2.0, "eta": 0.1}},
    "trainer": {"steps": 40},
}
NUM_CHUNKS = 12

ATTACKS = (
    "</script><script>window.attacked = 1</script>",
    "<img src=x onerror='window.attacked = 2'>",
    "<!-- <script> ]]> </textarea></style></div></table><svg onload='window.attacked = 3'>",
    "\u202eright to left override\u2066 and an isolate that never ends",
    "\u2028line separator \x00 nothing \ud83d half a pair {{ 7 * 7 }} ${7 * 7} `",
)
"""What a document or a policy may hold; each tries to set ``window.attacked`` or to break text."""


def sample_record(draw: random.Random, *, step: int, prompt: str, index: int) -> SampleRecord:
    """A response whose prompt, evidence and document depend on the prompt's id alone."""
    fixed = random.Random(prompt)
    evidence = sorted(fixed.sample(range(NUM_CHUNKS), 2))
    cited = [chunk for chunk in range(NUM_CHUNKS) if draw.random() < 0.2] or [0]
    found = len(set(cited) & set(evidence))
    precision, recall = found / len(cited), found / 2
    f_beta = 5 * precision * recall / (4 * precision + recall) if found else 0.0
    answer = float(recall == 1)
    return SampleRecord(
        step=step,
        prompt_id=prompt,
        sample_index=index,
        question=f"Which ship is meant in {prompt}?",
        chunks=[f"chunk {chunk} of {prompt}: {fixed.random():.6f}" for chunk in range(NUM_CHUNKS)],
        evidence_chunk_ids=evidence,
        cited_chunk_ids=cited,
        answer="the heron" if answer else "the otter",
        reference_answers=["heron"],
        reward=answer + f_beta * (0.1 + 0.9 * answer),
        reward_parts={
            "answer": answer,
            "context_f_beta": f_beta,
            "context_precision": precision,
            "context_recall": recall,
            "format_ok": 1.0,
        },
        response_text=f"I looked at {len(cited)} chunks at step {step} and thought of {prompt}.",
        num_response_tokens=20 + index,
        finish_reason="stop",
        policy_version=step - 1,
        parse_outcome="ok",
        is_valid=True,
    )


def write_run(
    run_dir: Path,
    *,
    name: str = "toy",
    steps: int = 40,
    rollouts_per_file: int = 16,
    sample_every: int = 10,
    texts: tuple[str, ...] = (),
) -> Path:
    """A whole run directory with curves that rise.

    Args:
        run_dir: Made.
        name: Of the run.
        steps: Training steps.
        rollouts_per_file: In groups of 4.
        sample_every: Steps between two sample files.
        texts: Put into question, document, answer, response and prompt id of the first samples.
    """
    draw = random.Random(name)
    run_dir.mkdir(parents=True)
    config = {**CONFIG, "run": {**CONFIG["run"], "name": name}}
    (run_dir / "config.json").write_text(json.dumps(config))
    log = MetricLog(run_dir / "metrics.jsonl")
    for step in range(steps + 1):
        level = 1 - math.exp(-3 * step / steps)
        if step:
            log.append(MetricRecord(step=step, kind=MetricKind.TRAIN, metrics=_train(draw, level)))
        if step % sample_every == 0:
            log.append(MetricRecord(step=step, kind=MetricKind.EVAL, metrics=_heldout(level)))
            _write_samples(run_dir, draw, step, rollouts_per_file, texts)
    log.close()
    return run_dir


def _train(draw: random.Random, level: float) -> dict[str, float]:
    measured = {
        names.REWARD_MEAN: level + draw.gauss(0, 0.05),
        names.REWARD_ANSWER_MEAN: level / 2,
        names.REWARD_CONTEXT_F_BETA_MEAN: level,
        names.ROLLOUT_RESPONSE_TOKENS: 4000,
        names.ROLLOUT_RESPONSE_TOKENS_MEAN: 20.0,
        names.TIMING_STEP_S: 3.0,
        names.TIMING_GENERATE_S: 2.0,
        names.TIMING_UPDATE_S: 0.5,
        names.SIGNAL_FLAT_ANSWER_FRAC: 1 - level,
        names.SIGNAL_FLAT_REWARD_FRAC: 0.0,
        names.ALARM_RAISED: 0.0,
    }
    for tenth in range(names.NUM_DECILES):
        bend = 0.5 + abs(tenth - 4.5) / 9
        measured[names.grounding_by_decile(tenth, "recall")] = level * bend
    return measured


def _heldout(level: float) -> dict[str, float]:
    return {
        names.EVAL_CONTEXT_F_BETA_MEAN: level,
        names.EVAL_CONTEXT_F_BETA_STDERR: 0.02,
        names.EVAL_ANSWER_MEAN: level / 2,
        names.EVAL_ANSWER_STDERR: 0.03,
    }


def _write_samples(
    run_dir: Path, draw: random.Random, step: int, count: int, texts: tuple[str, ...]
) -> None:
    if step:
        records = [
            sample_record(draw, step=step, prompt=f"s{step}p{index // 4}", index=index % 4)
            for index in range(count)
        ]
        records = [_with_text(record, texts) for record in records]
        _write(samples_path(run_dir, step), records)
    heldout = [sample_record(draw, step=step, prompt=f"held{index}", index=0) for index in range(3)]
    _write(heldout_path(run_dir, step), heldout)


def _with_text(record: SampleRecord, texts: tuple[str, ...]) -> SampleRecord:
    if not texts:
        return record
    attack = texts[record.sample_index % len(texts)]
    fields = {name: getattr(record, name) for name in record.__slots__}
    changed = {
        "question": f"question {texts[0]}",
        "chunks": [*texts, *record.chunks[len(texts) :]],
        "answer": attack,
        "response_text": " and ".join(texts),
        "prompt_id": f"{record.prompt_id} {texts[0]}",
        "parse_outcome": attack,
    }
    return SampleRecord(**{**fields, **changed})


def _write(path: Path, records: list[SampleRecord]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({name: getattr(one, name) for name in one.__slots__}) for one in records)
    path.write_text("".join(f"{line}\n" for line in lines))
