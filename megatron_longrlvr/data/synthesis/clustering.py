"""Clusters of chunks that speak of the same things: HDBSCAN on cosine distances.

scikit-learn makes the tree and chooses clusters in it. The last step, joining clusters that part
below ``selection_epsilon``, is done here: scikit-learn 1.9 stops there with an error under numpy
2.4, whenever a cluster is joined with another (``traverse_upwards`` in ``_hdbscan/_tree.pyx``).

Papers: LongRLVR, arXiv:2603.02146, with settings of the released pipeline; Malzer and Baum,
arXiv:1911.02282, for the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    # In float64: the distances of near-equal chunks are differences of numbers close to 1.
    exact = vectors.astype(np.float64)
    distances = np.clip(1.0 - exact @ exact.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    return cluster_distances(distances, config)


def cluster_distances(
    distances: npt.NDArray[np.float64], config: ClusterConfig
) -> list[tuple[int, ...]]:
    """As :func:`cluster_chunks`, from distances between all pairs, [num_chunks, num_chunks]."""
    # Costs a second to import.
    from sklearn.cluster import HDBSCAN

    if len(distances) < max(config.min_cluster_size, config.min_samples + 1):
        return []
    model = HDBSCAN(
        min_cluster_size=config.min_cluster_size,
        min_samples=config.min_samples,
        metric="precomputed",
        cluster_selection_method=config.selection_method,
        copy=True,
    )
    labels: Sequence[int] = model.fit_predict(distances).tolist()
    chosen = {frozenset(group) for group in _groups(labels)}
    tree = _find_branches(model._single_linkage_tree_, config.min_cluster_size)
    joined = _join_close(tree, chosen, config.selection_epsilon)
    final = [-1] * len(labels)
    # A branch may hold another one that stays apart: the inner one has its points.
    for label, branch in enumerate(sorted(joined, key=lambda one: -len(one.points))):
        for point in branch.points:
            final[point] = label
    return sorted(tuple(group) for group in _groups(final))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Branch:
    """A group of points that parts from another one as the distance allowed shrinks."""

    points: frozenset[int]
    birth: float
    """Distance at which it parts."""

    parent: int | None
    """Place of the branch that it parts from; None for the whole document."""


def _find_branches(linkage: Any, min_size: int) -> list[_Branch]:  # noqa: ANN401 - structured array
    """All branches of at least so many points, parents first.

    Args:
        linkage: A row for each merge, in order of distance: two nodes (points, then earlier
            merges), the distance, and the points below.
        min_size: Where a smaller group parts, its points only leave.
    """
    rows = [(int(row[0]), int(row[1]), float(row[2])) for row in linkage]
    num_points = len(rows) + 1
    below: list[frozenset[int]] = [frozenset([point]) for point in range(num_points)]
    for left, right, _ in rows:
        below.append(below[left] | below[right])
    branches = [_Branch(points=below[-1], birth=np.inf, parent=None)]
    stack = [(len(below) - 1, 0)]
    while stack:
        node, branch = stack.pop()
        if node < num_points:
            continue
        left, right, distance = rows[node - num_points]
        large = [child for child in (left, right) if len(below[child]) >= min_size]
        if len(large) == 1:
            stack.append((large[0], branch))
        for child in large if len(large) == 2 else ():
            stack.append((child, len(branches)))
            branches.append(_Branch(points=below[child], birth=distance, parent=branch))
    return branches


def _join_close(
    branches: Sequence[_Branch], chosen: set[frozenset[int]], epsilon: float
) -> list[_Branch]:
    """Chosen branches; those that part below ``epsilon`` give way to the one they part from."""
    joined: dict[frozenset[int], _Branch] = {}
    for branch in branches:
        if branch.points not in chosen or branch.parent is None:
            continue
        while branch.birth < epsilon:
            assert branch.parent is not None, "the whole document parts from nothing"
            parent = branches[branch.parent]
            if parent.parent is None:  # the whole document is no cluster
                break
            branch = parent
        joined[branch.points] = branch
    return list(joined.values())


def _groups(labels: Sequence[int]) -> list[list[int]]:
    """Places by label; -1 is noise."""
    groups: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        if label >= 0:
            groups.setdefault(label, []).append(place)
    return list(groups.values())
