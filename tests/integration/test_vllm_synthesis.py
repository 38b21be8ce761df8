"""A synthesis asks a real vLLM server with a real, small language model; about the plumbing alone.

Promise: every request is understood by the server, every reply has the form that was asked for
unless it was cut, each question that is asked ends as a row or with all of its replies in
quarantine, and the same command asks nothing again. What SmolLM2-135M writes is worth nothing.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from megatron_longrlvr.cli import main
from megatron_longrlvr.rollout.server_process import ServerCommand, start_servers
from tests.support.synthesis_corpus import make_document
from tests.support.synthesis_server import synthesis_content
from tests.support.vllm_runs import needs_vllm

SMOLLM2 = Path(__file__).parents[2] / "models" / "smollm2" / "hf"

pytestmark = [
    needs_vllm,
    pytest.mark.skipif(
        not SMOLLM2.is_dir(),
        reason="bash launch/quickstart.sh --recipe smollm2_cpu makes the model",
    ),
]

NUM_QUESTIONS = 3 * 2  # of each of two clusters
START_TIMEOUT_S = 500.0
MAX_TOKENS = 120


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    options = {
        "--model": SMOLLM2,
        "--served-model-name": "smollm2",
        "--dtype": "float32",
        "--max-model-len": 4096,
        "--max-num-seqs": 8,
        "--kv-cache-memory-bytes": 2**29,
    }
    command = ServerCommand(
        arguments=[
            *(str(part) for option in options.items() for part in option),
            "--enforce-eager",
        ],
        environment={
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "TORCHDYNAMO_DISABLE": "1",
        },
    )
    logs = tmp_path_factory.mktemp("logs")
    (process,) = start_servers(command, count=1, logs=logs, timeout_s=START_TIMEOUT_S)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory):
    """The run's directory, its recipe and the exit code."""
    folder = tmp_path_factory.mktemp("synthesis")
    (folder / "document.txt").write_text(make_document(10))
    model = {
        "model": "smollm2",
        "max_tokens": MAX_TOKENS,
        "attempts": 2,
        "structured_output": "json_schema",
        "endpoints": [{"url": f"{server.url}/v1", "max_concurrent": 8}],
    }
    judge = {key: model[key] for key in ("model", "max_tokens", "structured_output", "endpoints")}
    content = synthesis_content(
        folder / "run",
        f"{server.url}/v1",
        documents=folder / "document.txt",
        tokenizer=SMOLLM2,
        models={"writer": model, "small": model, "strong": model},
        answers={"judge": judge},
        clean__min_tokens=200,
        chunk__max_tokens=130,
        clean__languages=[],
        select__min_score=1.0,
        cluster={"drawn": 2, "min_clusters": 2},
    )
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    return folder / "run", recipe, main(["data", "run", str(recipe)])


def count_rows(run_dir, stage):
    (path,) = run_dir.glob(f"*-{stage}/rows.parquet")
    return pq.read_table(path).num_rows


def quarantined(run_dir, stage):
    (path,) = run_dir.glob(f"*-{stage}/quarantine.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def counts(run_dir, stage):
    (path,) = run_dir.glob(f"*-{stage}/manifest.json")
    return json.loads(path.read_text())["counts"]


def test_every_stage_runs_to_its_end(finished):
    run_dir, _, exit_code = finished
    # 1: nothing that the model wrote is left, which is no wonder.
    assert exit_code in {0, 1}
    assert len([*run_dir.glob("*-*/manifest.json")]) == 12
    assert counts(run_dir, "cluster")["rows"] == 2


def test_each_question_is_a_row_or_stands_in_quarantine_with_its_replies(finished):
    run_dir = finished[0]
    lost = quarantined(run_dir, "generate")
    skipped = counts(run_dir, "generate").get("dropped/skipped_by_model", 0)
    assert count_rows(run_dir, "generate") + len(lost) + skipped == NUM_QUESTIONS
    assert all(len(one["attempts"]) == 2 for one in lost)
    rated = count_rows(run_dir, "score") + len(quarantined(run_dir, "score"))
    assert rated == count_rows(run_dir, "generate")


def test_replies_have_the_form_that_was_asked_for(finished):
    attempts = [
        attempt
        for stage in ("generate", "score", "difficulty", "evidence")
        for one in quarantined(finished[0], stage)
        for attempt in one["attempts"]
    ]
    # Cut, or wrong in what they say: a grammar cannot keep a model from either.
    assert {attempt["fault"] for attempt in attempts} <= {"cut", "wrong_content"}
    assert all(attempt["raw"] for attempt in attempts)


def test_the_same_command_asks_nothing_again(finished, server):
    run_dir, recipe, exit_code = finished
    before = {path: path.read_bytes() for path in run_dir.glob("*-*/*") if path.is_file()}
    server.stop()
    # Without a reply to any request, the command would end with 75.
    assert main(["data", "run", str(recipe)]) == exit_code
    assert {path: path.read_bytes() for path in before} == before
