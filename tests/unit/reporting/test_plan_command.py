"""``longrlvr plan``: its verdict, its record and its page hold the same numbers."""

import json
import re

import pytest

from megatron_longrlvr.cli import main

COMMAND = ["plan", "llama31_8b", "--cluster", "h100:8x1"]


def test_plan_is_printed_and_written(tmp_path, capsys):
    paths = {name: tmp_path / f"plan.{name}" for name in ("json", "html", "png")}
    options = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
    assert main([*COMMAND, "--price-per-gpu-hour", "3", *options]) == 0
    record = json.loads(paths["json"].read_text())
    seconds = sum(phase["seconds"] for phase in record["phases"])
    assert record["step_s"] == pytest.approx(seconds)
    assert record["step_cost"] == pytest.approx(seconds * 8 * 3 / 3600)
    shown = f"step {seconds:,.0f} s"
    assert shown in capsys.readouterr().out
    page = paths["html"].read_text()
    assert shown in page
    assert page.count("Memory of a rank of stage") == len(record["memory"])
    assert not re.search(r"<script|src=\"http", page)
    assert paths["png"].read_bytes().startswith(b"\x89PNG")


def test_what_does_not_fit_ends_with_1_and_says_why(capsys):
    assert main([*COMMAND, "model.recompute=none"]) == 1
    assert "does not fit: model.recompute=none" in capsys.readouterr().out


def test_a_search_that_finds_nothing_writes_why(tmp_path):
    path = tmp_path / "plan.json"
    command = ["plan", "llama31_8b", "--cluster", "h100:1x1", "--search", "--json", str(path)]
    assert main(command) == 1
    record = json.loads(path.read_text())["search"]
    assert (record["best"], len(record["failures"])) == ([], record["num_tried"])


@pytest.mark.parametrize("price", ["-3", "nan", "inf"])
def test_a_price_that_is_none_is_refused(price, capsys):
    with pytest.raises(SystemExit):
        main([*COMMAND, f"--price-per-gpu-hour={price}"])
    assert f"must be 0 or more, got {price}" in capsys.readouterr().err


def test_typical_lengths_change_the_time_and_not_the_memory(tmp_path):
    records = []
    for options in ([], ["--prompt-tokens", "32768", "--response-tokens", "512"]):
        path = tmp_path / f"{len(records)}.json"
        assert main([*COMMAND, *options, "--json", str(path)]) == 0
        records.append(json.loads(path.read_text()))
    longest, typical = records
    assert typical["memory"] == longest["memory"]
    assert typical["step_s"] < longest["step_s"] / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--cluster", "h100:9"], "--cluster 'h100:9'", id="cluster"),
        pytest.param(
            ["--cluster", "h100:8x1", "--prompt-tokens", "70000"],
            "--prompt-tokens 70000",
            id="long",
        ),
        pytest.param(
            ["--cluster", "h100:8x1", "model.path=models/unknown"], "model.path=", id="model"
        ),
        pytest.param(["--cluster", "h100:8x1", "layout.tp=3"], "layout.tp=3", id="layout"),
    ],
)
def test_wrong_setting_is_named(arguments, message, capsys):
    assert main(["plan", "llama31_8b", *arguments]) == 2
    assert message in capsys.readouterr().err
