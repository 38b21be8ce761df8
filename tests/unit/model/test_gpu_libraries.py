"""Kernels that a recipe asks for are there, or the run ends with what to install.

Promise: no other kernel takes the place of one that is missing. Which of torch's tables is changed
for FlashAttention is asked of torch itself.
"""

import sys
from types import SimpleNamespace

import pytest
import torch

from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.build import _prepare_kernels
from megatron_longrlvr.model.gpu_libraries import (
    require_apex,
    require_transformer_engine,
    use_flash_attention,
)
from megatron_longrlvr.parallel.layout import ParallelLayout
from tests.support.saved_bytes import tiny_spec

needs_absence = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU machine may have them")


@needs_absence
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": "transformer_engine"}, "model.layers=transformer_engine needs Transformer Eng"),
        ({"attention": "transformer_engine"}, "model.attention=transformer_engine needs Transform"),
        ({"attention": "flash_attention_3"}, "model.attention=flash_attention_3 needs FlashAttent"),
        ({"attention": "flash_attention_4"}, "model.attention=flash_attention_4 .*flash-attn-4"),
    ],
)
def test_missing_kernels_end_the_run(settings, message):
    model = ModelConfig(path="-", **settings)
    with pytest.raises(ConfigError, match=message):
        _prepare_kernels(tiny_spec("llama"), ParallelLayout(world_size=1), model)


@needs_absence
@pytest.mark.parametrize("require", [require_transformer_engine, require_apex])
def test_setting_and_remedy_are_named(require):
    with pytest.raises(ConfigError, match=r"^a\.b=c needs .* \(see the Dockerfile\)"):
        require("a.b=c")


def test_flash_attention_is_registered_with_torch(monkeypatch):
    registered = []
    implementations = torch.nn.attention._registry._FLASH_ATTENTION_IMPLS
    monkeypatch.setitem(implementations, "FA3", lambda: registered.append("FA3"))
    use_flash_attention(3, "model.attention=flash_attention_3")
    assert registered == ["FA3"]


def test_torch_without_a_registry_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.nn.attention", SimpleNamespace())
    with pytest.raises(ConfigError, match="needs FlashAttention 4, which does not load"):
        use_flash_attention(4, "model.attention=flash_attention_4")


@pytest.mark.parametrize(("degrees", "is_even"), [({"cp": 2}, True), ({"tp": 2, "cp": 2}, False)])
def test_heads_that_cannot_be_dealt_are_refused(monkeypatch, degrees, is_even):
    # The model has 2 key/value heads.
    monkeypatch.setattr("megatron_longrlvr.model.build.require_transformer_engine", lambda _: None)
    layout = ParallelLayout(world_size=4, **degrees)
    model = ModelConfig(path="-", attention="transformer_engine", key_exchange="a2a")
    if is_even:
        _prepare_kernels(tiny_spec("llama"), layout, model)
        return
    with pytest.raises(ConfigError, match=r"key_exchange=a2a deals the 1 .* layout\.cp=2"):
        _prepare_kernels(tiny_spec("llama"), layout, model)
