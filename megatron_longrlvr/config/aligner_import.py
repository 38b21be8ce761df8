"""Turn a NeMo-Aligner configuration of a PPO actor into a recipe.

Every key of the file is taken over, left out with a reason, or refused: nothing of it is lost
unsaid. The recipe has NeMo-Aligner's loop drive it, group advantages unless a critic is asked for,
and the rewards of this package, which such a file cannot hold.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_longrlvr.config.aligner_keys import DERIVED, Fixed, Left, Taken, find_rule
from megatron_longrlvr.config.load import parse_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError

_CRITIC = "critic."


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignerImport:
    """A recipe, and what of the file is not in it."""

    recipe: Mapping[str, Any]
    left_out: Mapping[str, str]
    """Reason by key of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRecipe:
    """What a recipe needs and such a file does not say."""

    model_path: str
    train_files: Sequence[str]
    eval_files: Sequence[str] = ()
    group_size: int = 8


def read_aligner_config(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read the file with its ``${...}`` filled in, NeMo's arithmetic included.

    Args:
        path: The YAML file.
        overrides: ``key=value`` in NeMo-Aligner's keys, as its command line takes them.

    Raises:
        ConfigError: It is no such file; names the key.
    """
    from omegaconf import OmegaConf  # late: the schema must import quickly
    from omegaconf.errors import OmegaConfBaseException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 2.4 has another name for it, which 2.3 does not know
        OmegaConf.register_new_resolver("multiply", operator.mul, replace=True)
        OmegaConf.register_new_resolver("int_div", operator.floordiv, replace=True)
    try:
        config = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        content = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, OSError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or not {"trainer", "model"} <= content.keys():
        raise ConfigError(f"{path} is no configuration of a PPO actor: no trainer and model in it")
    return {str(key): value for key, value in content.items()}


def import_aligner_config(content: Mapping[str, Any], new: NewRecipe) -> AlignerImport:
    """Translate a configuration.

    Args:
        content: As :func:`read_aligner_config` returns it.
        new: What the file does not say.

    Raises:
        ConfigError: A key is not known, has a value that our loop has no counterpart for, or is
            missing; names it.
    """
    given = dict(_leaves(content))
    taken: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for key, value in given.items():
        if key in DERIVED:
            continue
        match find_rule(key):
            case Taken(target) if target.startswith(_CRITIC):
                left_out[key] = f"group advantages have no critic; it would be {target}"
            case Taken(target, convert):
                taken[target] = _converted(key, value, convert)
            case Fixed(values, reason):
                if value not in values:
                    raise ConfigError(f"{key}={value} cannot be taken over: {reason}")
                left_out[key] = reason
            case Left(reason):
                left_out[key] = reason
            case None:
                raise ConfigError(f"{key} is not a key of NeMo-Aligner's PPO actor")
    taken |= _batches(given, new.group_size) | _lengths(given) | _losses(given)
    if not new.eval_files and taken.pop("evaluation.num_prompts", None) is not None:
        left_out["model.ppo.num_val_samples"] = "no files to evaluate on were named"
    taken |= _surroundings(new, has_evaluation="evaluation.num_prompts" in taken)
    recipe = _nested(taken)
    parse_config(recipe, TrainConfig, origin="the translated recipe")
    return AlignerImport(recipe=recipe, left_out=left_out)


def _batches(given: Mapping[str, Any], group_size: int) -> dict[str, Any]:
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
    if not 0 < response < whole:
        raise ConfigError(
            f"model.ppo.length_params.max_length={response} leaves no prompt in "
            f"model.encoder_seq_length={whole}"
        )
    return {
        "data.max_prompt_tokens": whole - response,
        "rollout.max_response_tokens": response,
        "algorithm.micro_batch_tokens": whole * given.get("model.micro_batch_size", 1),
    }


def _losses(given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "model.ppo.ratio_eps" in given:
        bound = given["model.ppo.ratio_eps"]
        found |= {"algorithm.clip_low": bound, "algorithm.clip_high": bound}
        found["algorithm.dual_clip"] = None  # its loss has no such bound
    if given.get("trainer.ppo.initial_policy_kl_penalty", 0) > 0:
        if given.get("trainer.ppo.use_absolute_kl", True):
            raise ConfigError(
                "trainer.ppo.use_absolute_kl=True cannot be taken over: the estimators are k1, k2 "
                "and k3; set it to False (k1), or initial_policy_kl_penalty to 0"
            )
        found |= {"algorithm.kl.estimator": "k1", "algorithm.kl.place": "reward"}
    if "model.optim.betas" in given:
        beta1, beta2 = given["model.optim.betas"]
        found |= {"optimizer.beta1": beta1, "optimizer.beta2": beta2}
    return found


def _surroundings(new: NewRecipe, *, has_evaluation: bool) -> dict[str, Any]:
    found = {
        "kind": "train",
        "model.path": new.model_path,
        "data.train": {"kind": "files", "paths": list(new.train_files)},
        "trainer.loop": "nemo_aligner",
    }
    if has_evaluation:
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


def _needed(given: Mapping[str, Any], key: str) -> int:
    value = given.get(key)
    if not isinstance(value, int) or value <= 0:
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
