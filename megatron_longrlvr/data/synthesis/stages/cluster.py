"""cluster: groups of related chunks, of which a few are drawn for each document."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from megatron_longrlvr.config.synthesis import ClusterConfig
from megatron_longrlvr.data.synthesis.clustering import cluster_chunks
from megatron_longrlvr.data.synthesis.kept import Part, hash_of
from megatron_longrlvr.data.synthesis.outcome import Dropped, Outcome, Reason
from megatron_longrlvr.data.synthesis.rows import Cluster, Embedding
from megatron_longrlvr.data.synthesis.stage import Desk
from megatron_longrlvr.data.synthesis.stages.clean import as_part_of
from megatron_longrlvr.data.synthesis.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ClusterStage:
    """Clusters the chunks of each document by itself."""

    config: ClusterConfig
    seed: int

    name = "cluster"
    record = Cluster
    inputs = ("embed",)
    keeps_for_good = False

    def settings(self) -> Mapping[str, Part]:
        return {**as_part_of(self.config.model_dump(mode="json")), "seed": self.seed}

    def count_items(self, workspace: Workspace) -> int:
        return workspace.num_rows("embed")

    def run(self, desk: Desk) -> None:
        # Milliseconds a document, so nothing is kept on the way.
        for embedding in desk.rows("embed", Embedding):
            desk.take(self._group(embedding))

    def _group(self, embedding: Embedding) -> Outcome:
        vectors = np.frombuffer(embedding.vectors, dtype=np.float32)
        groups = cluster_chunks(vectors.reshape(-1, embedding.num_dims), self.config)
        clusters: list[Cluster] = []
        dropped: list[Dropped] = []
        for group in groups:
            reason = self._size_problem(len(group))
            if reason is not None:
                name = f"{embedding.document_id[:12]}/{group[0]}"
                detail = f"{len(group)} chunks"
                dropped.append(Dropped(item=name, reason=reason, detail=detail))
                continue
            clusters.append(
                Cluster(
                    document_index=embedding.document_index,
                    document_id=embedding.document_id,
                    cluster_id=len(clusters),
                    chunk_ids=group,
                )
            )
        if len(clusters) < self.config.min_clusters:
            detail = f"{len(clusters)} usable of {len(groups)}"
            dropped.append(
                Dropped(item=embedding.document_id, reason=Reason.TOO_FEW_CLUSTERS, detail=detail)
            )
            return Outcome(dropped=tuple(dropped))
        drawn = self._draw(embedding.document_id, len(clusters))
        dropped += [
            Dropped(
                item=f"{cluster.document_id[:12]}/{cluster.cluster_id}", reason=Reason.NOT_DRAWN
            )
            for cluster in clusters
            if cluster.cluster_id not in drawn
        ]
        rows = tuple(cluster for cluster in clusters if cluster.cluster_id in drawn)
        return Outcome(rows=rows, dropped=tuple(dropped))

    def _size_problem(self, size: int) -> Reason | None:
        if size < self.config.min_chunks:
            return Reason.CLUSTER_TOO_SMALL
        return Reason.CLUSTER_TOO_LARGE if size > self.config.max_chunks else None

    def _draw(self, document_id: str, num_clusters: int) -> frozenset[int]:
        """Depends on the document and the seed alone, not on what else is clustered."""
        draw = random.Random(hash_of("cluster", self.seed, document_id))
        return frozenset(draw.sample(range(num_clusters), min(self.config.drawn, num_clusters)))
