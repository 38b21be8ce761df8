"""What an embedder does, and which one a recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from megatron_longrlvr.config.synthesis import EmbedConfig, EncoderConfig, TfidfSvdConfig

Vectors = npt.NDArray[np.float32]
"""[num_chunks, num_dims]; each of length 1, or 0 where there is nothing to go by."""


class Embedder(Protocol):
    """Turns the chunks of one document into vectors."""

    def embed(self, chunks: Sequence[str]) -> Vectors:
        """All chunks of one document, in order; there is at least one."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


def build_embedder(config: EmbedConfig) -> Embedder:
    """The embedder of a recipe.

    Raises:
        ConfigError: A folder or a key is missing.
    """
    if isinstance(config, TfidfSvdConfig):
        from megatron_longrlvr.data.synthesis.embedders.tfidf_svd import TfidfSvdEmbedder

        return TfidfSvdEmbedder(config)
    if isinstance(config, EncoderConfig):
        from megatron_longrlvr.data.synthesis.embedders.encoder import EncoderEmbedder

        return EncoderEmbedder(config)
    from megatron_longrlvr.data.synthesis.embedders.server import ServerEmbedder

    return ServerEmbedder(config)


def unit_length(vectors: npt.NDArray[np.float64]) -> Vectors:
    """Rows divided by their lengths; rows of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # Singular vectors of a chunk without any word differ from 0 by rounding alone.
    is_empty = lengths < 1e-9
    scaled = np.where(is_empty, 0.0, vectors / np.where(is_empty, 1.0, lengths))
    return scaled.astype(np.float32)
