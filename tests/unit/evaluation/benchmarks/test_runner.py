"""Asking a benchmark: every question once, whole groups of samples, and going on after a stop."""

import json

import pytest

from megatron_longrlvr.config.benchmark import BenchmarkRunConfig
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.errors import ConfigError, DataError
from megatron_longrlvr.evaluation.benchmarks.command import read_questions
from megatron_longrlvr.evaluation.benchmarks.outputs import OutputsFile
from megatron_longrlvr.evaluation.benchmarks.prompts import PromptWriter
from megatron_longrlvr.evaluation.benchmarks.runner import ask_questions
from megatron_longrlvr.evaluation.scoring.collect import measure_file
from megatron_longrlvr.rollout.scripted import ScriptedEngine, ScriptedResponse
from megatron_longrlvr.stages import FinishReason
from tests.support.byte_tokenizer import save_byte_tokenizer
from tests.unit.evaluation.benchmarks.benchmark_files import longbench, save_json, squad


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(save_byte_tokenizer(tmp_path_factory.mktemp("bytes")))


@pytest.fixture
def ruler(tmp_path):
    path = save_json(tmp_path / "squad.json", squad())
    return {"kind": "ruler_qa", "squad": str(path), "lengths": [1500]}


def make_config(source, **changes):
    settings = {"max_prompt_tokens": 2000, "max_response_tokens": 200, "samples_per_question": 2}
    return BenchmarkRunConfig(source=source, **{**settings, **changes})


def answer_rightly(_step, prompt, _index):
    ids = "".join(f"<CHUNK_{chunk_id}>" for chunk_id in prompt.evidence_chunk_ids)
    answer = prompt.reference_answers[0]
    text = f"<useful_chunks>{ids}</useful_chunks><answer>{answer}</answer>"
    return ScriptedResponse(text=text)


class Stopped(Exception):  # noqa: N818
    pass


def ask(config, tokenizer, folder, *, script=answer_rightly, stop_after=None):
    outputs = OutputsFile(folder=folder, samples_per_question=config.samples_per_question)
    done = outputs.open(config.model_dump(mode="json"))
    writer = PromptWriter(config=config, tokenizer=tokenizer)
    batches = []

    def on_progress(size):
        batches.append(size)
        if len(batches) == stop_after:
            raise Stopped

    return ask_questions(
        read_questions(config, writer, done=done),
        config=config,
        writer=writer,
        engine=ScriptedEngine(script, tokenizer),
        outputs=outputs,
        on_progress=on_progress,
    )


@pytest.mark.parametrize("prompt", ["chunks", "plain"])
def test_right_answers_with_right_citations_score_full_marks(tokenizer, ruler, tmp_path, prompt):
    counts = ask(make_config(ruler, prompt=prompt), tokenizer, tmp_path / "out")
    assert (counts.num_asked, counts.num_cut, counts.num_aborted) == (6, 0, 0)
    measurements = measure_file(tmp_path / "out" / "outputs.jsonl").measurements
    assert len(measurements) == 12
    assert {one.cell for one in measurements} == {"qa_1/1500"}
    assert all(one.scores["strict"] == 1.0 and one.evidence.f2 == 1.0 for one in measurements)


def test_stopped_run_goes_on_to_the_same_outputs(tokenizer, ruler, tmp_path):
    config = make_config(ruler, questions_per_batch=2)
    ask(config, tokenizer, tmp_path / "straight")
    with pytest.raises(Stopped):
        ask(config, tokenizer, tmp_path / "stopped", stop_after=2)
    path = tmp_path / "stopped" / "outputs.jsonl"
    # As after a crash while the second sample of question 4 was written.
    path.write_bytes(path.read_bytes()[:-30])
    counts = ask(config, tokenizer, tmp_path / "stopped")
    assert counts.num_asked == 3
    assert path.read_bytes() == (tmp_path / "straight" / "outputs.jsonl").read_bytes()


def test_finished_run_asks_nothing(tokenizer, ruler, tmp_path):
    config = make_config(ruler)
    ask(config, tokenizer, tmp_path / "out")
    assert ask(config, tokenizer, tmp_path / "out").num_asked == 0


def test_question_that_the_engine_gave_up_is_asked_again(tokenizer, ruler, tmp_path):
    def give_up_on_rome(step, prompt, index):
        if "Rome" in prompt.question and index == 1:
            return ScriptedResponse(text="", finish_reason=FinishReason.ABORTED)
        return answer_rightly(step, prompt, index)

    config = make_config(ruler)
    counts = ask(config, tokenizer, tmp_path / "out", script=give_up_on_rome)
    assert (counts.num_asked, counts.num_aborted) == (6, 1)
    assert ask(config, tokenizer, tmp_path / "out").num_asked == 1


@pytest.mark.parametrize("prompt", ["chunks", "plain"])
def test_long_document_loses_its_middle(tokenizer, tmp_path, prompt):
    context = "start " + "middle " * 1000 + "finish"
    path = save_json(tmp_path / "lb.json", [longbench(context=context)])
    source = {"kind": "longbench_v2", "path": str(path)}
    config = make_config(source, prompt=prompt, chunk_tokens=200)
    writer = PromptWriter(config=config, tokenizer=tokenizer)
    (question,) = read_questions(config, writer)
    prepared = writer.prepare(question)
    assert prepared.was_cut
    assert 1800 < len(prepared.prompt.token_ids) <= 2000
    document = "".join(prepared.prompt.chunks)
    assert document.startswith("start middle")
    assert document.endswith("middle finish")
    assert ask(config, tokenizer, tmp_path / "out").num_cut == 1
    (line, _) = (tmp_path / "out" / "outputs.jsonl").read_text().splitlines()
    assert json.loads(line)["was_cut"] is True


def test_outputs_of_other_settings_are_not_mixed(tokenizer, ruler, tmp_path):
    ask(make_config(ruler), tokenizer, tmp_path / "out")
    with pytest.raises(ConfigError, match="other settings"):
        ask(make_config(ruler, temperature=1.0), tokenizer, tmp_path / "out")


@pytest.mark.parametrize("line", [b"{}\n", b'{"prompt_id": "\xff"}\n'], ids=["no-id", "no-utf-8"])
def test_foreign_line_is_named_and_nothing_is_lost(tokenizer, ruler, tmp_path, line):
    config = make_config(ruler)
    ask(config, tokenizer, tmp_path / "out")
    path = tmp_path / "out" / "outputs.jsonl"
    path.write_bytes(content := line + path.read_bytes())
    with pytest.raises(DataError, match=r"outputs\.jsonl:1: not an output"):
        ask(config, tokenizer, tmp_path / "out")
    assert path.read_bytes() == content


def test_lengths_above_the_prompt_limit_are_refused(tokenizer, ruler):
    config = make_config({**ruler, "lengths": [8000]})
    with pytest.raises(ConfigError, match="above max_prompt_tokens=2000"):
        read_questions(config, PromptWriter(config=config, tokenizer=tokenizer))


def test_repeated_id_is_refused(tokenizer, tmp_path):
    path = save_json(tmp_path / "lb.json", [longbench(), longbench()])
    config = make_config({"kind": "longbench_v2", "path": str(path)})
    with pytest.raises(DataError, match=r"lb.json:2: id 'x1' is already taken by .*lb.json:1"):
        read_questions(config, PromptWriter(config=config, tokenizer=tokenizer))
