"""What the contenders of the update benchmark work on, and how they talk to it.

A contender is a process. It reads one JSON object per line, ``{"prompt": P, "response": R,
"group": G}``, and answers with ``{"logprobs_s": ..., "update_s": ...}``: seconds of a pass for
log-probabilities, and of forward, backward and one AdamW step on a group of G responses of R
tokens to one prompt of P tokens. fp32; token ids and advantages are random.

Seconds are CPU time of the process, which has one thread: on an idle machine that is wall-clock
time, and on a busy one the time it waited for a core does not count. Everything is done twice and
the second time counts, when its memory is at hand, as in a run of many steps; then the memory is
given back, so that contenders which wait do not fill the machine.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

LEARNING_RATE = 1e-6
CLIP_LOW, CLIP_HIGH = 0.2, 0.28


@dataclass(frozen=True)
class Shape:
    """One group."""

    prompt: int
    response: int
    group: int


def config_of(model: str, *, longest: int) -> dict:
    """``config.json`` of a model by name; only its sizes matter to a stopwatch."""
    sizes = {
        "tiny": {
            "vocab_size": 8192,
            "hidden_size": 256,
            "intermediate_size": 688,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
        },
        "smollm2-135m": {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
    }[model]
    return {"max_position_embeddings": longest, "rope_theta": 10000.0, **sizes}


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def serve(answer: Callable[[Shape], dict[str, float]]) -> None:
    """Answer shapes from standard input until it ends."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        shape = Shape(**json.loads(line))
        answer(shape)
        seconds = answer(shape)
        if release is not None:
            release(0)
        print(json.dumps(seconds), flush=True)
