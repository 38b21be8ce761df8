"""The command line: what it accepts, what it prints, and which exit code a mistake gets."""

import json
import subprocess
import sys

import pytest

from megatron_longrlvr import cli
from megatron_longrlvr.cli import USAGE_EXIT_CODE, main
from megatron_longrlvr.errors import CheckpointWriterKilled

CONFIG = {
    "kind": "train",
    "run": {"name": "r", "dir": "runs/r"},
    "model": {"path": "nowhere"},
    "data": {"train": {"kind": "toy"}, "max_prompt_tokens": 100},
    "rollout": {"prompts_per_step": 4, "max_response_tokens": 8},
    "algorithm": {"micro_batch_tokens": 100},
    "optimizer": {"lr": 0.001},
    "trainer": {"steps": 5},
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(CONFIG))
    return str(path)


@pytest.mark.parametrize(
    "command", ["train", "sft", "evaluate", "score", "report", "audit", "plan", "theory"]
)
def test_help_of_each_command_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"longrlvr {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["trainer.steps=9", "--dry-run"], id="before-the-option"),
        pytest.param(["--dry-run", "trainer.steps=9"], id="behind-the-option"),
    ],
)
def test_dry_run_prints_the_resolved_configuration(recipe, arguments, capsys):
    assert main(["train", recipe, *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["trainer"]["steps"] == 9
    assert printed["rewards"]["context"] == {"beta": 2.0, "eta": 0.1}


def test_dry_run_does_not_import_torch(recipe):
    code = (
        "import sys; from megatron_longrlvr.cli import main; "
        f"main(['train', {recipe!r}, '--dry-run']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["trainer.stps=9"], "did you mean 'trainer.steps'", id="unknown-key"),
        pytest.param(["rollout.prompts_per_step=0"], "rollout.prompts_per_step=0", id="range"),
        pytest.param(["algorithm.updates_per_step=3"], "algorithm.updates_per_step=3", id="checks"),
    ],
)
def test_a_wrong_setting_is_named_on_standard_error(recipe, arguments, message, capsys):
    assert main(["train", recipe, *arguments, "--dry-run"]) == USAGE_EXIT_CODE
    assert message in capsys.readouterr().err


def test_an_unknown_recipe_lists_the_shipped_ones(capsys):
    assert main(["train", "no_such_recipe", "--dry-run"]) == USAGE_EXIT_CODE
    assert "tiny_cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["train", "x", "--fast"], ["report", "a", "--output", "o", "k=v", "--nope"]]
)
def test_an_unknown_option_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == USAGE_EXIT_CODE
    assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "none.jsonl", "--csv"],
        ["evaluate", "tiny_cpu", "--json"],
        ["report", "none", "--output"],
    ],
)
def test_a_directory_in_the_place_of_a_result_is_refused_before_the_work(
    arguments, tmp_path, capsys
):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, str(tmp_path)])
    assert stop.value.code == USAGE_EXIT_CODE
    assert f"{tmp_path} is a directory, must be a file" in capsys.readouterr().err


def test_run_without_checkpoints_ends_as_if_its_rank_had_been_killed(monkeypatch, capsys):
    def lose(_):
        raise CheckpointWriterKilled("rank 1: the process that wrote the checkpoint was killed")

    monkeypatch.setattr(cli, "_train", lose)
    assert main(["train", "tiny_cpu"]) == 74
    assert "longrlvr: rank 1: the process that wrote" in capsys.readouterr().err
