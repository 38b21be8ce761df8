"""Cross-section checks: each impossible combination is refused by the key that mends it.

Every refusal is one or two settings away from the recipe that is accepted.
"""

import pytest

from megatron_longrlvr.config.checks import check_train_config
from megatron_longrlvr.errors import ConfigError
from tests.unit.config.recipe_content import train_config

TRAIN_FILES = {"kind": "files", "paths": ["a.jsonl", "b.jsonl"]}

AHEAD = {
    "rollout.engine": "vllm_server",
    "algorithm.max_staleness": 1,
    "algorithm.mismatch": {"importance": "truncated"},
}

VLLM = {"rollout.engine": "vllm_colocated"}
FP8 = {
    "model.dtype": "bf16",
    "model.layers": "transformer_engine",
    "model.fp8": {"kind": "blockwise", "parameters": True},
}

FUSED = {"model.dtype": "bf16", "model.attention": "transformer_engine"}

CRITIC = {
    "algorithm.advantage": "gae",
    "algorithm.drop_uninformative_groups": False,
    "critic": {"optimizer": {"lr": 1e-3}},
}

SEGMENT = {"algorithm.credit": "segment"}

ACCEPTED = [
    pytest.param({**SEGMENT, "rewards.variant": "authors_code"}, 2, id="segment-credit"),
    pytest.param(
        {"algorithm.overlong": {"buffer_tokens": 100, "mask_truncated": True}},
        2,
        id="buffer-of-all-tokens",
    ),
    pytest.param(
        {"algorithm.overlong": {"buffer_tokens": 4}, "trainer.gradient_parts_every": 2},
        2,
        id="charged-by-term",
    ),
    pytest.param(CRITIC, 2, id="critic"),
    pytest.param({**CRITIC, "trainer.loop": "nemo_aligner"}, 2, id="critic-in-the-other-loop"),
    pytest.param({**CRITIC, "rollout.group_size": 1}, 2, id="critic-needs-no-siblings"),
    pytest.param(AHEAD, 2, id="samples-ahead"),
    pytest.param({}, 2, id="as-written"),
    pytest.param({"rollout.prompts_per_step": 9}, 1, id="one-rank-takes-all"),
    pytest.param({"rollout.prompts_per_step": 9, "layout": {"tp": 2}}, 2, id="tp-does-not-share"),
    pytest.param({"algorithm.updates_per_step": 4}, 2, id="one-group-an-update"),
    pytest.param({"algorithm.proximal": "behavior"}, 2, id="behavior-is-exact"),
    pytest.param({"rollout.top_p": 0.9}, 2, id="top-p-with-recomputed"),
    pytest.param(
        {
            "rollout.engine": "vllm_colocated",
            "rollout.vllm": {"max_model_len": 500, "tensor_parallel": 2},
        },
        2,
        id="vllm-that-fits",
    ),
    pytest.param(
        {**AHEAD, "rollout.vllm": {"tensor_parallel": 3}}, 2, id="servers-have-ranks-of-their-own"
    ),
    pytest.param({"algorithm.kl": {"estimator": "k1"}}, 2, id="kl-is-off"),
    pytest.param(
        {"algorithm.kl": {"estimator": "k1", "place": "reward", "coefficient": 0.1}},
        2,
        id="k1-in-the-reward",
    ),
    pytest.param({"evaluation": ..., "trainer.eval_every": 0}, 2, id="never-evaluates"),
    pytest.param({"rollout.routing_replay": True}, 2, id="own-engine-tells-experts"),
    pytest.param({**VLLM, "rollout.routing_replay": True}, 2, id="vllm-tells-experts"),
    pytest.param({"evaluation.temperature": 0}, 2, id="greedy-once"),
    pytest.param({"optimizer.min_lr": 1e-3}, 2, id="lr-never-decays"),
    pytest.param(
        {"data.train": TRAIN_FILES, "evaluation.data": {"kind": "files", "paths": ["c.jsonl"]}},
        2,
        id="other-files",
    ),
    pytest.param({**VLLM, **FP8}, 2, id="fp8-with-vllm"),
    pytest.param({"optimizer.host_frac": 0.5}, 2, id="optimizer-half-on-the-host"),
    pytest.param(
        {**VLLM, **FUSED, "model.key_exchange": "p2p", "algorithm.shared_prompt": False},
        2,
        id="fused-attention-in-a-ring",
    ),
]

REFUSED = [
    pytest.param(
        {**CRITIC, **SEGMENT}, 2, "algorithm.credit=segment takes", id="segment-credit-of-a-critic"
    ),
    pytest.param(
        {**SEGMENT, "rewards.variant": "outcome_only"},
        2,
        "algorithm.credit=segment needs a reward for context and answer, and rewards.variant="
        "outcome_only pays for one of them alone; use longrlvr or authors_code",
        id="segment-credit-without-context",
    ),
    pytest.param(
        {**SEGMENT, "rewards.variant": "context_only"},
        2,
        "algorithm.credit=segment needs a reward for context and answer",
        id="segment-credit-without-answer",
    ),
    pytest.param(
        {**SEGMENT, "trainer.gradient_parts_every": 2},
        2,
        "trainer.gradient_parts_every=2",
        id="segment-credit-by-term",
    ),
    pytest.param(
        {"algorithm.overlong": {"buffer_tokens": 101}},
        2,
        "algorithm.overlong.buffer_tokens=101 is above rollout.max_response_tokens=100",
        id="buffer-above-all-tokens",
    ),
    pytest.param(
        {"algorithm.overlong": {"mask_truncated": True}, "trainer.gradient_parts_every": 2},
        2,
        "trainer.gradient_parts_every=2",
        id="masked-by-term",
    ),
    pytest.param(
        {"algorithm.advantage": "gae"}, 2, "algorithm.advantage=gae needs a critic", id="no-critic"
    ),
    pytest.param(
        {**CRITIC, "algorithm.advantage": "rloo"},
        2,
        "critic is read by algorithm.advantage=gae alone, not by rloo",
        id="idle-critic",
    ),
    pytest.param(
        {**CRITIC, "algorithm.drop_uninformative_groups": True},
        2,
        "algorithm.drop_uninformative_groups=true",
        id="critic-without-equal-groups",
    ),
    pytest.param(
        {**CRITIC, "critic": {"optimizer": {"lr": 1e-3}, "warmup_steps": 10}},
        2,
        "critic.warmup_steps=10 leaves the policy none of the trainer.steps=10",
        id="critic-learns-alone-for-ever",
    ),
    pytest.param(
        {**CRITIC, "critic": {"optimizer": {"lr": 1e-3, "min_lr": 1e-2}}},
        2,
        "critic.optimizer.min_lr=0.01 is above critic.optimizer.lr=0.001",
        id="critic-lr-rises",
    ),
    pytest.param(
        {**CRITIC, "critic": {"optimizer": {"lr": 1e-3, "host_frac": 0.5}, "offload": True}},
        2,
        "critic.offload=true moves the whole optimizer",
        id="critic-on-the-host-twice",
    ),
    pytest.param(
        {
            **CRITIC,
            **VLLM,
            **FP8,
            "critic": {"optimizer": {"lr": 1e-3}, "offload": True},
            "algorithm.proximal": "recompute",
        },
        2,
        "critic.offload=true moves weights as their type has them",
        id="critic-of-fp8-on-the-host",
    ),
    pytest.param(
        {**CRITIC, "trainer.gradient_parts_every": 2},
        2,
        "trainer.gradient_parts_every=2",
        id="critic-by-reward-term",
    ),
    pytest.param(
        {"algorithm.max_staleness": 1},
        2,
        "algorithm.max_staleness=1 needs an engine .* rollout.engine=megatron does not",
        id="megatron-cannot-run-ahead",
    ),
    pytest.param(
        {**VLLM, "algorithm.max_staleness": 2},
        2,
        "algorithm.max_staleness=2 needs an engine .* rollout.engine=vllm_colocated does not",
        id="colocated-cannot-run-ahead",
    ),
    pytest.param(
        {**AHEAD, "algorithm.mismatch": {}},
        2,
        "algorithm.max_staleness=1 .* set algorithm.mismatch.importance=truncated",
        id="stale-and-not-corrected",
    ),
    pytest.param(
        {**AHEAD, "algorithm.dynamic_sampling": {"enabled": True}},
        2,
        "algorithm.max_staleness=1 .* set algorithm.dynamic_sampling.enabled=false",
        id="ahead-of-what-is-not-known",
    ),
    pytest.param(
        {**VLLM, "rollout.top_p": 0.9},
        2,
        "rollout.engine=vllm_colocated .* set rollout.top_p=1",
        id="vllm-top-p",
    ),
    pytest.param(
        {**VLLM, "rollout.vllm": {"tensor_parallel": 3}},
        2,
        "rollout.vllm.tensor_parallel=3 does not divide the 2 processes",
        id="vllm-ranks",
    ),
    pytest.param(
        {**AHEAD, "rollout.server": {"broadcast_senders": 3}},
        2,
        "rollout.server.broadcast_senders=3 is above the 2 processes",
        id="more-senders-than-ranks",
    ),
    pytest.param(
        {**VLLM, "rollout.vllm": {"max_model_len": 499}},
        2,
        "rollout.vllm.max_model_len=499 is below the 500 tokens",
        id="vllm-too-short",
    ),
    pytest.param(
        {"rollout.engine": "vllm_server", "rollout.routing_replay": True},
        2,
        "rollout.routing_replay=true needs an engine .* rollout.engine=vllm_server does not",
        id="server-tells-no-experts",
    ),
    pytest.param(
        {
            **VLLM,
            "rollout.routing_replay": True,
            "rollout.vllm": {"prefix_caching": False},
        },
        2,
        "rollout.routing_replay=true needs rollout.vllm.prefix_caching=true",
        id="vllm-tells-with-prefix-caching",
    ),
    pytest.param(
        {**VLLM, "algorithm.proximal": "behavior"},
        2,
        "algorithm.proximal=behavior needs .* rollout.engine=vllm_colocated",
        id="vllm-behavior",
    ),
    pytest.param(
        {"algorithm.proximal": "behavior", "algorithm.mismatch": {"stop_above": 0.1}},
        2,
        "algorithm.mismatch .* algorithm.proximal=recompute",
        id="mismatch-behavior",
    ),
    pytest.param({"layout": {"tp": 3}}, 2, "layout.tp=3", id="layout-exceeds-the-ranks"),
    pytest.param(
        {"rollout.prompts_per_step": 9},
        2,
        r"rollout.prompts_per_step=9 .* 2 data-parallel ranks .* multiple of 2",
        id="unequal-prompt-shares",
    ),
    pytest.param(
        {"algorithm.updates_per_step": 3},
        2,
        "algorithm.updates_per_step=3 does not divide the 4 groups",
        id="unequal-updates",
    ),
    pytest.param(
        {"algorithm.updates_per_step": 8}, 2, "algorithm.updates_per_step=8", id="too-many-updates"
    ),
    pytest.param(
        {"rollout.group_size": 1}, 2, "rollout.group_size=1 .* at least 2", id="lonely-sample"
    ),
    pytest.param(
        {"algorithm.kl": {"estimator": "k1", "coefficient": 0.1}},
        2,
        "algorithm.kl.estimator=k1 .* algorithm.kl.place=reward",
        id="k1-in-the-loss",
    ),
    pytest.param(
        {"algorithm.proximal": "behavior", "rollout.top_p": 0.9},
        2,
        "algorithm.proximal=behavior .* rollout.top_p=0.9",
        id="behavior-under-top-p",
    ),
    pytest.param(
        {"algorithm.proximal": "behavior", "rollout.top_k": 5},
        2,
        "algorithm.proximal=behavior .* rollout.top_k=5",
        id="behavior-under-top-k",
    ),
    pytest.param(
        {"optimizer.min_lr": 2e-3}, 2, "optimizer.min_lr=0.002 .* optimizer.lr", id="lr-would-rise"
    ),
    pytest.param(
        {"evaluation": ...}, 2, "trainer.eval_every=5 needs an evaluation", id="nothing-to-evaluate"
    ),
    pytest.param(
        {"evaluation.temperature": 0, "evaluation.samples_per_prompt": 2},
        2,
        "evaluation.samples_per_prompt=2 at evaluation.temperature=0",
        id="greedy-twice",
    ),
    pytest.param(
        {"evaluation.data": {"kind": "toy"}}, 2, "evaluation.data holds", id="toy-training-split"
    ),
    pytest.param(
        {"data.train": TRAIN_FILES, "evaluation.data": {"kind": "files", "paths": ["b.jsonl"]}},
        2,
        "evaluation.data holds prompts of data.train",
        id="training-file",
    ),
    pytest.param(FP8, 2, "model.fp8.kind=blockwise .* use vllm_colocated", id="fp8-decoding"),
    pytest.param(
        {**VLLM, **FP8, "model.offload": {"kind": "layers", "num_layers": 1}, "layout": {"pp": 2}},
        2,
        "model.offload.kind=layers .* layout.pp=2",
        id="layers-offloaded-in-a-pipeline",
    ),
    pytest.param(
        {"optimizer.host_frac": 0.5, "optimizer.distributed": False},
        2,
        "optimizer.host_frac=0.5 needs optimizer.distributed=true",
        id="whole-optimizer-on-the-host",
    ),
    pytest.param(
        {**VLLM, **FP8, "optimizer.distributed": False},
        2,
        "model.fp8.parameters=true .* optimizer.distributed=true",
        id="fp8-weights-need-a-copy",
    ),
    pytest.param(
        {**VLLM, **FUSED},
        2,
        "model.attention=transformer_engine .* algorithm.shared_prompt=false",
        id="fused-attention-shares-no-prompt",
    ),
    pytest.param(
        {**FUSED, "algorithm.shared_prompt": False},
        2,
        "model.attention=transformer_engine .* rollout.engine=megatron",
        id="fused-attention-has-no-cache",
    ),
]

TE = {"model.layers": "transformer_engine"}
REFUSED_MODELS = [
    pytest.param({"model.fp8": {"kind": "current"}}, r"^test: model.*fp8.kind=current", id="fp8"),
    pytest.param(
        {**TE, "model.fp8": {"kind": "mxfp8"}}, "fp8.kind=mxfp8 .* dtype=fp32", id="fp8-of-fp32"
    ),
    pytest.param({"model.fp8": {"kind": "int8"}}, "model.fp8.kind='int8': use", id="kind"),
    pytest.param(
        {"model.fp8": {"kind": "delayed", "bf16_layers_at_end": 1}},
        "unknown key 'model.fp8.bf16_layers_at_end'",
        id="delayed-scales-all-layers",
    ),
    pytest.param(
        {"model.offload": {"kind": "layers", "num_layers": 1}},
        "offload.kind=layers .* layers=local",
        id="offload-without-te",
    ),
    pytest.param(
        {**TE, "model.offload": {"kind": "layers", "num_layers": 1}, "model.recompute": "full"},
        "offload.kind=layers .* recompute=full",
        id="offload-and-recompute",
    ),
    pytest.param(
        {**TE, "model.offload": {"kind": "modules", "modules": ["attn_proj"]}},
        "attn_proj without core_attn",
        id="offload-of-a-product-alone",
    ),
    pytest.param(
        {"model.attention": "flash_attention_3"},
        "attention=flash_attention_3 .* dtype=fp32",
        id="kernels-of-bf16",
    ),
    pytest.param(
        {"model.key_exchange": "a2a"}, "key_exchange=a2a .* attention=torch", id="whose-exchange"
    ),
]


@pytest.mark.parametrize(("changes", "world_size"), ACCEPTED)
def test_settings_that_go_together_are_accepted(changes, world_size):
    check_train_config(train_config(**changes), world_size=world_size)


@pytest.mark.parametrize(("changes", "world_size", "message"), REFUSED)
def test_impossible_settings_are_refused_by_key(changes, world_size, message):
    config = train_config(**changes)
    with pytest.raises(ConfigError, match=f"^{message}"):
        check_train_config(config, world_size=world_size)


@pytest.mark.parametrize(("changes", "message"), REFUSED_MODELS)
def test_impossible_computation_is_refused_by_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        train_config(**changes)


def test_behavior_of_another_engine_is_not_the_proximal_policy():
    config = train_config(**{"algorithm.proximal": "behavior"})
    # No other engine can be named yet, so the value goes round the schema.
    rollout = config.rollout.model_copy(update={"engine": "other"})
    with pytest.raises(ConfigError, match=r"^algorithm.proximal=behavior .* rollout.engine=other"):
        check_train_config(config.model_copy(update={"rollout": rollout}), world_size=2)
