"""Growth: the rows of an extraction that earlier ones of the same model, layer, noise level and conditioning hold."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from diffviews.data.known_rows import KnownRows
from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.errors import CorruptDataError, DiffViewsError
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.pipelines.workspace import Workspace, samples_file

logger = logging.getLogger(__name__)

_AT_ONCE = 1024
"""Images compared at once."""
_LOOKED_AT = 20
"""Extractions, the newest, whose samples are compared."""

Earlier = Mapping[LayerKey, tuple[str, np.ndarray]]
"""{(layer, sigma): layer run that holds most of the rows, and the row there of each row here, -1 where it has none}."""


def find_earlier(plan: ExtractionPlan, keys: Sequence[LayerKey], workspace: Workspace) -> Earlier:
    """Look among the finished layer runs for rows of the plan's samples; a sample is known by its id and its image.

    Raises:
        TrackingError: if the store cannot be used.
    """
    if plan.recipe.storage != "full":  # a sketch holds no rows, and its axes are those of its own samples
        return {}
    runs = defaultdict[str, dict[LayerKey, str]](dict)
    for record in workspace.catalog.layers_of_rows(plan.rows_fingerprint()):
        if (record.layer, record.sigma) in keys:
            runs[record.parent_id].setdefault((record.layer, record.sigma), record.run_id)
    best = dict[LayerKey, tuple[str, np.ndarray]]()
    for parent, held in list(runs.items())[:_LOOKED_AT]:
        if all(key in best and (best[key][1] >= 0).all() for key in keys):
            break
        try:
            source = same_samples(plan.samples, SampleSet.read_parquet(samples_file(workspace, parent)), plan)
        except (DiffViewsError, OSError) as error:
            logger.warning("the samples of run %s are not re-used: %s", parent, error)
            continue
        count = int((source >= 0).sum())
        for key, run_id in held.items():
            if count > (0 if key not in best else int((best[key][1] >= 0).sum())):
                best[key] = run_id, source
    return {key: found for key, found in best.items() if _is_sound(found[0], workspace)}


def _is_sound(run_id: str, workspace: Workspace) -> bool:
    """Read all of an earlier array: a damaged one is captured anew, with the reason in the log."""
    try:
        workspace.activations(workspace.catalog.layer(run_id)).verify()
    except CorruptDataError as error:
        logger.warning("the rows of layer run %s are captured anew: %s", run_id, error)
        return False
    return True


def same_samples(wanted: SampleSet, earlier: SampleSet, plan: ExtractionPlan) -> np.ndarray:
    """Return the row in `earlier` of each wanted sample, (N,) int64, -1 where id, image or conditioning differ."""
    source = earlier.index.find(wanted.sample_ids)
    if wanted.pictures.size != earlier.pictures.size:
        return np.full(len(wanted), -1)
    conditioning = plan.recipe.conditioning
    for start in range(0, len(wanted), _AT_ONCE):
        rows = start + np.flatnonzero(source[start : start + _AT_ONCE] >= 0)
        if not len(rows):
            continue
        own, other = wanted.pictures.pixels(rows), earlier.pictures.pixels(source[rows])
        same = (own == other).reshape(len(rows), -1).all(axis=1)
        if conditioning == "label":
            same &= wanted.class_labels[rows] == earlier.class_labels[source[rows]]
        if conditioning == "prompt":
            same &= [wanted.prompts[row] == earlier.prompts[source[row]] for row in rows]
        source[rows[~same]] = -1
    return source


def open_earlier(earlier: Earlier, workspace: Workspace) -> dict[LayerKey, KnownRows]:
    """Open the arrays that hold known rows."""
    return {
        key: KnownRows(workspace.activations(workspace.catalog.layer(run_id)), source)
        for key, (run_id, source) in earlier.items()
    }


def counts(plan: ExtractionPlan, keys: Sequence[LayerKey], earlier: Earlier) -> tuple[int, int]:
    """Return how many samples are captured and how many are known, at the noise level where least is known."""
    known = [int((earlier[key][1] >= 0).sum()) if key in earlier else 0 for key in keys]
    reused = min(known, default=0)
    return (len(plan.samples) - reused if keys else 0), reused
