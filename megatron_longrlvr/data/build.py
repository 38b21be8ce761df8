"""From a recipe's data section to a source of prompts."""

from __future__ import annotations

from pathlib import Path

from megatron_longrlvr.config.task import DataSource, FileDataConfig
from megatron_longrlvr.data.dataset import LoadedPrompts, load_prompts
from megatron_longrlvr.data.sources import FilePromptSource, PromptSource
from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.data.toy_source import ToyPromptSource
from megatron_longrlvr.errors import ConfigError


def build_prompt_source(
    config: DataSource,
    tokenizer: Tokenizer,
    *,
    max_prompt_tokens: int,
    overlong: str,
    allow_unreachable_evidence: bool = False,
    seed: int,
) -> tuple[PromptSource, list[str]]:
    """Open a source.

    Args:
        config: Which source.
        tokenizer: The policy's.
        max_prompt_tokens: Longest prompt that is used.
        overlong: ``"refuse"``, ``"drop"`` or ``"cut"``, for prompts above it.
        allow_unreachable_evidence: Whether prompts may be used whose evidence cannot be read.
        seed: Order of the prompts, where the source shuffles.

    Returns:
        The source, and what happened to prompts for their length, a sentence each.

    Raises:
        DataError: A record cannot be used; names file and record.
        ConfigError: Every prompt of the toy task is too long.
    """
    if isinstance(config, FileDataConfig):
        loaded = load_prompts(
            [Path(path) for path in config.paths],
            tokenizer=tokenizer,
            max_prompt_tokens=max_prompt_tokens,
            overlong=overlong,  # type: ignore[arg-type] # the schema's own words
            allow_unreachable_evidence=allow_unreachable_evidence,
        )
        files = FilePromptSource(loaded.prompts, seed=seed, shuffle=config.shuffle)
        return files, _tell_lengths(loaded, max_prompt_tokens)
    source = ToyPromptSource(config, tokenizer)
    longest = max(len(prompt.token_ids) for prompt in source.draw(1))
    source.restore(0)
    if longest > max_prompt_tokens:
        # All prompts of the task are alike, so dropping the long ones would leave none.
        raise ConfigError(
            f"data.max_prompt_tokens={max_prompt_tokens} is below the {longest} tokens of the toy "
            f"task's prompts with num_chunks={config.num_chunks}"
        )
    return source, []


def _tell_lengths(loaded: LoadedPrompts, max_prompt_tokens: int) -> list[str]:
    counts = {"left out": loaded.num_dropped_overlong, "cut the beginning of": loaded.num_cut}
    return [
        f"{verb} {count} prompts above {max_prompt_tokens} tokens"
        for verb, count in counts.items()
        if count
    ]
