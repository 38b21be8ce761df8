"""Which of the libraries behind NeMo-Aligner are installed; asked without importing any."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from megatron_longrlvr.errors import ConfigError

ALIGNER_VERSION = "0.7.0"
"""The last release; what it does inside is relied on, so no other one is taken."""

_INSTALL = (
    "run bash launch/setup.sh --aligner, or pip install --no-deps "
    f"nemo-aligner=={ALIGNER_VERSION} pandas"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Presence:
    """Installed versions; None where there is none."""

    aligner: str | None
    nemo: str | None
    tensorrt_llm: str | None

    def describe(self) -> str:
        """One line for the log and for ``--version``."""
        if self.aligner is None:
            return "nemo-aligner is not installed"
        return (
            f"nemo-aligner {self.aligner}, NeMo {_real(self.nemo)}, "
            f"TensorRT-LLM {_real(self.tensorrt_llm)}"
        )


def find_presence() -> Presence:
    """Look into the installed distributions."""
    return Presence(
        aligner=_version("nemo-aligner"),
        nemo=_version("nemo_toolkit"),
        tensorrt_llm=_version("tensorrt_llm"),
    )


def check_presence(presence: Presence) -> None:
    """Refuse what the loop cannot run with.

    Raises:
        ConfigError: NeMo-Aligner is missing, or of another version.
    """
    if presence.aligner is None:
        raise ConfigError(
            f"trainer.loop=nemo_aligner needs nemo-aligner {ALIGNER_VERSION}; {_INSTALL}"
        )
    if presence.aligner != ALIGNER_VERSION:
        raise ConfigError(
            f"trainer.loop=nemo_aligner needs nemo-aligner {ALIGNER_VERSION}, and "
            f"{presence.aligner} is installed; {_INSTALL}"
        )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _real(version: str | None) -> str:
    return "absent (stand-in names)" if version is None else version
