"""The exceptions that somebody catches by name."""

from __future__ import annotations


class ConfigError(ValueError):
    """A recipe, an override or a combination of settings cannot run; names the key."""


class DataError(ValueError):
    """A dataset record cannot be used; names the file and the record."""


class CheckpointError(RuntimeError):
    """A checkpoint is absent, incomplete or does not fit the run that asks for it."""


class CheckpointWriterKilled(CheckpointError):  # noqa: N818 - read as "the writer was killed"
    """A process that wrote a checkpoint was killed; the run itself is as it was."""

    EXIT_CODE = 74
    """Of a command that ends with it: what the launcher calls a killed rank."""


class NonFiniteUpdate(RuntimeError):  # noqa: N818 - read as "the update was non-finite"
    """Loss or gradients were NaN or infinite; the weights were left as they were."""


class JudgeUnavailable(RuntimeError):  # noqa: N818 - read as "the judge is unavailable"
    """Too many verdicts are missing to go on; nothing was learned from the batch."""

    EXIT_CODE = 75
    """Of a command that ends with it: EX_TEMPFAIL of sysexits.h, try again later."""


class ServersUnavailable(RuntimeError):  # noqa: N818 - read as "the servers are unavailable"
    """Language models did not reply, so a stage of a synthesis is not complete; nothing is lost."""

    EXIT_CODE = JudgeUnavailable.EXIT_CODE


class PolicyMismatch(RuntimeError):  # noqa: N818 - read as "the policies mismatch"
    """Engine and learner disagree about sampled tokens by more than the recipe allows."""


class RefitMismatch(RuntimeError):  # noqa: N818 - read as "the refit found a mismatch"
    """The engine does not hold, or did not sample from, the weights it was given."""
