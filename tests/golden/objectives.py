"""What published implementations make of random inputs: writes ``objectives.json`` beside itself.

    pip install trl==1.16.0 verl==0.9.1  # into an environment of their own
    python tests/golden/objectives.py trl verl
    pip install --no-deps trl==0.11.4  # its PPO has its advantages in a function
    python tests/golden/objectives.py trl_ppo

Each word stands for a library whose section is written anew; the inputs are drawn first and are the
same whenever they are. ``tests/unit/algorithms/test_published.py`` compares ours with the file, so
that none of the libraries is needed to run the tests.

Losses are told with their gradient with respect to the policy's log-probabilities. Rows are padded
responses: S of them in two groups of three, T tokens of the longest.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch

FILE = Path(__file__).with_suffix(".json")
LENGTHS = (7, 3, 5, 1, 6, 4)
LONGEST, MAX_TOKENS, GROUP = 7, 8, 3
CLIP_LOW, CLIP_HIGH, DUAL_CLIP, TRUNCATE_AT, KL_COEFFICIENT = 0.2, 0.28, 1.5, 1.2, 0.3
GAMMA, LAM, VALUE_CLIP = 0.9, 0.8, 0.2
BUFFER, PENALTY = 4, 0.5


def draw_inputs():
    """Random numbers of four decimals, the same every time; each bound holds some tokens back."""
    draw = torch.Generator().manual_seed(16)

    def normal(*shape, scale):
        return (scale * torch.randn(*shape, generator=draw)).mul(1e4).round().div(1e4)

    shape = (len(LENGTHS), LONGEST)
    proximal = -normal(*shape, scale=1.5).abs()
    return {
        "proximal_logprobs": proximal,
        "policy_logprobs": proximal + normal(*shape, scale=0.5),
        "behavior_logprobs": proximal + normal(*shape, scale=0.3),
        "reference_logprobs": proximal + normal(*shape, scale=0.3),
        "advantages": normal(*shape, scale=1.0),
        "token_rewards": normal(*shape, scale=0.5),
        "values": normal(*shape, scale=1.0),
        "new_values": normal(*shape, scale=1.0),
        "rewards": normal(len(LENGTHS), scale=1.0),
    }


def mask():
    """[S, T] float32; 1 at tokens of responses."""
    return (torch.arange(LONGEST) < torch.tensor(LENGTHS)[:, None]).float()


def with_gradient(loss_of, inputs):
    """A loss, and its gradient with respect to the policy's log-probabilities."""
    policy = inputs["policy_logprobs"].clone().requires_grad_()
    loss = loss_of(policy)
    loss.backward()
    return {"loss": loss.item(), "gradient": policy.grad.tolist()}


def trl_losses(inputs):
    """``GRPOTrainer``'s loss, its model replaced by log-probabilities."""
    from trl import GRPOTrainer

    def loss(loss_type, *, level="token", **settings):
        trainer = GRPOTrainer.__new__(GRPOTrainer)
        args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
        plain = {
            "loss_type": loss_type,
            "importance_sampling_level": level,
            "args": args,
            "beta": 0.0,
            "epsilon_low": CLIP_LOW,
            "epsilon_high": CLIP_HIGH,
            "max_completion_length": MAX_TOKENS,
            "top_entropy_quantile": 1.0,
            "off_policy_mask_threshold": None,
            "aux_loss_enabled": False,
            "use_vllm": False,
            "_entropy_bonus_enabled": False,
            "current_gradient_accumulation_steps": 1,
            "model": SimpleNamespace(training=True),
            "_metrics": {"train": defaultdict(list)},
            "accelerator": SimpleNamespace(
                num_processes=1, gather=lambda x: x, reduce=lambda x, **_: x
            ),
        }
        args.delta = settings.pop("delta", None)
        trainer.__dict__.update({**plain, **settings})

        def of(policy):
            trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
                policy,
                torch.zeros_like(policy),
                None,
            )
            ids = torch.zeros(policy.shape, dtype=torch.int64)
            return trainer._compute_loss(
                trainer.model,
                {
                    "prompt_ids": ids[:, :1],
                    "prompt_mask": ids[:, :1],
                    "completion_ids": ids,
                    "completion_mask": mask(),
                    "advantages": inputs["advantages"],
                    "old_per_token_logps": inputs["proximal_logprobs"],
                    "ref_per_token_logps": inputs["reference_logprobs"],
                    "num_items_in_batch": mask().sum(),
                },
            )

        return with_gradient(of, inputs)

    return {
        "token_mean": loss("dapo"),
        "token_mean_dual_clip": loss("bnpo", delta=DUAL_CLIP),
        "sequence_mean": loss("grpo"),
        "constant": loss("dr_grpo"),
        "kl_in_loss": loss("dapo", beta=KL_COEFFICIENT),
        # Its bound is the largest weight itself.
        "cispo": loss("cispo", epsilon_high=1 + CLIP_HIGH),
    }


def trl_ppo_advantages(inputs):
    """``PPOTrainer``'s advantages, whitened, and returns."""
    from trl.trainer.ppo_trainer import PPOTrainer

    trainer = SimpleNamespace(config=SimpleNamespace(gamma=GAMMA, lam=LAM, whiten_rewards=False))
    _, advantages, returns = PPOTrainer.compute_advantages(
        trainer, inputs["values"], inputs["token_rewards"], mask()
    )
    return {
        "whitened_advantages": (advantages * mask()).tolist(),
        "returns": (returns * mask()).tolist(),
    }


def verl_results(inputs):
    """Advantages, losses, value loss, importance weights and the charge for long responses."""
    return {
        **_verl_advantages(inputs),
        **_verl_losses(inputs),
        **_verl_critic(inputs),
        "overlong_rewards": _verl_overlong(inputs),
    }


def _verl_advantages(inputs):
    from verl.trainer.ppo import core_algos

    # One token each: its REINFORCE++ counts tokens where ours counts samples.
    rewards, one = inputs["rewards"][:, None], torch.ones(len(LENGTHS), 1)
    index = [place // GROUP for place in range(len(LENGTHS))]

    def found(name, **settings):
        estimate = core_algos.get_adv_estimator_fn(name)
        values, _ = estimate(
            token_level_rewards=rewards.clone(), response_mask=one, index=index, **settings
        )
        return values[:, 0].tolist()

    return {
        "grpo": found("grpo"),
        "dr_grpo": found("grpo", norm_adv_by_std_in_grpo=False),
        "rloo": found("rloo"),
        "reinforce_plus_plus_baseline": found("reinforce_plus_plus_baseline"),
    }


def _verl_losses(inputs):
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
    from verl.workers.config import ActorConfig

    weights, _ = compute_rollout_correction_weights(
        inputs["proximal_logprobs"] - inputs["behavior_logprobs"],
        mask(),
        rollout_is="token",
        rollout_is_threshold=TRUNCATE_AT,
    )

    def loss(name, mode, *, low=CLIP_LOW, dual=DUAL_CLIP, importance=None):
        config = ActorConfig(
            strategy="fsdp",
            ppo_micro_batch_size_per_gpu=1,
            rollout_n=1,
            clip_ratio_low=low,
            clip_ratio_high=CLIP_HIGH,
            clip_ratio_c=dual,
        )

        def of(policy):
            return core_algos.get_policy_loss_fn(name)(
                old_log_prob=inputs["proximal_logprobs"],
                log_prob=policy,
                advantages=inputs["advantages"],
                response_mask=mask(),
                loss_agg_mode=mode,
                config=config,
                rollout_is_weights=importance,
            )[0]

        return with_gradient(of, inputs)

    return {
        "clipped": loss("vanilla", "token-mean"),
        "truncated_importance": loss("vanilla", "token-mean", importance=weights),
        "gspo": loss("gspo", "seq-mean-token-mean"),
        # The bound from below, which is not in the paper, is out of reach.
        "cispo": loss("cispo", "token-mean", low=1.0),
        **{
            kind: with_gradient(
                lambda policy, kind=kind: (
                    core_algos.kl_penalty(policy, inputs["reference_logprobs"], kind) * mask()
                ).sum(),
                inputs,
            )
            for kind in ("k1", "k2", "k3")
        },
    }


def _verl_critic(inputs):
    from verl.trainer.ppo import core_algos

    advantages, returns = core_algos.compute_gae_advantage_return(
        inputs["token_rewards"], inputs["values"], mask(), GAMMA, LAM
    )
    loss, clipped = core_algos.compute_value_loss(
        inputs["new_values"], returns, inputs["values"], mask(), VALUE_CLIP
    )
    return {
        "whitened_advantages": (advantages * mask()).tolist(),
        "returns": (returns * mask()).tolist(),
        "value_loss": loss.item(),
        "value_clipped_frac": clipped.item(),
    }


def _verl_overlong(inputs):
    from verl import DataProto
    from verl.workers.reward_manager.dapo import DAPORewardManager

    rewards = iter(inputs["rewards"].tolist())
    manager = DAPORewardManager(
        tokenizer=SimpleNamespace(decode=lambda *_, **__: "", eos_token="."),
        num_examine=0,
        compute_score=lambda **_: next(rewards),
        max_resp_len=MAX_TOKENS,
        overlong_buffer_cfg=SimpleNamespace(
            enable=True, len=BUFFER, penalty_factor=PENALTY, log=False
        ),
    )
    ids = torch.zeros(len(LENGTHS), LONGEST, dtype=torch.int64)
    data = DataProto.from_dict(
        tensors={
            "prompts": ids[:, :1],
            "responses": ids,
            "attention_mask": torch.cat([torch.ones(len(LENGTHS), 1), mask()], dim=1).long(),
        },
        non_tensors={
            "reward_model": [{"ground_truth": ""}] * len(LENGTHS),
            "data_source": [""] * len(LENGTHS),
        },
    )
    return manager(data).sum(dim=1).tolist()


SECTIONS = {
    "trl": ("trl", trl_losses),
    "trl_ppo": ("trl", trl_ppo_advantages),
    "verl": ("verl", verl_results),
}


def laid_out(content):
    """JSON with a line for each result, and as many digits as float32 has."""
    short = json.loads(json.dumps(content), parse_float=lambda text: float(f"{float(text):.7g}"))
    sections = [
        f' "{section}": {{\n'
        + ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in results.items())
        + "\n }"
        for section, results in short.items()
    ]
    return "{\n" + ",\n".join(sections) + "\n}\n"


def main():
    inputs = draw_inputs()
    content = json.loads(FILE.read_text()) if FILE.exists() else {}
    content["inputs"] = {name: tensor.tolist() for name, tensor in inputs.items()}
    for section in sys.argv[1:]:
        library, results_of = SECTIONS[section]
        content[section] = {"version": f"{library} {version(library)}", **results_of(inputs)}
    FILE.write_text(laid_out(content))


if __name__ == "__main__":
    main()
