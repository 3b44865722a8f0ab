"""The legacy on-disk layout: one folder a model, read as it is and changed in nothing.

    <model>/config.json                              adapter, checkpoint, resolution, class_order, …
    <model>/metadata/<dataset>/dataset_info.json     {"samples": [{sample_id, class_label, image_path, …}, …]}
    <model>/activations/<dataset>/                   .npy with .npy.json, or .npz, of one sample or many
    <model>/images/<dataset>/                        pictures
    <model>/embeddings/*.csv, *.json                 coordinates of samples on a map, and its parameters

    for model in find_models(Path("data")):
        for name in model.datasets():
            dataset = read_dataset(model, name)

Paths in these files count from the model's folder, and none may lead out of it. A data set without
`dataset_info.json` is described by the `.json` beside each sample's `.npz`.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffviews.data.files import sha256_of
from diffviews.data.legacy.arrays import ActivationFile, NpyFile, Place, open_activations
from diffviews.data.legacy.records import (
    class_name,
    class_order,
    image_ids,
    label_of,
    read_json,
    records_beside,
    sigma_of,
    stated_shapes,
    text_of,
    whole_number,
)
from diffviews.errors import CorruptDataError, SampleSetError

logger = logging.getLogger(__name__)

UNKNOWN_MODEL_DIGEST = "unknown"
"""Model digest of activations whose model's weights are not at hand."""


@dataclass(frozen=True, slots=True)
class LegacyModel:
    """One model's folder and its configuration."""

    folder: Path
    """Resolved."""
    config: Mapping[str, Any]

    @property
    def adapter(self) -> str | None:
        """Name of the adapter, where the configuration says it."""
        name = self.config.get("adapter")
        return name if isinstance(name, str) and name else None

    def datasets(self) -> tuple[str, ...]:
        """Return the names of the data sets that have activations, sorted."""
        described = {path.parent.name for path in self.folder.glob("metadata/*/dataset_info.json")}
        stored = {path.name for path in self.folder.glob("activations/*") if path.is_dir()}
        return tuple(sorted(described | stored))

    def inside(self, what: str, *parts: str) -> Path:
        """Return a path below the folder.

        Raises:
            SampleSetError: if it leads out of it.
        """
        path = None if any("\0" in part for part in parts) else self.folder.joinpath(*parts).resolve()
        if path is None or not path.is_relative_to(self.folder):
            raise SampleSetError(f"{what} {'/'.join(parts)!r} leads out of {self.folder}; nothing is read there")
        return path


@dataclass(frozen=True, slots=True)
class LegacySample:
    """One sample at one noise level."""

    recorded_id: str
    """Id in the files; unlike a sample's, it may differ between noise levels."""
    sample_id: str
    """The image: equal at all noise levels it was captured at."""
    sigma: float
    class_label: int | None
    class_name: str | None
    prompt: str | None
    image: str
    """Path of the picture below the model's folder."""
    place: Place


@dataclass(frozen=True, slots=True)
class LegacyDataset:
    """What a data set holds that can be imported."""

    model: LegacyModel
    name: str
    samples: tuple[LegacySample, ...]
    """In the order of the files."""
    class_order: str
    left_out: Mapping[str, str]
    """{recorded id: why it cannot be imported}."""
    layer_shapes: Mapping[str, tuple[int, ...]]
    """Shapes that `dataset_info.json` states; empty when it states none."""

    @property
    def source(self) -> str:
        """What its samples are said to come from."""
        return f"import:{self.model.folder.name}/{self.name}"

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels, ascending."""
        return tuple(sorted({sample.sigma for sample in self.samples}))

    def files(self) -> list[Path]:
        """Return the activation files, sorted."""
        return sorted({sample.place.file.path for sample in self.samples})


def find_models(path: Path) -> list[LegacyModel]:
    """Return the models of a folder: itself, or those among its sub-folders.

    Raises:
        SampleSetError: if there is none.
        CorruptDataError: if a `config.json` is no JSON object.
    """
    if not path.is_dir():
        raise SampleSetError(f"folder {path} does not exist; name the folder that holds the models' folders, or one's")
    folders = [path] if _is_model(path) else [child for child in sorted(path.iterdir()) if _is_model(child)]
    if not folders:
        raise SampleSetError(
            f"{path} holds no data in the legacy layout: neither it nor a folder in it has config.json, metadata/ "
            "or activations/"
        )
    return [LegacyModel(folder.resolve(), _config(folder)) for folder in folders]


def read_dataset(model: LegacyModel, name: str) -> LegacyDataset:
    """Read what is known of a data set's samples and find their files; activations stay on disk.

    Samples without a picture or activations are left out, each named in the log.

    Raises:
        SampleSetError: if a path leads out of the folder, a sample has no sigma or occurs twice, or none is whole.
        CorruptDataError: if a file is damaged; it is named.
    """
    info, records = _records(model, name)
    order = class_order(model.config, records)
    finder = _ActivationFinder(model, name, [str(record["sample_id"]) for record in records])
    ids = image_ids(records)
    samples, left_out = [], {}
    for number, record in enumerate(records):
        recorded = str(record["sample_id"])
        place, picture = finder.place(record, number), _image_path(name, record)
        image = model.inside("image_path", picture)
        if place is None or not image.is_file():
            left_out[recorded] = f"has no picture {picture}" if place is not None else "has no activations"
            continue
        label = label_of(record, order)
        samples.append(
            LegacySample(
                recorded_id=recorded,
                sample_id=ids[number],
                sigma=sigma_of(record, model.config),
                class_label=label,
                class_name=class_name(record, label, order),
                prompt=text_of(record, "prompt", "caption"),
                image=image.relative_to(model.folder).as_posix(),
                place=place,
            )
        )
    for recorded, reason in list(left_out.items())[:10]:
        logger.warning("sample %s of %s is left out: it %s", recorded, name, reason)
    if not samples:
        first = next(iter(left_out))
        raise SampleSetError(f"no sample of {model.folder.name}/{name} is whole: sample {first} {left_out[first]}")
    _check_distinct(samples, name)
    shapes = stated_shapes(info, name)
    return LegacyDataset(model, name, tuple(samples), order, left_out, shapes)


class _ActivationFinder:
    """Finds the file and row of each sample; every file is opened once."""

    def __init__(self, model: LegacyModel, dataset: str, recorded_ids: Sequence[str]) -> None:
        self._model, self._dataset = model, dataset
        self._files: dict[tuple[Path, bool], ActivationFile | None] = {}
        self._whole = self._whole_matrix(recorded_ids)

    def place(self, record: Mapping[str, Any], number: int) -> Place | None:
        """Return where the activations of a record, the `number`-th of its data set, lie."""
        recorded, stated = str(record["sample_id"]), text_of(record, "activation_path")
        single = record.get("batch_index") is None
        if stated is None and self._whole is not None and recorded in self._whole[1]:
            return Place(self._whole[0], self._whole[1][recorded])
        parts = ("activations", self._dataset, recorded) if stated is None else (stated,)
        path = self._model.inside("activations", *parts)
        file = self._open(path.with_suffix("") if path.suffix in (".npz", ".npy") else path, single)
        if file is None:
            return None
        if isinstance(file, NpyFile) and file.sample_ids is not None and recorded in file.sample_ids:
            return Place(file, file.sample_ids.index(recorded))
        return Place(file, 0 if single else whole_number(record["batch_index"], "batch_index", recorded))

    def _open(self, stem: Path, single: bool) -> ActivationFile | None:
        if (stem, single) not in self._files:
            self._files[stem, single] = open_activations(stem, single=single)
        return self._files[stem, single]

    def _whole_matrix(self, recorded_ids: Sequence[str]) -> tuple[ActivationFile, dict[str, int]] | None:
        """Return the folder's only .npy with a row a sample, by its own ids or in the order of the metadata."""
        found = sorted(self._model.inside("data set", "activations", self._dataset).glob("*.npy"))
        if len(found) != 1:
            return None
        file = NpyFile.open(found[0])
        rows = next(iter(file.layers.values())).shape[0]
        ids = file.sample_ids if file.sample_ids is not None else tuple(recorded_ids)
        if len(ids) != rows or len(set(ids)) != rows:
            return None
        return file, {recorded: row for row, recorded in enumerate(ids)}


def _is_model(folder: Path) -> bool:
    return folder.is_dir() and any(
        (folder / name).exists() for name in ("config.json", "metadata", "activations")
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        return {}
    config = read_json(path)
    if not isinstance(config, dict):
        raise CorruptDataError(f"{path} is no JSON object")
    return config


def _records(model: LegacyModel, name: str) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """Return what is said of the data set, and of each of its samples."""
    path = model.inside("data set", "metadata", name, "dataset_info.json")
    if path.exists():
        info = read_json(path)
        records = info.get("samples") if isinstance(info, dict) else info
        described = info if isinstance(info, dict) else {}
    else:
        path = model.inside("data set", "activations", name)
        records, described = list(records_beside(path)), {}
    if not isinstance(records, list) or not all(isinstance(r, dict) and r.get("sample_id") for r in records):
        raise CorruptDataError(f"{path} does not list samples, each with a sample_id")
    if not records:
        raise SampleSetError(f"{path} lists no samples")
    return described, records


def _image_path(dataset: str, record: Mapping[str, Any]) -> str:
    return text_of(record, "image_path") or f"images/{dataset}/{record['sample_id']}.png"


def _check_distinct(samples: Sequence[LegacySample], name: str) -> None:
    """Refuse a sample that occurs twice at one noise level, or that is another image at another."""
    seen: set[tuple[str, float]] = set()
    about: dict[str, tuple[Any, ...]] = {}
    for sample in samples:
        key, what = (sample.sample_id, sample.sigma), (sample.image, sample.class_label, sample.prompt)
        if key in seen:
            raise SampleSetError(f"sample {sample.sample_id} of {name} occurs twice at sigma {sample.sigma:g}")
        if about.setdefault(sample.sample_id, what) != what:
            raise SampleSetError(f"sample {sample.sample_id} of {name} has another image or class at another sigma")
        seen.add(key)


def digest_files(files: Sequence[Path]) -> str:
    """Return the sha256 of the names and contents of files, in this order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()
