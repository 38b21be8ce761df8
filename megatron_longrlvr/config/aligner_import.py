"""Turn NeMo-Aligner's configuration of a PPO actor, and of its critic, into a recipe.

Every key of the files is taken over, left out with a reason, or refused: nothing of them is lost
unsaid. The recipe has NeMo-Aligner's loop drive it, with the critic's advantages where a critic's
file is given and group advantages otherwise, and with the rewards of this package, which such files
cannot hold.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_longrlvr.config.aligner_keys import (
    CRITIC_DERIVED,
    CRITIC_RULES,
    DERIVED,
    RULES,
    SHARED_WITH_POLICY,
    Fixed,
    Left,
    Rule,
    Taken,
    find_rule,
)
from megatron_longrlvr.config.checks import check_train_config
from megatron_longrlvr.config.load import parse_config
from megatron_longrlvr.config.policy import LayoutConfig
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError

_CRITIC = "critic."
_ROWS = "model.micro_batch_size"
_PENALTY = "trainer.ppo.initial_policy_kl_penalty"

# Of the AdamW of torch, Apex and megatron-core alike, where a file gives none.
_BETAS = (0.9, 0.999)

_EVALUATION = {
    "model.ppo.num_val_samples": "evaluation.num_prompts",
    "trainer.ppo.val_check_interval": "trainer.eval_every",
}

# What NeMo-Aligner's programs register with OmegaConf.
_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "multiply": operator.mul,
    "int_div": operator.floordiv,
    "subtract": operator.sub,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignerImport:
    """A recipe, and what of the files is not in it."""

    recipe: Mapping[str, Any]
    left_out: Mapping[str, str]
    """Reason by key of the actor's file."""

    critic_left_out: Mapping[str, str]
    """Reason by key of the critic's file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRecipe:
    """What a recipe needs and such a file does not say."""

    model_path: str
    train_files: Sequence[str]
    eval_files: Sequence[str] = ()
    group_size: int = 8
    critic_path: str | None = None
    """Where a critic starts; None for ``model_path``."""


def read_aligner_config(
    path: Path, overrides: Sequence[str] = (), *, rules: Mapping[str, Rule] = RULES
) -> dict[str, Any]:
    """Read a file with its ``${...}`` filled in, NeMo's arithmetic included.

    Args:
        path: The YAML file.
        overrides: ``key=value`` in NeMo-Aligner's keys, as its command line takes them.
        rules: Of its keys. What is left out is left as it stands, as it may refer to settings of a
            checkpoint of NeMo's.

    Returns:
        Values by dotted key.

    Raises:
        ConfigError: It is no such file; names the key.
    """
    from omegaconf import DictConfig, ListConfig, OmegaConf  # late: imports must be quick
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 2.4 has another name for it, which 2.3 does not know
        for name, compute in _ARITHMETIC.items():
            OmegaConf.register_new_resolver(name, compute, replace=True)

    def value_of(key: str, value: object) -> object:
        if isinstance(find_rule(key, rules), Left):
            return value
        found = OmegaConf.select(config, key)
        is_node = isinstance(found, DictConfig | ListConfig)
        return OmegaConf.to_container(found, resolve=True) if is_node else found

    try:
        loaded = OmegaConf.load(path)
        if not isinstance(loaded, DictConfig) or not {"trainer", "model"} <= loaded.keys():
            raise ConfigError(
                f"{path} is no configuration of a PPO actor or critic: no trainer and model in it"
            )
        config = OmegaConf.merge(loaded, OmegaConf.from_dotlist(list(overrides)))
        content = OmegaConf.to_container(config, resolve=False)
        assert isinstance(content, dict), "a mapping stays one"
        keyed = {str(section): below for section, below in content.items()}
        return {key: value_of(key, value) for key, value in _leaves(keyed)}
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error


def import_aligner_config(
    actor: Mapping[str, Any], new: NewRecipe, *, critic: Mapping[str, Any] | None = None
) -> AlignerImport:
    """Translate a configuration.

    Args:
        actor: As :func:`read_aligner_config` returns it.
        new: What the files do not say.
        critic: The same of the critic's file, read with its rules; None for group advantages.

    Raises:
        ConfigError: A key is not known, has a value that our loop has no counterpart for, or is
            missing; names it. Or the recipe would be refused on any number of ranks.
    """
    taken, left_out = _translate(actor, RULES, DERIVED, what="PPO actor")
    taken |= _batches(actor, new.group_size) | _lengths(actor) | _losses(actor)
    taken |= _betas(actor, "optimizer")
    critic_left_out: Mapping[str, str] = {}
    if critic is None:
        for key, target in _critic_targets(actor):
            left_out[key] = f"group advantages have no critic; it would be {target}"
            del taken[target]
    else:
        found, critic_left_out = _translate(critic, CRITIC_RULES, CRITIC_DERIVED, what="PPO critic")
        _check_shared(actor, critic)
        taken |= found | _betas(critic, "critic.optimizer") | _critics(actor, new)
    if new.eval_files:
        _needed(actor, "model.ppo.num_val_samples")
    else:
        for key, target in _EVALUATION.items():
            if taken.pop(target, None) is not None:
                left_out[key] = "no files to evaluate on were named"
    taken |= _surroundings(new)
    recipe = _nested(taken)
    config = parse_config(recipe, TrainConfig, origin="the translated recipe")
    check_train_config(config, world_size=_fewest_ranks(config.layout))
    return AlignerImport(recipe=recipe, left_out=left_out, critic_left_out=critic_left_out)


def _translate(
    given: Mapping[str, Any], rules: Mapping[str, Rule], derived: Set[str], *, what: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by key of a recipe, and reasons by key of the file."""
    taken: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for key, value in given.items():
        if key in derived:
            continue
        match find_rule(key, rules):
            case Taken(target, convert):
                taken[target] = _converted(key, value, convert)
            case Fixed(values, reason):
                if value not in values:
                    raise ConfigError(f"{key}={value} cannot be taken over: {reason}")
                left_out[key] = reason
            case Left(reason):
                left_out[key] = reason
            case None:
                raise ConfigError(f"{key} is not a key of NeMo-Aligner's {what}")
    return taken, left_out


def _critic_targets(actor: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Keys of the actor's file that are about the critic, and what they become."""
    rules = [(key, find_rule(key)) for key in actor]
    return [
        (key, rule.key)
        for key, rule in rules
        if isinstance(rule, Taken) and rule.key.startswith(_CRITIC)
    ]


def _check_shared(actor: Mapping[str, Any], critic: Mapping[str, Any]) -> None:
    for key, reason in SHARED_WITH_POLICY.items():
        own, policys = critic.get(key), actor.get(key) or 1
        if own is not None and own != policys:
            raise ConfigError(
                f"{key}={own} of the critic's file, and {policys} of the actor's, cannot be taken "
                f"over: {reason}"
            )


def _critics(actor: Mapping[str, Any], new: NewRecipe) -> dict[str, Any]:
    """What a recipe with a critic has besides the critic's own settings."""
    found: dict[str, Any] = {
        "algorithm.advantage": "gae",
        "algorithm.drop_uninformative_groups": False,
        "critic.path": new.critic_path,
    }
    warmup_steps = actor.get("trainer.ppo.critic_warmup_steps") or 0
    if not isinstance(warmup_steps, int):
        raise ConfigError(f"trainer.ppo.critic_warmup_steps={warmup_steps!r} must be a number")
    steps = _needed(actor, "trainer.ppo.max_steps")
    # NeMo-Aligner repeats its first step for the critic and counts one; here each of them counts.
    return found | {"trainer.steps": steps + warmup_steps}


def _batches(given: Mapping[str, Any], group_size: int) -> dict[str, Any]:
    if group_size < 1:
        raise ConfigError(f"a group of {group_size} samples holds none; it takes at least 1")
    samples = _needed(given, "model.ppo.num_rollout_samples")
    batch = _needed(given, "model.global_batch_size")
    if samples % group_size:
        raise ConfigError(
            f"model.ppo.num_rollout_samples={samples} is no multiple of the group size {group_size}"
        )
    if samples % batch:
        raise ConfigError(
            f"model.ppo.num_rollout_samples={samples} is no multiple of "
            f"model.global_batch_size={batch}, so a step has no whole number of updates"
        )
    return {
        "rollout.prompts_per_step": samples // group_size,
        "rollout.group_size": group_size,
        "algorithm.updates_per_step": samples // batch,
    }


def _lengths(given: Mapping[str, Any]) -> dict[str, Any]:
    whole = _needed(given, "model.encoder_seq_length")
    response = _needed(given, "model.ppo.length_params.max_length")
    rows = _needed(given, _ROWS) if _ROWS in given else 1
    if response >= whole:
        raise ConfigError(
            f"model.ppo.length_params.max_length={response} leaves no prompt in "
            f"model.encoder_seq_length={whole}"
        )
    return {
        "data.max_prompt_tokens": whole - response,
        "rollout.max_response_tokens": response,
        "algorithm.micro_batch_tokens": whole * rows,
    }


def _losses(given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "model.ppo.ratio_eps" in given:
        bound = given["model.ppo.ratio_eps"]
        found |= {"algorithm.clip_low": bound, "algorithm.clip_high": bound}
        found["algorithm.dual_clip"] = None  # its loss has no such bound
    penalty = given.get(_PENALTY, 0)
    if not isinstance(penalty, int | float):
        raise ConfigError(f"{_PENALTY}={penalty!r} must be a number")
    if penalty > 0:
        if given.get("trainer.ppo.use_absolute_kl", True):
            raise ConfigError(
                "trainer.ppo.use_absolute_kl=True cannot be taken over: the estimators are k1, k2 "
                "and k3; set it to False (k1), or initial_policy_kl_penalty to 0"
            )
        found |= {"algorithm.kl.estimator": "k1", "algorithm.kl.place": "reward"}
    return found


def _betas(given: Mapping[str, Any], section: str) -> dict[str, Any]:
    betas = given.get("model.optim.betas", _BETAS)
    if not isinstance(betas, Sequence) or len(betas) != len(_BETAS):
        raise ConfigError(f"model.optim.betas={betas!r} must be two numbers")
    return {f"{section}.beta1": betas[0], f"{section}.beta2": betas[1]}


def _surroundings(new: NewRecipe) -> dict[str, Any]:
    found = {
        "kind": "train",
        "model.path": new.model_path,
        "data.train": {"kind": "files", "paths": list(new.train_files)},
        "trainer.loop": "nemo_aligner",
    }
    if new.eval_files:
        found["evaluation.data"] = {
            "kind": "files",
            "paths": list(new.eval_files),
            "shuffle": False,
        }
    return found


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif key == "defaults" and not prefix:
            yield "defaults.list", value
        else:
            yield f"{prefix}{key}", value


def _converted(key: str, value: object, convert: Any) -> object:  # noqa: ANN401 - of the table
    try:
        return convert(value)
    except ValueError as error:
        raise ConfigError(f"{key}={value} cannot be taken over: {error}") from error


def _fewest_ranks(layout: LayoutConfig) -> int:
    """What any run has a multiple of."""
    return layout.tp * layout.pp * math.lcm(layout.cp, layout.ep)


def _needed(given: Mapping[str, Any], key: str) -> int:
    value = given.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"{key} must be a number above 0, got {value!r}")
    return value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    recipe: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        place = recipe
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return recipe
