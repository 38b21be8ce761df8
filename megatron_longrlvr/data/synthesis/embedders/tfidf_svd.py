"""Latent semantic analysis of one document: which chunks use the same words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megatron_longrlvr.config.synthesis import TfidfSvdConfig
from megatron_longrlvr.data.synthesis.embedders.embedder import Vectors, unit_length


class TfidfSvdEmbedder:
    """Fits and applies TF-IDF and a truncated SVD to each document by itself.

    Chunks are only ever compared with others of their document, so nothing has to be learned from
    all documents first, and machines that share them out agree.
    """

    def __init__(self, config: TfidfSvdConfig) -> None:
        self._num_dims = config.dims

    def embed(self, chunks: Sequence[str]) -> Vectors:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        # Words of more than half of the chunks tell nothing apart; words of one chunk join none.
        bounds = {"min_df": 2, "max_df": 0.5} if len(chunks) > _FEW_CHUNKS else {}
        vectorizer = TfidfVectorizer(sublinear_tf=True, **bounds)
        try:
            weights = vectorizer.fit_transform(chunks)
        except ValueError:  # no word is left
            return np.zeros((len(chunks), 1), dtype=np.float32)
        num_dims = min(self._num_dims, weights.shape[0] - 1, weights.shape[1] - 1)
        if num_dims < 1:
            return unit_length(weights.toarray())
        # ARPACK is exact; the randomised solver would bring a seed into it.
        svd = TruncatedSVD(num_dims, algorithm="arpack", random_state=0)
        return unit_length(svd.fit_transform(weights))

    def close(self) -> None:
        """Nothing is held."""


# Below so many, bounds on how many chunks a word occurs in would leave no word.
_FEW_CHUNKS = 8
