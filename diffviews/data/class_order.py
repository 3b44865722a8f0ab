"""Which classes labels count: those of a sample set, those of a model, and the way from one to the other.

A label is a number, and two lists of classes may give one number to different things. A set's label stands for
a class of a model only where both call it by the same name, or where somebody says which is which.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from diffviews.data.class_labels import load_class_labels, load_downsampled_names, load_synsets
from diffviews.data.class_labels import load_imagenet64_to_standard_mapping as standard_of_downsampled
from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError, unknown_name

logger = logging.getLogger(__name__)

IMAGENET_CLASSES = 1000
_ALIKE = 0.8
"""A list of 1,000 names is ImageNet's when this share of them stands where ImageNet has it: spellings vary."""
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True)
class NamedClasses:
    """What the numbers or names of a set's classes mean."""

    labels: tuple[int, ...]
    """Class label of each, in the order given."""
    names: tuple[str, ...]
    """Name of each."""
    order: str
    """What the labels count: 'standard' (ImageNet-1K) or 'own'."""

    @classmethod
    def of(cls, names: Sequence[str]) -> "NamedClasses":
        """Return the classes of a list of names, whose places are the labels unless the names say otherwise.

        Names that are whole numbers are the labels themselves; synsets ('n01440764', 'n01440764_tench'), and
        ImageNet's 1,000 names in either of their orders, have the labels of the standard order.
        """
        given = tuple(names)
        numbers = _whole_numbers(given)
        if numbers is not None:
            return cls(numbers, given, "own")
        synsets, standard = load_synsets(), load_class_labels()
        begun = [name[:9] if re.fullmatch(r"n[0-9]{8}(\W.*|_.*)?", name) else name for name in given]
        if given and set(begun) <= synsets.keys() and len(set(begun)) == len(begun):
            labels = tuple(synsets[name][0] for name in begun)
        elif _share_alike(given, standard) >= _ALIKE:
            labels = tuple(range(IMAGENET_CLASSES))
        elif _share_alike(given, load_downsampled_names()) >= _ALIKE:
            labels = tuple(standard_of_downsampled()[label] for label in range(IMAGENET_CLASSES))
        else:
            return cls(tuple(range(len(given))), given, "own")
        return cls(labels, tuple(standard[label] for label in labels), "standard")


@dataclass(frozen=True, slots=True)
class SampleClasses:
    """Class of each sample, None for one without."""

    labels: Sequence[int | None]
    names: Sequence[str | None]
    order: str


def classes_of(given: Sequence[str | None]) -> SampleClasses:
    """Return the classes of samples that name theirs: labels count the sorted names, unless these say otherwise."""
    occurring = sorted({name for name in given if name is not None})
    named = NamedClasses.of(occurring)
    by_name = {name: (label, known) for name, label, known in zip(occurring, named.labels, named.names, strict=True)}
    pairs = [(None, None) if name is None else by_name[name] for name in given]
    own = named.labels == tuple(range(len(occurring))) and named.order == "own"
    return SampleClasses([p[0] for p in pairs], [p[1] for p in pairs], "folders" if own else named.order)


def same_classes(samples: SampleSet, model: Sequence[str]) -> bool:
    """Say whether each class of `samples` is the model's class of the same number, by its name.

    Classes without names are known by their numbers, and the same only as a model's that have none either.

    Args:
        samples: with at least one class.
        model: name of each class of the model, 'class 7' for one without.
    """
    return all(
        label < len(model) and _alike(_plain(name, label), _plain(model[label], label))
        for label, name in named_classes(samples).items()
    )


def numbered(samples: SampleSet) -> bool:
    """Say whether the classes of `samples` are numbers alone, without names."""
    return all(_plain(name, label) == f"class {label}" for label, name in named_classes(samples).items())


def named_classes(samples: SampleSet) -> dict[int, str]:
    """Return {label: name} of the classes that occur, 'class 7' for one without a name."""
    known = load_class_labels() if samples.class_order == "standard" else {}
    return {label: name or known.get(label) or f"class {label}" for label, name in samples.classes.items()}


def in_words(classes: Mapping[int, str], most: int = 5) -> str:
    """Return a list of classes as '0 cat, 1 dog' or '0 tench, 1 goldfish, … 999 toilet_tissue'."""
    texts = [str(c) if name in (str(c), f"class {c}") else f"{c} {name}" for c, name in classes.items()]
    return ", ".join(texts if len(texts) <= most else [*texts[: most - 1], f"… {texts[-1]}"])


def map_classes(samples: SampleSet, class_map: Mapping[str, int | str], model: Sequence[str]) -> SampleSet:
    """Return the samples with the model's labels and names, by {class of the set: class of the model}.

    Args:
        samples: whose classes are meant by name, or by number where they have none.
        class_map: each class of the set, and the model's class by name or number.
        model: name of each class of the model.

    Raises:
        ConfigError: if a class of the set is left out, or one of the model unknown or ambiguous.
    """
    own = named_classes(samples)
    spelled = {_spelled(key): key for key in reversed(list(class_map))}
    first = {name.partition(",")[0]: key for name, key in spelled.items()}
    wanted, used = dict[int, int](), set[str]()
    for label, name in own.items():
        called = _spelled(name)
        ways = (spelled.get(called), spelled.get(called.partition(",")[0]), first.get(called))
        key = next((key for key in (name, str(label), *ways) if key in class_map), None)
        if key is None:
            raise ConfigError(f"class_map leaves out {name!r}; it must name each class of the samples: {in_words(own)}")
        wanted[label] = _model_class(class_map[key], model)
        used.add(key)
    idle = [key for key in class_map if key not in used]
    if idle:
        logger.info("class_map names %s, which no sample is: the classes are %s", ", ".join(idle[:5]), in_words(own))
    table = samples.table
    labels = [label if label is pd.NA or label < 0 else wanted[label] for label in table["class_label"]]
    table["class_label"] = labels
    table["class_name"] = [None if label is pd.NA or label < 0 else model[label] for label in labels]
    return SampleSet(table, samples.pictures, "model")


def _model_class(value: int | str, model: Sequence[str]) -> int:
    text = str(value).strip()
    found = [label for label, name in enumerate(model) if name == text and isinstance(value, str)]
    if not found and isinstance(value, str):
        found = [label for label, name in enumerate(model) if _alike(_spelled(name), _spelled(text))]
    if len(found) > 1:
        raise ConfigError(f"class_map names {text!r}, which is class {' and '.join(map(str, found))}; give the number")
    if found:
        return found[0]
    if re.fullmatch("[0-9]{1,9}", text):
        if int(text) < len(model):
            return int(text)
        raise ConfigError(f"class_map names class {text}, but the model's classes are 0 … {len(model) - 1}")
    raise ConfigError(unknown_name("class of the model", text, model))


def _whole_numbers(names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the numbers that all of these names are, None when one is none or two are the same."""
    if not names or not all(re.fullmatch("[0-9]{1,9}", name) for name in names):
        return None
    numbers = tuple(map(int, names))
    return numbers if len(set(numbers)) == len(numbers) else None


def _share_alike(names: Sequence[str], imagenet: Mapping[int, str]) -> float:
    if len(names) != IMAGENET_CLASSES:
        return 0.0
    return float(np.mean([_alike(_spelled(name), _spelled(imagenet[label])) for label, name in enumerate(names)]))


def _spelled(name: str) -> str:
    """Return a name without case and marks between words, its synonyms divided: 'tench, tinca tinca'."""
    words = (re.sub(r"[\s_/.&'()\-]+", " ", synonym).strip() or synonym.strip() for synonym in name.split(","))
    return ", ".join(words).lower()


def _alike(one: str, other: str) -> bool:
    """Say whether two spelled names are the same, or one is the first synonym of the other."""
    return one == other or one.partition(",")[0] == other or one == other.partition(",")[0]


def _plain(name: str, label: int) -> str:
    """Return the spelled name of a class, and 'class 7' for every way of writing class 7 without a name."""
    spelled = _spelled(name)
    number = str(_WORDS.index(spelled)) if spelled in _WORDS else spelled
    return f"class {label}" if number.isdecimal() and int(number) == label else spelled
