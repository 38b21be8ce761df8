"""A module imports only its own layer and the ones below; heavy libraries have one home each.

Checked on the source, so that imports inside functions and under TYPE_CHECKING count too, and on
fresh interpreters, where what must be light is seen to come up without torch. The rules
themselves are tried on small sources that break them.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "megatron_longrlvr"
ROOT = Path(__file__).parents[2]

OUTSIDE = {"launch", "tools"}

# From the bottom up, names within the package. The longest that a module starts with counts.
LAYERS = {
    "words": ["stages", "errors", "files"],
    "description": [
        *("config", "recipes", "planner"),
        *(
            "parallel.layout",
            "model.spec",
            "model.rope_spec",
            "model.expert_spec",
            "model.family",
            "model.weight_map",
            "model.flops",
            "refit.plan",
            "refit.sources",
        ),
    ],
    "logic": [
        "chat",
        "data",
        "http",
        "rewards",
        "algorithms",
        "theory",
        "evaluation.scoring",
        "observability",
    ],
    "machines": ["model", "rollout", "refit", "checkpoint", "conversion", "parallel"],
    "assembly": ["trainer", "aligner", "evaluation", "reporting"],
    "doors": ["cli", "cli_data", "__main__"],
}
RANK = {f"{PACKAGE}.{name}": rank for rank, names in enumerate(LAYERS.values()) for name in names}
RANK |= dict.fromkeys(OUTSIDE, len(LAYERS) - 1)

HOMES = {
    "megatron": ["model.mcore", "model.cpu", "parallel.groups", "checkpoint"],
    "transformer_engine": ["model"],
    "vllm": ["rollout", "refit"],
    "httpcore2": ["http"],
    "nemo_aligner": ["aligner"],
}
DESCRIPTION_MODULES = [
    *(f"config.{name}" for name in ("load", "schema", "sft", "checks")),
    *(
        "recipes",
        "parallel.layout",
        "model.spec",
        "model.rope_spec",
        "model.expert_spec",
        "model.family",
        "model.flops",
        "refit.sources",
        "planner.search",
    ),
]


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    name_of(path): path
    for folder in (PACKAGE, *sorted(OUTSIDE))
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def is_inside(module, package):
    return module == package or module.startswith(f"{package}.")


def rank_of(module):
    """Layer of a module; None where nobody has given it one."""
    if module == PACKAGE:
        return 0
    homes = [name for name in RANK if is_inside(module, name)]
    return RANK[max(homes, key=len)] if homes else None


def imported_modules(source, known):
    """Names that a source imports: modules, and for `from package import module` that module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def violations(module, source, known=frozenset(SOURCES)):
    """What is wrong with a module's imports, one sentence each."""
    own = rank_of(module)
    if own is None:
        yield f"{module} belongs to no layer: add it to LAYERS"
        return
    for target in imported_modules(source, known):
        library = target.split(".")[0]
        homes = [f"{PACKAGE}.{home}" for home in HOMES.get(library, [])]
        if homes and not any(is_inside(module, home) for home in homes):
            yield f"{library} belongs to {', '.join(homes)}, not to {module}"
        if library in {PACKAGE, *OUTSIDE}:
            rank = rank_of(target)
            if rank is None or rank > own:
                layer = "no layer" if rank is None else f"the layer {list(LAYERS)[rank]}"
                yield f"{module} ({list(LAYERS)[own]}) may not import {target} of {layer}"


@pytest.mark.parametrize("module", SOURCES)
def test_module_imports_only_its_own_and_lower_layers(module):
    assert list(violations(module, SOURCES[module].read_text())) == []


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        pytest.param("config.load", "from megatron_longrlvr.data import toy", "data of", id="up"),
        pytest.param("model.spec", "import megatron_longrlvr.model.build", "build of", id="inner"),
        pytest.param(
            "parallel.layout", "from megatron_longrlvr.parallel import groups", "groups of", id="as"
        ),
        pytest.param("rewards.x", "def f():\n    import launch.slurm", "launch.slurm", id="lazy"),
        pytest.param("trainer.x", "from megatron import core", "megatron belongs", id="megatron"),
        pytest.param("model.x", "import megatron.core.utils", "megatron belongs", id="not-mcore"),
        pytest.param("trainer.x", "import vllm.outputs", "vllm belongs to", id="vllm"),
        pytest.param("novel.x", "", "novel.x belongs to no layer", id="homeless"),
        pytest.param("trainer.x", "import megatron_longrlvr.novel", "of no layer", id="unknown"),
    ],
)
def test_import_that_breaks_a_rule_is_named(module, source, message):
    (found,) = violations(f"{PACKAGE}.{module}", source)
    assert message in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("model.build", "from megatron_longrlvr.model import spec", id="downward"),
        pytest.param("model.cpu.x", "import megatron.core", id="at-home"),
        pytest.param("model.x", "from megatron_longrlvr.stages import Prompt", id="words"),
        pytest.param("cli", "from megatron_longrlvr import __version__", id="package-itself"),
    ],
)
def test_import_within_the_rules_passes(module, source):
    assert list(violations(f"{PACKAGE}.{module}", source)) == []


@pytest.mark.parametrize("module", DESCRIPTION_MODULES)
def test_description_imports_without_torch(module):
    code = (
        f"import sys, {PACKAGE}.{module}; "
        "print(sorted({'torch', 'transformers', 'megatron.core', 'numpy'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
