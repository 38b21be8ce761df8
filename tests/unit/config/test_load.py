"""Reading recipes: what is accepted comes out typed and whole; every refusal names the dotted key.

Import times are CPU seconds of a fresh interpreter, less those of a bare one: the wall clock of
a busy machine says nothing about the code.
"""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from megatron_longrlvr.config import schema, sft, synthesis
from megatron_longrlvr.config.load import (
    RECIPES,
    find_recipe,
    load_config,
    parse_config,
    write_config,
)
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.config.section import Section
from megatron_longrlvr.config.task import FileDataConfig, ToyTaskConfig
from megatron_longrlvr.errors import ConfigError
from tests.unit.config.recipe_content import recipe, train_config

SHIPPED = sorted(RECIPES.glob("*.yaml"))
HEAVY = {"matplotlib", "megatron", "numpy", "omegaconf", "pyarrow", "torch", "transformers"}

SCHEMA_BY_KIND = {
    get_args(section.model_fields["kind"].annotation)[0]: section
    for module in (schema, sft, synthesis)
    for _, section in inspect.getmembers(module, inspect.isclass)
    if issubclass(section, Section) and "run" in section.model_fields
}


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe()))
    return path


def load(path, *overrides):
    return load_config(str(path), overrides, TrainConfig)


def write(path, text):
    path.write_text(text)
    return path


def test_recipe_without_overrides_is_what_the_file_says(recipe_file):
    assert load(recipe_file) == train_config()


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        pytest.param("trainer.steps=7", "trainer.steps", 7, id="int"),
        pytest.param("optimizer.lr=3e-4", "optimizer.lr", 3e-4, id="exponent-without-point"),
        pytest.param("optimizer.lr=1", "optimizer.lr", 1.0, id="int-for-float"),
        pytest.param("trainer.tensorboard=false", "trainer.tensorboard", False, id="bool"),
        pytest.param("run.name=a.b-c_1", "run.name", "a.b-c_1", id="string"),
        pytest.param("run.dir=/tmp/a=b c", "run.dir", "/tmp/a=b c", id="equals-and-space"),
        pytest.param("run.dir='12'", "run.dir", "12", id="quoted-number"),
        pytest.param("algorithm.dual_clip=null", "algorithm.dual_clip", None, id="null"),
        pytest.param("rollout.stop=[a, b]", "rollout.stop", ["a", "b"], id="list"),
        pytest.param("layout.tp=2", "layout.tp", 2, id="section-that-the-recipe-leaves-out"),
        pytest.param("layout={tp: 2, pp: 2}", "layout.pp", 2, id="whole-section"),
        pytest.param("run.dir=runs/${run.name}", "run.dir", "runs/test", id="interpolation"),
    ],
)
def test_override_sets_its_key_and_no_other(recipe_file, override, key, value):
    loaded = load(recipe_file, override).model_dump()
    found = loaded
    for part in key.split("."):
        found = found[part]
    assert found == value
    section = key.split(".")[0]
    unchanged = train_config().model_dump()
    assert {**loaded, section: None} == {**unchanged, section: None}


def test_last_override_of_a_key_wins(recipe_file):
    assert load(recipe_file, "trainer.steps=7", "trainer.steps=8").trainer.steps == 8


def test_mapping_replaces_the_section_so_that_a_union_can_change_its_kind(recipe_file):
    config = load(recipe_file, "data.train={kind: files, paths: [a.jsonl]}")
    assert config.data.train == FileDataConfig(kind="files", paths=["a.jsonl"])
    assert isinstance(train_config().data.train, ToyTaskConfig)


def test_interpolation_needs_no_override(tmp_path):
    path = write(tmp_path / "r.yaml", yaml.safe_dump(recipe(**{"run.dir": "runs/${run.name}"})))
    assert load(path).run.dir == "runs/test"


def test_number_reads_the_same_in_a_recipe_and_in_an_override(tmp_path):
    text = yaml.safe_dump(recipe(**{"optimizer.lr": "LR"})).replace("LR", "2e-3")
    assert load(write(tmp_path / "r.yaml", text)).optimizer.lr == 0.002


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("trainer.stps=7", "unknown key 'trainer.stps'; did you mean 'trainer.steps'"),
        pytest.param("trainr.steps=7", "unknown key 'trainr'; did you mean 'trainer'"),
        pytest.param("steps=7", "unknown key 'steps'; did you mean 'trainer.steps'"),
        pytest.param("layout.xyz=7", "unknown key 'layout.xyz'; known here: tp, pp, vpp, cp"),
        pytest.param("critic.layout={tp: 2}", "unknown key 'critic.layout'"),
        pytest.param(
            "data.train.num_chnks=7",
            "unknown key 'data.train.num_chnks'; did you mean 'data.train.num_chunks'",
        ),
        pytest.param(
            "evaluation.data.paths=[a]",
            "unknown key 'evaluation.data.paths'; did you mean 'data.train.paths'",
        ),
        pytest.param("data.train.num_chunks=2", r"data.train.num_chunks=2: .* equal to 4"),
        pytest.param("data.train.kind=toys", "data.train.kind='toys': use 'toy' or 'files'"),
        pytest.param("data.train={seed: 1}", "data.train.kind is missing: use 'toy' or 'files'"),
        pytest.param("data={}", "data.train is missing; data.max_prompt_tokens is missing"),
        pytest.param("trainer.steps=many", "trainer.steps='many': .* valid integer"),
        pytest.param("trainer.steps=1.5", r"trainer.steps=1\.5: .* valid integer"),
        pytest.param("trainer.steps=true", "trainer.steps=True: .* valid integer"),
        pytest.param("trainer.steps=", "trainer.steps=None: .* valid integer"),
        pytest.param("trainer.steps.every=2", r"trainer.steps=\{'every': 2\}: .* valid integer"),
        pytest.param("trainer.steps=0", "trainer.steps=0: .* greater than 0"),
        pytest.param("run.name=7", "run.name=7: .* valid string"),
        pytest.param("run.name=a/b", "run.name='a/b': .* match pattern"),
        pytest.param("optimizer.lr=.inf", "optimizer.lr=inf: .* finite"),
        pytest.param("rewards.variant=best", "rewards.variant='best': .* 'longrlvr'"),
        pytest.param("rollout.stop=end", "rollout.stop='end': .* valid list"),
        pytest.param("rollout.stop=[a, 1]", "rollout.stop.1=1: .* valid string"),
        pytest.param("kind=sft", "kind='sft': .* 'train'"),
        pytest.param("trainer.steps", "override 'trainer.steps' must read key=value"),
        pytest.param("=7", "override '=7' must read key=value"),
        pytest.param("rollout.stop=[a", r"override 'rollout.stop=\[a': the value is not YAML"),
        pytest.param("run.dir=${run.nme}", "^run.dir: .* 'run.nme' not found"),
        pytest.param("run.dir=???", "^run.dir: Missing mandatory value"),
    ],
)
def test_refused_override_is_named_by_its_key(recipe_file, override, message):
    with pytest.raises(ConfigError, match=message):
        load(recipe_file, override)


def test_key_inside_a_list_is_named_with_its_place():
    stages = [
        {"steps": 3, "kinds": [{"task": {"kind": "toy"}}]},
        {"steps": 3, "kinds": [{"task": {"kind": "toy", "sed": 1}}]},
    ]
    content = {"demonstrations": {"stages": stages}}
    place = "demonstrations.stages.1.kinds.0.task"
    with pytest.raises(ConfigError, match=f"'{place}.sed'; did you mean '{place}.seed'"):
        parse_config(content, sft.SftRunConfig, origin="test")


def test_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"^test: optimizer.lr is missing$"):
        train_config(**{"optimizer.lr": ...})


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError, match=r"run.seed=-1.*unknown key 'trainer.stps'"):
        train_config(**{"run.seed": -1, "trainer.stps": 3})


def test_long_value_is_cut_in_the_message():
    with pytest.raises(ConfigError) as caught:
        train_config(**{"trainer.steps": "x" * 1000})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("run: [", r"r\.yaml is not YAML: .*line 1", id="broken"),
        pytest.param("- run", "must hold a mapping of sections, got list", id="list"),
        pytest.param("", "must hold a mapping of sections, got NoneType", id="empty"),
        pytest.param(
            "trainer:\n  steps: 1\n  steps: 2\n", "'steps' stands here twice.*line 3", id="twice"
        ),
        pytest.param("1: 2", "unknown key '1'", id="key-is-a-number"),
    ],
)
def test_file_that_is_no_recipe_is_refused(tmp_path, text, message):
    path = write(tmp_path / "r.yaml", text)
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load(path)


def test_unknown_recipe_lists_the_shipped_ones():
    with pytest.raises(ConfigError) as caught:
        find_recipe("tiny_gpu")
    assert str(caught.value).startswith("no recipe 'tiny_gpu'")
    assert all(path.stem in str(caught.value) for path in SHIPPED)


def test_configuration_cannot_be_changed_after_reading():
    with pytest.raises(ValueError, match="frozen"):
        train_config().trainer.steps = 3


def test_written_configuration_reads_back_equal_and_complete(tmp_path):
    config = train_config(**{"data.train": {"kind": "files", "paths": ["a", "b"]}})
    write_config(config, tmp_path / "config.json")
    content = json.loads((tmp_path / "config.json").read_text())
    assert parse_config(content, TrainConfig, origin="config.json") == config
    assert load(tmp_path / "config.json") == config
    assert content["layout"]["tp"] == 1, "defaults are written too"


def test_writing_that_is_cut_short_leaves_the_earlier_configuration(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_config(train_config(), path)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_config(train_config(**{"run.seed": 7}), path)
    assert load(path) == train_config()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_parses_under_its_name(path):
    kind = yaml.safe_load(path.read_text())["kind"]
    config = load_config(path.stem, [], SCHEMA_BY_KIND[kind])
    assert config.model_dump()["kind"] == kind


def test_schema_and_loader_import_nothing_heavy():
    names = ", ".join(f"megatron_longrlvr.config.{name}" for name in ("load", "schema", "checks"))
    code = f"import {names}, json, sys; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    shown = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    imported = {name.partition(".")[0] for name in json.loads(shown)}
    assert imported & {"pydantic", "yaml"} == {"pydantic", "yaml"}
    assert not imported & HEAVY
