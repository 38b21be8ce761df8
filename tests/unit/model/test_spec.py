"""Reading and writing config.json.

Promised: the three families are read as transformers reads them, whichever transformers wrote the
file; what would be computed differently is refused by the name of its key; a written config is
read back unchanged by us and by transformers.
"""

import json
import subprocess
import sys

import pytest
from transformers import AutoConfig, LlamaConfig, Qwen2Config, Qwen3Config

from megatron_longrlvr.config.policy import NewModelConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.rope_spec import RopeSpec
from megatron_longrlvr.model.spec import read_model_spec, spec_from_new, to_hf_config

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Written by transformers 4 for meta-llama/Llama-3.1-8B, Qwen2.5-7B-Instruct-1M and Qwen3-8B; sizes
# made small.
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": LLAMA3_ROPE,
    "tie_word_embeddings": False,
    "vocab_size": 128,
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 130,
}
QWEN3 = {
    **QWEN2,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 16,
    "attention_bias": False,
    "rope_scaling": None,
}


def spec_of(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return read_model_spec(tmp_path)


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


def test_module_does_not_import_torch():
    code = "import sys, megatron_longrlvr.model.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_llama_is_read_with_its_rope_scaling(tmp_path):
    spec = spec_of(tmp_path, LLAMA)
    assert (spec.num_layers, spec.num_heads, spec.num_kv_heads) == (4, 8, 4)
    assert spec.head_dim == 8  # 64 / 8
    assert spec.norm_eps == 1e-5
    assert (spec.qkv_bias, spec.qk_norm, spec.tie_word_embeddings) == (False, False, False)
    assert spec.rope == RopeSpec(
        kind="llama3",
        theta=500000.0,
        factor=8.0,
        original_max_position_embeddings=8192,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
    )


def test_qwen2_has_bias_on_qkv_and_qwen3_has_norm_on_qk(tmp_path):
    qwen2, qwen3 = spec_of(tmp_path, QWEN2), spec_of(tmp_path, QWEN3)
    assert (qwen2.qkv_bias, qwen2.qk_norm) == (True, False)
    assert (qwen3.qkv_bias, qwen3.qk_norm) == (False, True)
    assert (qwen2.head_dim, qwen3.head_dim) == (8, 16)


def test_qwen3_without_head_dim_has_that_of_its_family(tmp_path):
    assert spec_of(tmp_path, without(QWEN3, "head_dim")).head_dim == Qwen3Config().head_dim


def test_llama_without_kv_heads_has_one_per_query_head(tmp_path):
    assert spec_of(tmp_path, without(LLAMA, "num_key_value_heads")).num_kv_heads == 8


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        pytest.param(None, RopeSpec(kind="default", theta=1e6), id="default"),
        pytest.param(
            {"type": "linear", "factor": 4.0},
            RopeSpec(kind="linear", theta=1e6, factor=4.0),
            id="linear-with-old-key",
        ),
        pytest.param(
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            # 0.1 * ln 4 + 1 = 1.1386294361119891
            RopeSpec(
                kind="yarn",
                theta=1e6,
                factor=4.0,
                original_max_position_embeddings=32768,
                attention_scaling=1.138629436111989,
            ),
            id="yarn",
        ),
    ],
)
@pytest.mark.parametrize("version", [4, 5])
def test_both_spellings_of_rope_mean_the_same(tmp_path, scaling, expected, version):
    config = without(QWEN2, "rope_theta")
    if version == 4:
        config |= {"rope_theta": 1e6, "rope_scaling": scaling}
    else:
        config |= {"rope_parameters": {**(scaling or {"rope_type": "default"}), "rope_theta": 1e6}}
    assert spec_of(tmp_path, config).rope == expected


@pytest.mark.parametrize(
    ("family", "new_family"),
    [
        pytest.param(LlamaConfig, "LlamaForCausalLM", id="llama"),
        pytest.param(Qwen2Config, "Qwen2ForCausalLM", id="qwen2"),
        pytest.param(Qwen3Config, "Qwen3ForCausalLM", id="qwen3"),
    ],
)
def test_what_transformers_saves_is_read(tmp_path, family, new_family):
    size = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4}
    rope = {**LLAMA3_ROPE, "rope_theta": 12345.0}
    config = family(**size, num_hidden_layers=2, rope_parameters=rope, architectures=[new_family])
    config.save_pretrained(tmp_path)
    spec = read_model_spec(tmp_path)
    assert spec.architecture == new_family
    assert (spec.rope.kind, spec.rope.theta, spec.rope.factor) == ("llama3", 12345.0, 8.0)
    assert (spec.num_kv_heads, spec.vocab_size) == (4, config.vocab_size)


@pytest.mark.parametrize(
    ("base", "change", "key"),
    [
        pytest.param(LLAMA, {"architectures": ["GemmaForCausalLM"]}, "Gemma", id="family"),
        pytest.param(LLAMA, {"architectures": None}, "architectures", id="no-family"),
        pytest.param(LLAMA, {"hidden_act": "gelu"}, "hidden_act=gelu", id="activation"),
        pytest.param(LLAMA, {"attention_bias": True}, "attention_bias", id="attention-bias"),
        pytest.param(QWEN3, {"attention_bias": True}, "attention_bias", id="qwen3-bias"),
        pytest.param(LLAMA, {"mlp_bias": True}, "mlp_bias", id="mlp-bias"),
        pytest.param(LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor", id="partial"),
        pytest.param(
            LLAMA,
            {"rope_scaling": None, "rope_theta": None, "rope_parameters": {"rope_type": "default",
             "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
            id="partial-in-rope",
        ),
        pytest.param(
            LLAMA, {"quantization_config": {"bits": 4}}, "quantization_config", id="quantized"
        ),
        pytest.param(
            LLAMA, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic", id="dynamic"
        ),
        pytest.param(LLAMA, {"rope_scaling": {"rope_type": "longrope"}}, "longrope", id="longrope"),
        pytest.param(
            LLAMA,
            {"rope_scaling": None, "rope_theta": None,
             "rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "full_attention",
            id="rope-per-layer",
        ),
        pytest.param(
            LLAMA, {"rope_scaling": without(LLAMA3_ROPE, "low_freq_factor")}, "low_freq_factor",
            id="llama3-incomplete",
        ),
        pytest.param(
            LLAMA, {"rope_parameters": {"rope_type": "default"}}, "disagree", id="two-spellings"
        ),
        pytest.param(
            QWEN2,
            {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 2},
            "sliding_window=4096",
            id="sliding-by-layer-number",
        ),
        pytest.param(
            QWEN3,
            {"use_sliding_window": True, "sliding_window": 4096,
             "layer_types": ["full_attention", "sliding_attention"] * 2},
            "sliding_window=4096",
            id="sliding-by-layer-type",
        ),
        pytest.param(LLAMA, {"vocab_size": None}, "vocab_size", id="missing-number"),
        pytest.param(QWEN2, {"num_key_value_heads": None}, "num_key_value_heads", id="no-kv"),
        pytest.param(LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads=3", id="kv-heads"),
        pytest.param(LLAMA, {"head_dim": 7}, "head_dim=7", id="odd-head"),
    ],
)  # fmt: skip
def test_unsupported_setting_is_refused_by_name(tmp_path, base, change, key):
    with pytest.raises(ConfigError, match=r"config\.json") as refused:
        spec_of(tmp_path, base | change)
    assert key in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"sliding_window": 4096}, id="switched-off"),
        pytest.param(
            {"use_sliding_window": True, "sliding_window": 32768, "max_window_layers": 0},
            id="window-is-context",
        ),
        pytest.param({"use_sliding_window": True, "sliding_window": 4096}, id="no-layer-slides"),
        pytest.param({"use_sliding_window": True, "sliding_window": None}, id="no-window"),
    ],
)
def test_window_that_changes_nothing_is_accepted(tmp_path, change):
    # max_window_layers is 28 and the model has 4 layers.
    assert spec_of(tmp_path, QWEN2 | change) == spec_of(tmp_path, QWEN2)


def test_dual_chunk_attention_limits_the_positions(tmp_path):
    dual_chunk = {
        "chunk_size": 262144,
        "local_size": 8192,
        "original_max_position_embeddings": 262144,
    }
    config = QWEN2 | {"max_position_embeddings": 1010000, "dual_chunk_attention_config": dual_chunk}
    assert spec_of(tmp_path, config).max_position_embeddings == 253952  # 262144 - 8192


MISTRAL = without(LLAMA, "rope_scaling") | {"architectures": ["MistralForCausalLM"]}


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        # The config states 131072 positions.
        pytest.param({"sliding_window": 8192}, 8192, id="stated"),
        pytest.param({"sliding_window": 200_000}, 131072, id="longer-than-the-positions"),
        pytest.param({"sliding_window": None}, 131072, id="none"),
        pytest.param({}, 4096, id="left-out"),
    ],
)
def test_window_of_mistral_limits_the_positions(tmp_path, window, expected):
    # A token sees the window - 1 tokens before it: up to there it is plain causal attention.
    config = MISTRAL | {"max_position_embeddings": 131072} | window
    spec = spec_of(tmp_path, config)
    assert spec.max_position_embeddings == expected
    written = to_hf_config(spec)
    assert written["sliding_window"] is None
    assert spec_of(tmp_path, written) == spec


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        read_model_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is not valid JSON"):
        read_model_spec(tmp_path)


@pytest.mark.parametrize(("tp", "expected"), [(1, 130), (2, 130), (4, 132), (7, 133)])
def test_padded_vocabulary_is_the_next_multiple(tmp_path, tp, expected):
    assert spec_of(tmp_path, QWEN2).padded_vocab_size(tp) == expected


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(LLAMA, id="llama3"),
        pytest.param(QWEN2, id="qwen2"),
        pytest.param(QWEN3, id="qwen3"),
        pytest.param(LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, id="linear"),
        pytest.param(QWEN2 | {"rope_scaling": YARN}, id="yarn"),
        pytest.param(
            QWEN2 | {"rope_scaling": {**YARN, "attention_factor": 1.5, "truncate": False}},
            id="yarn-all-settings",
        ),
    ],
)
def test_written_config_is_read_back_by_us_and_by_transformers(tmp_path, config):
    spec = spec_of(tmp_path, config)
    written = to_hf_config(spec)
    assert spec_of(tmp_path, written) == spec

    theirs = AutoConfig.from_pretrained(tmp_path)
    assert theirs.rope_parameters == written["rope_parameters"]
    assert theirs.architectures == [spec.architecture]
    assert (theirs.hidden_size, theirs.num_hidden_layers) == (spec.hidden_size, spec.num_layers)
    assert (theirs.num_key_value_heads, theirs.head_dim) == (spec.num_kv_heads, spec.head_dim)
    assert theirs.tie_word_embeddings == spec.tie_word_embeddings
    assert theirs.rms_norm_eps == spec.norm_eps


def test_new_model_has_the_traits_of_its_family():
    size = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    specs = {
        name: spec_from_new(NewModelConfig(architecture=name, rope_theta=5e5, **size), 100)
        for name in ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
    }
    assert [spec.qkv_bias for spec in specs.values()] == [False, True, False]
    assert [spec.qk_norm for spec in specs.values()] == [False, False, True]
    assert specs["LlamaForCausalLM"].rope == RopeSpec(kind="default", theta=5e5)
    assert specs["LlamaForCausalLM"].vocab_size == 100
