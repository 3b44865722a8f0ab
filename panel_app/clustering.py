"""Clusters of the samples on a map: found once for all visitors, named by what is commonest in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from diffviews.processing.clusters import NONE, ClusterSummary, describe_clusters, find_clusters
from diffviews.processing.enrichment import enrich_words
from panel_app.layer_map import LayerMap
from panel_app.points import CLASS, LEVEL, NO_CLUSTER, UNLABELLED
from panel_app.state import Space

CLUSTER = "density_cluster"
"""Column of a map's table that holds the clusters found on it."""

TRUST = "neighborhood_preservation"
"""Column with the share of a sample's nearest in activation space that are its nearest on the map too."""

_NAMED_BY_WORDS = 24
"""Clusters of samples without classes that are named by their words; further ones by number alone."""


@dataclass(frozen=True, slots=True)
class Clustering:
    """Which clusters are wanted."""

    space: Space = "map"
    """Where points are near: on the drawn map, or in activation space (the projector's PCA space)."""
    min_size: int = 15
    """Fewest points that make a cluster."""

    def __str__(self) -> str:
        return f"{self.space}-{self.min_size}"

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """Read what `str` wrote; anything else is None."""
        space, _, size = (text or "").partition("-")
        if space not in ("map", "activation") or not size.isdecimal() or not 2 <= int(size) <= 100_000:
            return None
        return cls("map" if space == "map" else "activation", int(size))


@dataclass(frozen=True, slots=True, eq=False)
class FoundClusters:
    """The clusters of one map; immutable and shared."""

    clustering: Clustering
    numbers: np.ndarray
    """(N,) int64 by row of the map's table, NONE for points in no cluster."""
    summaries: tuple[ClusterSummary, ...]
    """By number, the largest cluster first."""
    names: tuple[str, ...]
    """By number."""

    @property
    def column(self) -> "pd.Categorical[str]":
        """The name of each point's cluster."""
        alone = bool((self.numbers == NONE).any())
        codes = np.where(self.numbers == NONE, len(self.names), self.numbers).astype(np.int64)
        return pd.Categorical.from_codes(codes, categories=pd.Index([*self.names, *([NO_CLUSTER] if alone else [])]))

    def on(self, layer_map: LayerMap) -> LayerMap:
        """Return the map with these clusters as a further column."""
        return layer_map.with_columns(**{CLUSTER: self.column})

    def members(self, layer_map: LayerMap, number: int) -> tuple[str, ...]:
        """Return the samples of a cluster, each once."""
        rows = np.flatnonzero(self.numbers == number)
        return tuple(dict.fromkeys(layer_map.table["sample_id"].iloc[rows].astype(str)))


def find(layer_map: LayerMap, clustering: Clustering) -> FoundClusters:
    """Return the clusters of a map.

    Raises:
        ConfigError: if the least size makes no cluster.
    """
    numbers = find_clusters(_points(layer_map, clustering.space), clustering.min_size)
    classes = layer_map.table[CLASS].where(layer_map.table[CLASS] != UNLABELLED)
    trust = layer_map.table[TRUST].to_numpy(np.float64) if TRUST in layer_map.table else None
    summaries = describe_clusters(numbers, pd.Categorical(classes), trust)
    names = tuple(f"{s.number + 1}: {_name(layer_map, numbers, s)}" for s in summaries)
    return FoundClusters(clustering, numbers, summaries, names)


def _points(layer_map: LayerMap, space: Space) -> np.ndarray:
    """Return the coordinates in which points are near, (N, d) by row of the table."""
    if space == "map":
        return layer_map.table[[axis for axis in "xyz" if axis in layer_map.table]].to_numpy(np.float64)
    projector = layer_map.projector
    points = projector.pca_points[_projector_rows(layer_map)].astype(np.float64)
    if projector.parameters.metric in ("cosine", "correlation"):  # Euclidean distance orders unit rows alike
        if projector.parameters.metric == "correlation":
            points = points - points.mean(axis=1, keepdims=True)
        points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    return points


def _projector_rows(layer_map: LayerMap) -> np.ndarray:
    ids, levels = list(layer_map.projector.sample_ids), getattr(layer_map.projector, "row_sigmas", None)
    if not layer_map.is_joint or levels is None:
        return pd.Index(ids).get_indexer(pd.Index(layer_map.table["sample_id"].astype(str)))
    keys = pd.MultiIndex.from_arrays([ids, np.asarray(levels, np.float64)])
    wanted = pd.MultiIndex.from_arrays([layer_map.table["sample_id"].astype(str), layer_map.table[LEVEL]])
    return keys.get_indexer(wanted)


def _name(layer_map: LayerMap, numbers: np.ndarray, summary: ClusterSummary) -> str:
    """Return what is commonest in a cluster: its class, or the words that set its prompts apart."""
    if summary.majority is not None:
        return f"mostly {summary.majority.partition(': ')[2] or summary.majority}"
    member = numbers == summary.number
    prompts: Sequence[str | None] = [None if pd.isna(p) else str(p) for p in layer_map.table["prompt"]]
    if summary.number >= _NAMED_BY_WORDS or member.all() or not any(prompts):
        return f"{summary.size:,} samples"
    words = [row.value for row in enrich_words(member, prompts) if row.log2_fold > 0 and row.q < 0.05]
    return ", ".join(words[:3]) or f"{summary.size:,} samples"
