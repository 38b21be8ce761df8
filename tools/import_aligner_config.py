r"""Turn NeMo-Aligner's configuration of a PPO actor into a recipe for trainer.loop=nemo_aligner.

    python tools/import_aligner_config.py gpt_ppo_actor.yaml --model models/llama \
        --train train.parquet --output my.yaml trainer.ppo.max_steps=500
    python tools/import_aligner_config.py gpt_ppo_actor.yaml --critic gpt_ppo_critic.yaml \
        --critic-model models/reward --model models/llama --train train.parquet \
        trainer.ppo.max_steps=500 critic.model.optim.lr=1e-5

What is not taken over stands at the head of the recipe, with its reason; a setting that the loop
has no counterpart for ends the command. key=value replaces a setting of the actor's file first,
critic.key=value one of the critic's.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

import yaml

from megatron_longrlvr.config.aligner_import import (
    AlignerImport,
    NewRecipe,
    import_aligner_config,
    read_aligner_config,
)
from megatron_longrlvr.config.aligner_keys import CRITIC_RULES
from megatron_longrlvr.errors import ConfigError

_CRITIC = "critic."


def render(found: AlignerImport, source: Path, critic: Path | None) -> str:
    """The recipe as YAML, behind what was left out."""
    files = [(source, found.left_out)]
    if critic is not None:
        files.append((critic, found.critic_left_out))
    lines = []
    for path, left_out in files:
        lines += [f"# From {path.name} of NeMo-Aligner. Not taken over:", "#"]
        for key, reason in left_out.items():
            lines += textwrap.wrap(
                f"{key}: {reason}", 96, initial_indent="#   ", subsequent_indent="#     "
            )
    return "\n".join(lines) + "\n" + yaml.safe_dump(dict(found.recipe), sort_keys=False)


def main() -> None:
    """Read, translate, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="NeMo-Aligner's YAML, resolved or not")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in NeMo-Aligner's keys")
    parser.add_argument("--critic", type=Path, help="NeMo-Aligner's YAML of the critic")
    parser.add_argument("--critic-model", help="folder, for critic.path (default: --model)")
    parser.add_argument("--model", required=True, help="Hugging Face folder, for model.path")
    parser.add_argument(
        "--train", action="append", required=True, help="file of training prompts; may be repeated"
    )
    parser.add_argument("--eval", action="append", default=[], help="file of held-out prompts")
    parser.add_argument("--group-size", type=int, default=8, help="samples per prompt")
    parser.add_argument("--output", type=Path, help="default: print it")
    arguments = parser.parse_intermixed_args()
    new = NewRecipe(
        model_path=arguments.model,
        train_files=arguments.train,
        eval_files=arguments.eval,
        group_size=arguments.group_size,
        critic_path=arguments.critic_model,
    )
    own = [one for one in arguments.overrides if one.startswith(_CRITIC)]
    overrides = [one for one in arguments.overrides if not one.startswith(_CRITIC)]
    actor = read_aligner_config(arguments.source, overrides)
    critic = None
    if arguments.critic is not None:
        own = [one.removeprefix(_CRITIC) for one in own]
        critic = read_aligner_config(arguments.critic, own, rules=CRITIC_RULES)
    elif own:
        raise ConfigError(f"{own[0]} is a setting of the critic's file; name it with --critic")
    found = import_aligner_config(actor, new, critic=critic)
    text = render(found, arguments.source, arguments.critic)
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        arguments.output.write_text(text)


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"import_aligner_config: {error}")
