"""The numbers of a layer's masks, from what became of each generation."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np
import pandas as pd

from diffviews.processing.realism import is_off_manifold
from diffviews.processing.statistics import Interval, best_group, cluster_bootstrap, mcnemar, wilson_interval

Name = TypeVar("Name", bound=Hashable)

OUTCOMES = "control.parquet"
"""Artifact of a layer run: one row a masked generation."""


def control_metrics(outcomes: pd.DataFrame, keys: Mapping[str, str], limit: float) -> dict[str, float]:
    """Return the metrics of a layer.

    Args:
        outcomes: as of `LayerControl`.
        keys: {mask: metric of its rate}.
        limit: distance within which an image is near real ones.
    """
    rates = {key: float(hits(of_mask(outcomes, name)).mean()) for name, key in keys.items()}
    own = of_mask(outcomes, "own")
    landed, by_chance = hits(own), (own["unmasked"] == own["target_class"]).to_numpy()
    interval = rate_interval(landed, own["target_class"].to_numpy())
    ends = {"control_rate_low": interval.low, "control_rate_high": interval.high}
    return {
        **rates,
        **{name: float(end) for name, end in ends.items()},
        "control_n": float(len(own)),
        "control_baseline": float(by_chance.mean()),
        "control_p": mcnemar(landed, by_chance).mid_p,
        "control_rejects": float((own["masked"] < 0).mean()),
        "control_on_manifold": float((own["distance"] <= limit).mean()),
        "control_on_manifold_baseline": float((own["unmasked_distance"] <= limit).mean()),
    }


def of_mask(outcomes: pd.DataFrame, mask: str) -> pd.DataFrame:
    """Return the generations under one mask, by seed and class."""
    return outcomes[outcomes["mask"] == mask].sort_values(["seed", "target_class"])


def hits(outcomes: pd.DataFrame) -> np.ndarray:
    """Return which generations landed in the class they were meant for, (N,) bool."""
    return (outcomes["masked"] == outcomes["target_class"]).to_numpy()


def rate_interval(landed: np.ndarray, classes: np.ndarray) -> Interval:
    """Return a rate with its 95 % interval: by drawing classes, or Wilson's where all answers are alike.

    Then no resampling of classes differs, and the bootstrap would claim certainty.

    Args:
        landed: (N,) bool.
        classes: (N,) class that each was meant for.
    """
    if landed.all() or not landed.any():
        return wilson_interval(int(landed.sum()), len(landed))
    return cluster_bootstrap(landed, classes)


def not_told_from_best(outcomes: Mapping[Name, pd.DataFrame]) -> dict[Name, bool]:
    """Return, of layers masked in the same noise, whether each decides as much as the best (McNemar, Holm).

    Args:
        outcomes: by layer, those whose images are near real ones.

    Returns:
        {layer: whether it is not told from the best}, of those that have the generations of the first.
    """
    own = {name: of_mask(frame, "own").reset_index(drop=True) for name, frame in outcomes.items()}
    pairing = ["target_class", "seed", "unmasked"]
    alike = [name for name, frame in own.items() if frame[pairing].equals(next(iter(own.values()))[pairing])]
    if not alike:
        return {}
    members = best_group(np.stack([hits(own[name]) for name in alike])).members
    return dict(zip(alike, members.tolist(), strict=True))


def is_marked(metrics: Mapping[str, float]) -> bool:
    """Whether a layer's control rate is one of images that are unlike any real one."""
    return is_off_manifold(metrics.get("control_on_manifold"))
