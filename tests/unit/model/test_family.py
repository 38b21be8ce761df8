"""The families' defaults are those of transformers; another architecture is refused by name."""

import pytest
from transformers import AutoConfig

from megatron_longrlvr.config.policy import MIXTURES
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.family import FAMILIES, read_architecture


@pytest.mark.parametrize("architecture", FAMILIES)
def test_defaults_are_those_of_transformers(architecture):
    family = FAMILIES[architecture]
    theirs = AutoConfig.for_model(family.model_type)
    assert family.norm_eps == theirs.rms_norm_eps
    assert hasattr(theirs, "use_sliding_window") == family.window_has_switch
    if not family.window_has_switch:
        assert family.sliding_window == getattr(theirs, "sliding_window", None)


def test_mixtures_are_the_families_with_names_for_experts():
    assert {name for name, family in FAMILIES.items() if family.expert_names} == MIXTURES


@pytest.mark.parametrize("named", [None, [], ["GemmaForCausalLM"], ["LlamaForCausalLM"] * 2])
def test_other_architecture_is_refused_by_name(named):
    with pytest.raises(ConfigError) as refused:
        read_architecture({"architectures": named})
    assert f"architectures={named}" in str(refused.value)
    assert "MixtralForCausalLM" in str(refused.value)
