"""The commands of conversion say what they would do, do it, and refuse with a name.

Run in this process, as the command line would: only the first test starts interpreters.
"""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.support.tiny_models import save_tiny_model

TOOLS = Path(__file__).parents[3] / "tools"
NAMES = (
    "hf_to_megatron",
    "megatron_to_hf",
    "verify_conversion",
    "inspect_checkpoint",
    "tokenizer_from_sentencepiece",
    "smollm2",
)


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run a tool; its exit code or message, and what it printed."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = None
        try:
            runpy.run_path(str(TOOLS / f"{name}.py"), run_name="__main__")
        except SystemExit as leaving:
            code = leaving.code
        return code, capsys.readouterr().out

    return run


@pytest.fixture
def folder(tmp_path):
    save_tiny_model(tmp_path / "hf", "qwen3", num_layers=2)
    return tmp_path / "hf"


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_a_command_to_copy(tool, name):
    code, text = tool(name, "--help")
    assert code == 0
    assert f"python tools/{name}.py " in text


def test_command_runs_from_another_folder(folder, tmp_path):
    command = [sys.executable, TOOLS / "hf_to_megatron.py", folder, "out", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "GB of weights to out" in done.stdout


def test_dry_run_of_an_import_lists_tensors_and_writes_nothing(tool, folder, tmp_path):
    code, text = tool("hf_to_megatron", folder, tmp_path / "out", "--dry-run")
    assert not code
    assert "embedding.word_embeddings.weight  [99, 32]  torch.float32" in text
    assert "config.json" in text
    # 2 * (99 * 32) of vocabulary, 2 layers of 10848 values, 32 of the last norm, in 4 bytes each.
    assert "0.000 GB" in text
    assert not (tmp_path / "out").exists()


def test_both_ways_and_verified(tool, folder, tmp_path):
    converted, back = tmp_path / "megatron", tmp_path / "back"
    assert not tool("hf_to_megatron", folder, converted)[0]
    code, text = tool("megatron_to_hf", converted, back, "--dry-run")
    assert not code
    assert "model.safetensors  25 tensors" in text
    assert not back.exists()
    assert not tool("megatron_to_hf", converted, back)[0]
    assert tool("verify_conversion", folder, back) == (0, "25 equal\n")
    assert tool("verify_conversion", folder, converted) == (0, "25 equal\n")


def test_verification_fails_on_a_difference(tool, folder, tmp_path):
    converted = tmp_path / "megatron"
    tool("hf_to_megatron", folder, converted)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 0.25
    save_file(tensors, folder / "model.safetensors")
    code, text = tool("verify_conversion", folder, converted)
    assert code == 1
    assert "different  model.norm.weight  max |diff| 0.25" in text
    assert "24 equal" in text


def test_inspection_counts_values_and_finds_damage(tool, folder, tmp_path):
    converted = tmp_path / "megatron"
    tool("hf_to_megatron", folder, converted)
    code, text = tool("inspect_checkpoint", converted)
    num_values = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert not code
    assert f"weights: {num_values:,} values" in text
    assert text.endswith("whole\n")
    (converted / "learner/__0_0.distcp").write_bytes(b"")
    assert "__0_0.distcp" in tool("inspect_checkpoint", converted)[0]


@pytest.mark.parametrize("name", ["hf_to_megatron", "megatron_to_hf"])
def test_existing_target_is_refused_by_name(tool, folder, tmp_path, name):
    source, target = folder, tmp_path / "taken"
    if name == "megatron_to_hf":
        source = tmp_path / "megatron"
        tool("hf_to_megatron", folder, source)
    target.mkdir()
    (target / "file").write_text("")
    message, _ = tool(name, source, target)
    assert message.startswith(f"{name}: {target} exists")
    assert "--overwrite" in message


def test_unknown_architecture_is_refused_by_name(tool, folder, tmp_path):
    config = folder / "config.json"
    config.write_text(config.read_text().replace("Qwen3ForCausalLM", "Qwen9ForCausalLM"))
    message, _ = tool("hf_to_megatron", folder, tmp_path / "out")
    assert "Qwen9ForCausalLM" in message
    assert str(config) in message


def test_folder_that_is_no_checkpoint_is_refused(tool, folder, tmp_path):
    for name in ("megatron_to_hf", "inspect_checkpoint"):
        message, _ = tool(name, folder, *[tmp_path / "out"] * (name == "megatron_to_hf"))
        assert str(folder) in message
