"""The plan of an import: one data set of a legacy folder, its model, and what of it becomes runs."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod

import numpy as np
import pandas as pd

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.edm import EDMAdapter, network_of
from diffviews.adapters.registry import get_adapter, load_adapter
from diffviews.data.encoded import open_pictures
from diffviews.data.file_tree import Folder, TreeImages
from diffviews.data.legacy.arrays import PlacedActivations
from diffviews.data.legacy.datasets import UNKNOWN_MODEL_DIGEST, LegacyDataset, LegacyModel, digest_files
from diffviews.data.legacy.maps import LegacyMap
from diffviews.data.samples import SampleSet
from diffviews.errors import AdapterNotFoundError, ConfigError, DiffViewsError, LayerNotFoundError, unknown_name
from diffviews.noise import format_sigma
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.umap_backend import get_backend_name
from diffviews.tracking.schema import fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """What is known of the model that legacy activations came from."""

    name: str
    digest: str
    """Of its weights, or UNKNOWN_MODEL_DIGEST."""
    layer_shapes: Mapping[str, tuple[int, ...]]
    """In the network's order; empty when nothing is known of it."""
    resolution: int | None

    @classmethod
    def of(cls, model: LegacyModel, name: str) -> "ImportedModel":
        """Look up the adapter, and load the checkpoint that `config.json` names if it is there."""
        stated = model.config.get("resolution")
        resolution = stated if isinstance(stated, int) and not isinstance(stated, bool) else None
        try:
            kind = get_adapter(name)
        except AdapterNotFoundError as error:
            logger.warning("%s can be looked at but not generated with: %s", model.folder, error)
            return cls(name, UNKNOWN_MODEL_DIGEST, {}, resolution)
        own = kind.get_default_config().get("img_resolution")
        loaded = _loaded(model, name)
        if loaded is None:
            return cls(name, UNKNOWN_MODEL_DIGEST, _usual_shapes(kind), resolution or own)
        shapes = loaded.get_layer_shapes()
        ordered = {layer: tuple(shapes[layer]) for layer in loaded.hookable_layers}
        return cls(name, loaded.digest(), ordered, resolution or loaded.resolution)


@dataclass(frozen=True, slots=True, eq=False)
class ImportPlan:
    """What of a data set is imported; everything that determines the result."""

    dataset: LegacyDataset
    model: ImportedModel
    samples: SampleSet
    """One sample an image, whatever the number of noise levels."""
    activations: PlacedActivations
    layers: tuple[str, ...]
    """In the network's order."""
    originals: tuple[LegacyMap, ...]
    maps: MapParameters
    _files_digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for sigma in self.dataset.sigmas:
            count = len(self.rows_at(sigma))
            if count <= self.maps.n_neighbors:
                raise ConfigError(
                    f"n_neighbors {self.maps.n_neighbors} needs more than {self.maps.n_neighbors} samples, but "
                    f"{self.dataset.name} has {count} at sigma {format_sigma(sigma)}; take fewer neighbours"
                )
        files = [*self.dataset.files(), *(path for original in self.originals for path in original.files)]
        object.__setattr__(self, "_files_digest", digest_files(files))

    @classmethod
    def of(
        cls,
        dataset: LegacyDataset,
        model: ImportedModel,
        layers: tuple[str, ...],
        originals: list[LegacyMap],
        maps: MapParameters,
    ) -> "ImportPlan":
        """Read what the plan needs; activations stay on disk."""
        activations = PlacedActivations([sample.place for sample in dataset.samples])
        chosen = _chosen_layers(tuple(activations.layers), layers, model)
        samples = _sample_set(dataset, model.resolution)
        return cls(dataset, model, samples, activations, chosen, tuple(originals), maps)

    @property
    def keys(self) -> list[tuple[str, float]]:
        """The (layer, sigma) pairs of the layer runs."""
        return [(layer, sigma) for sigma in self.dataset.sigmas for layer in self.layers]

    @property
    def is_even(self) -> bool:
        """Whether every sample was captured at every noise level."""
        return len(self.dataset.samples) == len(self.samples) * len(self.dataset.sigmas)

    @property
    def conditioning(self) -> str:
        """What the forward passes were conditioned on, as far as it is known: label, prompt or none."""
        stated = self.dataset.model.config.get("conditioning_type")
        labelled = all(sample.class_label is not None for sample in self.dataset.samples)
        prompted = all(sample.prompt is not None for sample in self.dataset.samples)
        if prompted and (stated == "text" or not labelled):
            return "prompt"
        return "label" if labelled and stated in (None, "class") else "none"

    def rows_at(self, sigma: float) -> list[int]:
        """Return the places in `dataset.samples` of those captured at one noise level, in the order of `samples`."""
        rows = {sample.sample_id: row for row, sample in enumerate(self.dataset.samples) if sample.sigma == sigma}
        return [rows[sample_id] for sample_id in self.samples.sample_ids if sample_id in rows]

    def ids_at(self, sigma: float) -> list[str]:
        """Return the ids of the samples captured at one noise level, in the same order."""
        return [self.dataset.samples[row].sample_id for row in self.rows_at(sigma)]

    def shape(self, layer: str) -> tuple[int, ...]:
        """Return a layer's shape for one sample, (C, H, W) or (T, C); (D,) when only its size is known."""
        stored = self.activations.layers[layer].shape
        known = (stored, self.dataset.layer_shapes.get(layer, ()), self.model.layer_shapes.get(layer, ()))
        return next((tuple(s) for s in known if len(s) > 1 and prod(s) == prod(stored)), (prod(stored),))

    @property
    def network_order(self) -> tuple[str, ...]:
        """All layers of the model in its order, then stored ones that it does not have."""
        return tuple(dict.fromkeys([*self.model.layer_shapes, *self.layers]))

    def fingerprint(self) -> str:
        """Digest of everything that determines the whole import."""
        return fingerprint(kind="import", layers=self.layers, **self._common())

    def layer_fingerprint(self, layer: str, sigma: float) -> str:
        """Digest of everything that determines one layer run."""
        return fingerprint(kind="layer", layer=layer, sigma=format_sigma(sigma), **self._common())

    def params(self) -> dict[str, object]:
        """Few and comparable parameters, those of an extraction among them."""
        return {
            "model": self.model.name,
            "dataset": self.dataset.name,
            "num_samples": len(self.samples),
            "layers": len(self.layers),
            "sigmas": ",".join(map(format_sigma, self.dataset.sigmas)),
            "conditioning": self.conditioning,
            "class_order": self.dataset.class_order,
            **asdict(self.maps),
        }

    def _common(self) -> dict[str, object]:
        rows = [
            [sample.recorded_id, sample.sample_id, sample.sigma, sample.place.row, sample.place.file.path.name]
            for sample in self.dataset.samples
        ]
        return {
            "model": [self.model.name, self.model.digest],
            "dataset": self.samples.digest,
            "rows": rows,
            "files": self._files_digest,
            "conditioning": self.conditioning,
            "maps": asdict(self.maps),
            "backend": get_backend_name(),
        }


def _loaded(model: LegacyModel, name: str) -> GeneratorAdapter | None:
    stated = model.config.get("checkpoint")
    if not isinstance(stated, str) or not stated:
        return None
    path = model.inside("checkpoint", stated)
    if not path.exists():
        logger.warning("checkpoint %s is not there; the activations count as those of unknown weights", path)
        return None
    try:
        return load_adapter(name, checkpoint=path, device="cpu")
    except DiffViewsError as error:
        logger.warning("the activations count as those of unknown weights: %s", error)
        return None


def _usual_shapes(kind: type[GeneratorAdapter]) -> dict[str, tuple[int, ...]]:
    """Return the layer shapes of an EDM or DMD2 network by its default configuration, without weights."""
    if not issubclass(kind, EDMAdapter):
        return {}
    return dict(network_of(kind.get_default_config()).layer_shapes())


def _chosen_layers(stored: tuple[str, ...], wanted: tuple[str, ...], model: ImportedModel) -> tuple[str, ...]:
    """Return the layers to import: in the network's order, then those it does not know by name."""
    ordered = [layer for layer in model.layer_shapes if layer in stored]
    available = (*ordered, *sorted(set(stored) - set(ordered)))
    if wanted == ("all",):
        return available
    for layer in wanted:
        if layer not in available:
            raise LayerNotFoundError(unknown_name("layer", layer, available))
    return tuple(layer for layer in available if layer in wanted)


def _sample_set(dataset: LegacyDataset, resolution: int | None) -> SampleSet:
    unique = {sample.sample_id: sample for sample in dataset.samples}
    columns = {
        "sample_id": list(unique),
        "class_label": [sample.class_label for sample in unique.values()],
        "class_name": [sample.class_name for sample in unique.values()],
        "prompt": [sample.prompt for sample in unique.values()],
        "source": [dataset.source] * len(unique),
    }
    names = tuple(sample.image for sample in unique.values())
    pictures = open_pictures(TreeImages(Folder(dataset.model.folder), names), np.arange(len(names)), resolution)
    # Labels of the down-sampled order have been turned into standard ones.
    order = "own" if dataset.class_order == "own" else "standard"
    return SampleSet(pd.DataFrame(columns, dtype=object), pictures, order)
