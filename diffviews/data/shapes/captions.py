"""Scenes in words, and what words ask for: a small grammar with synonyms.

    caption(scenes, row)   →  "a small red circle at the top left on a black ground"
    parse("on white, a big violet box in the middle").objects[0]["colour"]   →  "purple"

A caption names one object or two joined by "and", each with a place or without, and the ground or not.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from diffviews.data.shapes.scene import FACTORS, OBJECT_FACTORS, Scenes, keyed_draws
from diffviews.errors import SampleSetError, unknown_name

SYNONYMS: dict[str, dict[str, tuple[str, ...]]] = {
    "shape": {"circle": ("disc",), "square": ("box",), "cross": ("plus",), "ring": ("hoop",)},
    "colour": {"purple": ("violet",), "cyan": ("turquoise",)},
    "size": {"small": ("little", "tiny"), "medium": ("middling",), "large": ("big", "huge")},
    "place": {
        "top left": ("upper left",), "top": ("upper edge",), "top right": ("upper right",),
        "left": ("left side",), "centre": ("middle", "center"), "right": ("right side",),
        "bottom left": ("lower left",), "bottom": ("lower edge",), "bottom right": ("lower right",),
    },
    "ground": {"grey": ("gray",)},
}  # fmt: skip
"""Other words for values of factors."""

_BEFORE_PLACE, _AFTER_ON = ("at the", "in the"), ("ground", "background")
_CORNERS = ("top left", "top right", "bottom left", "bottom right")
_SPELLINGS = {
    factor: {word: name for name in names for word in (name, *SYNONYMS[factor].get(name, ()))}
    for factor, names in FACTORS.items()
}
_PLACE = "|".join(sorted(_SPELLINGS["place"], key=len, reverse=True))
_ON = re.compile(rf"\bon (?:a )?(\w+)(?: (?:{'|'.join(_AFTER_ON)}))?\b")
_AT = re.compile(rf"^(.*?)(?:\b(?:{'|'.join(_BEFORE_PLACE)}) ({_PLACE})(?: corner)?)?$")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caption asks for."""

    objects: tuple[Mapping[str, str], ...]
    """{factor: name} of one object or two; a factor that the caption leaves open is absent."""
    ground: str | None
    """None where it is left open."""


def words() -> tuple[str, ...]:
    """Return every word of the grammar, in alphabetic order."""
    texts = [*_BEFORE_PLACE, *_AFTER_ON, "a on and corner object"]
    texts += [word for spellings in _SPELLINGS.values() for word in spellings]
    return tuple(sorted({word for text in texts for word in text.split()}))


def caption(scenes: Scenes, row: int, draws: np.random.Generator | None = None, omit: float = 0.0) -> str:
    """Return a scene in words.

    Args:
        scenes: of which one is described.
        row: which.
        draws: chooses synonyms, order and what is left out; None writes each scene in its own way, always the same.
        omit: share of the factors that are left out, each for itself; an object without a shape is an "object".
    """
    if draws is None:
        draws = keyed_draws("caption", scenes.seed, int(scenes.index[row]))
    uniform = iter(draws.random(32))

    def one_of(options: tuple[str, ...]) -> str:
        return options[int(next(uniform) * len(options))]

    def named(factor: str, name: str) -> str:
        return "" if next(uniform) < omit else one_of((name, name, *SYNONYMS[factor].get(name, ())))

    def described(number: int) -> str:
        own = scenes.factors(row, number)
        said = {factor: named(factor, own[factor]) for factor in OBJECT_FACTORS}
        text = " ".join(part for part in ("a", said["size"], said["colour"], said["shape"] or "object") if part)
        if not said["place"]:
            return text
        inner = own["place"] == "centre" or own["place"] in _CORNERS  # at the left, but not in it
        corner = " corner" if own["place"] in _CORNERS and next(uniform) < 0.3 else ""
        return f"{text} {one_of(_BEFORE_PLACE) if inner else _BEFORE_PLACE[0]} {said['place']}{corner}"

    ground = named("ground", scenes.factors(row)["ground"])
    on = one_of((f"on {ground}", *(f"on a {ground} {noun}" for noun in _AFTER_ON))) if ground else ""
    objects = " and ".join(described(number) for number in range(1 + int(scenes.two[row])))
    if not on:
        return objects
    return f"{on}, {objects}" if next(uniform) < 0.25 else f"{objects} {on}"


def parse(text: str) -> Asked:
    """Return what a caption asks for.

    Raises:
        SampleSetError: if a word is none of the grammar's, or a factor of an object is named twice.
    """
    plain = " ".join(text.lower().replace(",", " ").split())
    ground = None
    found = _ON.search(plain)
    if found:
        ground = _value("ground", found[1], text)
        plain = f"{plain[: found.start()]} {plain[found.end() :]}"
    return Asked(tuple(_object(part.strip(), text) for part in plain.split(" and ")), ground)


def _object(part: str, text: str) -> dict[str, str]:
    match = _AT.match(part)
    assert match is not None  # it takes any text
    described, place = match[1].split(), match[2]
    factors = {} if place is None else {"place": _SPELLINGS["place"][place]}
    if not described or described[0] != "a":
        raise SampleSetError(f"caption {text!r}: {part!r} names no object; write for example 'a small red circle'")
    for word in described[1:]:
        kind = next((factor for factor in ("shape", "colour", "size") if word in _SPELLINGS[factor]), None)
        if kind is None and word == "object":
            continue
        if kind is None or kind in factors:
            known = [w for factor in ("shape", "colour", "size") for w in _SPELLINGS[factor]]
            problem = unknown_name("word", word, known) if kind is None else f"a second {kind}, {word!r}"
            raise SampleSetError(f"caption {text!r}: {problem}")
        factors[kind] = _SPELLINGS[kind][word]
    return factors


def _value(factor: str, word: str, text: str) -> str:
    if word not in _SPELLINGS[factor]:
        raise SampleSetError(f"caption {text!r}: {unknown_name(factor, word, _SPELLINGS[factor])}")
    return _SPELLINGS[factor][word]
