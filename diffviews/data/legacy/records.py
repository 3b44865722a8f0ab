"""What the legacy layout's metadata says of one sample: ids, noise levels, classes, prompts."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffviews.data.class_labels import load_class_labels, remap_imagenet64_labels_to_standard
from diffviews.errors import ConfigError, CorruptDataError, SampleSetError, unknown_name

CLASS_ORDERS = ("standard", "downsampled")

Record = Mapping[str, Any]


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        CorruptDataError: if it cannot be read; it is named.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CorruptDataError(f"{path} cannot be read as JSON: {error}") from error


def records_beside(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what the .json beside each .npz says, one sample a file."""
    for path in sorted(folder.glob("*.npz")):
        beside = path.with_suffix(".json")
        record = read_json(beside) if beside.exists() else {}
        if not isinstance(record, dict):
            raise CorruptDataError(f"{beside} is no JSON object")
        own = f"activations/{folder.name}/{path.name}"
        yield {"sample_id": path.stem, **record, "activation_path": record.get("activation_path", own)}


def image_ids(records: Sequence[Record]) -> list[str]:
    """Return the id of each record's image: of one that was captured at several noise levels it is the same.

    Such records differ in their ids ('sample_000007_n35', 'sample_000007_n82') and share the picture,
    whose name their ids begin with.
    """
    by_image: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        by_image.setdefault(str(record.get("image_path", number)), []).append(number)
    ids = [str(record["sample_id"]) for record in records]
    taken = set(ids)
    for image, numbers in by_image.items():
        stem = Path(image).stem
        levels = {json.dumps(raw_sigma(records[number])) for number in numbers}
        same = len(numbers) > 1 and len(levels) == len(numbers) and stem not in taken
        if same and all(ids[number].startswith(stem) for number in numbers):
            taken.add(stem)
            for number in numbers:
                ids[number] = stem
    return ids


def raw_sigma(record: Record) -> Any:
    """Return the noise level as written, None where none is."""
    return _first_of(record, "conditioning_sigma", "sigma")


def sigma_of(record: Record, config: Record) -> float:
    """Return the noise level of a sample, or the one that `config.json` gives for all.

    Raises:
        SampleSetError: if there is none, or it is impossible.
    """
    value = raw_sigma(record)
    value = raw_sigma(config) if value is None else value
    if value is None:
        raise SampleSetError(
            f"sample {record['sample_id']} has no conditioning_sigma; add it to dataset_info.json, or one for all "
            "samples to config.json"
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise SampleSetError(f"sample {record['sample_id']} has the impossible sigma {value!r}")
    return float(value)


def class_order(config: Record, records: Sequence[Record]) -> str:
    """Return what the labels count: as `config.json` says, or as the names of the classes show.

    Raises:
        ConfigError: if it names an unknown order.
    """
    stated = config.get("class_order")
    if stated is not None:
        if stated not in CLASS_ORDERS:
            raise ConfigError(f"config.json: {unknown_name('class_order', str(stated), CLASS_ORDERS)}")
        return str(stated)
    names = load_class_labels()
    pairs = {(whole_label(record), text_of(record, "class_name")) for record in records}
    named = [(label, name) for label, name in pairs if label is not None and label >= 0 and name]
    return "standard" if named and all(names.get(label) == name for label, name in named) else "own"


def whole_label(record: Record) -> int | None:
    """Return the class as written."""
    value = _first_of(record, "class_label", "class_id")
    return None if value is None else whole_number(value, "class_label", str(record["sample_id"]))


def label_of(record: Record, order: str) -> int | None:
    """Return the class in the standard order, or in the data set's own."""
    label = whole_label(record)
    if label is None or label < 0 or order != "downsampled":
        return label
    return int(remap_imagenet64_labels_to_standard([label])[0])


def class_name(record: Record, label: int | None, order: str) -> str | None:
    """Return the name of a sample's class, whose label `label_of` gave."""
    if order in CLASS_ORDERS and label is not None and label >= 0:
        return load_class_labels().get(label)
    return text_of(record, "class_name")


def _first_of(record: Record, *names: str) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def text_of(record: Record, *names: str) -> str | None:
    """Return the first of these fields that is a text."""
    return next((record[name] for name in names if isinstance(record.get(name), str) and record[name]), None)


def whole_number(value: Any, name: str, sample_id: str) -> int:
    """Return a number of a record after checking that it is whole."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**31:
        raise SampleSetError(f"{name} of sample {sample_id} is {value!r}, not a whole number")
    return value


def stated_shapes(info: Record, name: str) -> dict[str, tuple[int, ...]]:
    """Return {layer: shape of one sample} as `dataset_info.json` states it, empty where it does not."""
    try:
        return {str(k): tuple(int(side) for side in v) for k, v in dict(info.get("layer_shapes", {})).items()}
    except (TypeError, ValueError) as error:
        raise CorruptDataError(f"layer_shapes in dataset_info.json of {name} are no shapes: {error}") from error
