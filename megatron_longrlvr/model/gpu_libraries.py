"""Libraries that only a GPU machine has, asked for by a recipe: there, or an error that says how.

Nothing here chooses another library in the place of a missing one.
"""

from __future__ import annotations

import importlib

from megatron_longrlvr.errors import ConfigError

_TRANSFORMER_ENGINE = (
    "pip install --no-build-isolation 'transformer-engine[pytorch,core_cu13]' beside a CUDA build "
    "of torch, or use an NGC PyTorch image (see the Dockerfile)"
)
_APEX = (
    "build it from NVIDIA/apex with --cpp_ext and --cuda_ext, or use an NGC PyTorch image (see the "
    "Dockerfile)"
)
_FLASH_ATTENTION = {
    3: "build flash_attn_interface from the folder hopper/ of Dao-AILab/flash-attention",
    4: "pip install flash-attn-4",
}


def require_transformer_engine(setting: str) -> None:
    """Make sure that Transformer Engine imports.

    Args:
        setting: What asks for it, as ``key=value``.

    Raises:
        ConfigError: It does not; says why, and what to install.
    """
    _require("transformer_engine.pytorch", "Transformer Engine", setting, _TRANSFORMER_ENGINE)


def require_apex(setting: str) -> None:
    """Make sure that Apex's optimizers import.

    Args:
        setting: What asks for them, as ``key=value``.

    Raises:
        ConfigError: They do not; says why, and what to install.
    """
    _require("apex.optimizers", "Apex", setting, _APEX)


def use_flash_attention(version: int, setting: str) -> None:
    """Have torch's attention run the kernels of a later FlashAttention, in this process.

    Args:
        version: 3 or 4.
        setting: What asks for it, as ``key=value``.

    Raises:
        ConfigError: Its package does not import, or torch knows of no such version.
    """
    attention = importlib.import_module("torch.nn.attention")
    remedy = _FLASH_ATTENTION[version]
    try:
        attention.activate_flash_attention_impl(f"FA{version}")
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{setting} needs FlashAttention {version}, which does not load ({error}); {remedy}"
        ) from error


def _require(module: str, name: str, setting: str, remedy: str) -> None:
    try:
        importlib.import_module(module)
    # Compiled against another torch or CUDA, a library fails while it is loaded (OSError) or
    # checks its own installation (RuntimeError, AssertionError).
    except (ImportError, OSError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{setting} needs {name}, which does not import ({error}); {remedy}"
        ) from error
