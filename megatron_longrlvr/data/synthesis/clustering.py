"""Clusters of chunks that speak of the same things: HDBSCAN on cosine distances.

Paper: LongRLVR, arXiv:2603.02146; settings of the released pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_longrlvr.config.synthesis import ClusterConfig


def cluster_chunks(
    vectors: npt.NDArray[np.float32], config: ClusterConfig
) -> list[tuple[int, ...]]:
    """Group a document's chunks; what fits nowhere is in no group.

    Args:
        vectors: [num_chunks, num_dims] of length 1, or 0 for a chunk without any content.
        config: Of HDBSCAN.

    Returns:
        Chunk ids of each group, ascending; groups by their first chunk.
    """
    # Costs a second to import.
    from sklearn.cluster import HDBSCAN

    num_chunks = len(vectors)
    if num_chunks < max(config.min_cluster_size, config.min_samples + 1):
        return []
    # In float64: the distances of near-equal chunks are differences of numbers close to 1.
    exact = vectors.astype(np.float64)
    distances = np.clip(1.0 - exact @ exact.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    model = HDBSCAN(
        min_cluster_size=config.min_cluster_size,
        min_samples=config.min_samples,
        metric="precomputed",
        cluster_selection_epsilon=config.selection_epsilon,
        cluster_selection_method=config.selection_method,
        copy=True,
    )
    labels: Sequence[int] = model.fit_predict(distances).tolist()
    groups: dict[int, list[int]] = {}
    for chunk_id, label in enumerate(labels):
        if label >= 0:  # -1 is noise
            groups.setdefault(label, []).append(chunk_id)
    return sorted(tuple(group) for group in groups.values())
