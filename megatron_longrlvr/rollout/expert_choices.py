"""Which experts a rollout engine sent tokens to, put together for the samples of a group.

Shapes: M layers, K experts per token, P tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from megatron_longrlvr.stages import ExpertChoices

Choices = NDArray[np.unsignedinteger]


@dataclass(kw_only=True)
class ChoicesSoFar:
    """Of a sample that is being written."""

    prompt: Choices
    """[P, M, K]."""

    response: list[Choices] = field(default_factory=list)
    """[M, K] for each token that was run."""

    def finish(self) -> ExpertChoices:
        """What the finished sample tells."""
        response = np.stack(self.response) if self.response else self.prompt[:0]
        return ExpertChoices(prompt=self.prompt, response=response)


def choices_of_group(
    rows: Sequence[Choices | None], *, num_prompt_tokens: int
) -> list[ExpertChoices | None]:
    """Choices of each sample of a group.

    Args:
        rows: [tokens, M, K] of the tokens that were run: of the prompt and the response in the
            first sample, of the response in the others. None for no tokens, and in the first where
            nothing is told.
        num_prompt_tokens: P.
    """
    if not rows or rows[0] is None:
        return [None] * len(rows)
    prompt, first = rows[0][:num_prompt_tokens], rows[0][num_prompt_tokens:]
    return [
        ExpertChoices(prompt=prompt, response=prompt[:0] if response is None else response)
        for response in (first, *rows[1:])
    ]
