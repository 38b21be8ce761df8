"""Measure how close concurrent judging comes to the time that the judge's latency allows.

    python tools/benchmark_judge.py --record tests/records/judge.json

A real HTTP server in a process of its own answers every request after 50 ms. At best, 256 verdicts
with 64 under way take 256 / 64 * 50 ms = 200 ms. The same client is measured at one request after
another in the same run. Connections are open before the clock starts; no verdict is cached.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.config.judge import JudgeConfig
from megatron_longrlvr.observability.provenance import record_header
from megatron_longrlvr.rewards.judge.query import JudgeQuery
from megatron_longrlvr.rewards.judge.service import JudgeService, open_judge
from megatron_longrlvr.stages import Verdict
from tests.support.judge_server import JudgeServer, Reply, Request, verdict

LATENCY_S = 0.05
NUM_VERDICTS = 256
CONCURRENCY = 64


def main() -> None:
    """Read arguments, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="of concurrent judging")
    parser.add_argument("--record", type=Path, help="write the measurement here")
    arguments = parser.parse_args()
    with serve() as url:
        concurrent = measure(url, max_concurrent=CONCURRENCY, rounds=arguments.rounds)
        (serial,) = measure(url, max_concurrent=1, rounds=1)
    record = describe(concurrent, serial)
    print(json.dumps(record, indent=1))
    if arguments.record is not None:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def answer_late(request: Request) -> Reply:
    """Yes, after the latency."""
    return verdict(bool(request), latency_s=LATENCY_S)


@contextmanager
def serve() -> Iterator[str]:
    """A server in another process; yields its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("end")
        process.join()


def _serve(pipe: Connection) -> None:
    with JudgeServer(answer_late) as server:
        pipe.send(server.url)
        pipe.recv()


def measure(url: str, *, max_concurrent: int, rounds: int) -> list[float]:
    """Seconds of each round."""
    endpoint = {"url": url, "max_concurrent": max_concurrent}
    content = {"model": "m", "endpoints": [endpoint], "cache": None}
    judge = open_judge(JudgeConfig.model_validate(content), run_dir=None)
    try:
        time_round(judge, "warm", max_concurrent)
        return [time_round(judge, str(index), NUM_VERDICTS) for index in range(rounds)]
    finally:
        judge.close()


def time_round(judge: JudgeService, name: str, num_verdicts: int) -> float:
    """Seconds from the first question to the last verdict."""
    queries = [
        JudgeQuery(
            question="Which city is the capital of the country?",
            references=("Paris",),
            answer=f"It is Paris, as the document says in chunk {index} of {name}.",
        )
        for index in range(num_verdicts)
    ]
    started = time.perf_counter()
    judgements = judge.collect(queries)
    seconds = time.perf_counter() - started
    assert all(one.verdict is Verdict.YES for one in judgements), "the server always says yes"
    return seconds


def describe(concurrent: list[float], serial: float) -> dict[str, object]:
    """The measurement with what it was taken on."""
    ideal = NUM_VERDICTS / CONCURRENCY * LATENCY_S
    median, best = statistics.median(concurrent), min(concurrent)
    return {
        **record_header(
            f"seconds for {NUM_VERDICTS} verdicts at {LATENCY_S * 1000:g} ms latency, "
            f"{CONCURRENCY} under way",
            more_libraries=["httpcore2"],
        ),
        "ideal_seconds": ideal,
        "seconds": [round(seconds, 3) for seconds in concurrent],
        "median_over_ideal": round(median / ideal, 2),
        "best_over_ideal": round(best / ideal, 2),
        "one_after_another_seconds": round(serial, 2),
        "median_times_faster": round(serial / median, 1),
        "best_times_faster": round(serial / best, 1),
    }


if __name__ == "__main__":
    main()
