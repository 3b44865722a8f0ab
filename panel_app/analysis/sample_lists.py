"""Samples as entries of a list; only the first few bring their pictures along."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from panel_app.components import SampleList
from panel_app.layer_map import LayerMap
from panel_app.points import shortened
from panel_app.session import Session

WITH_PICTURES = 30
"""Entries that bring their picture along; the browser asks for the others when they come into view."""

LONGEST = 200
"""Entries of one list; the sentence below it tells of more."""


def sample_entries(
    layer_map: LayerMap,
    sample_ids: Sequence[str],
    *,
    distances: Mapping[str, float] | None = None,
    tones: Mapping[str, str] | None = None,
    active: str | None = None,
) -> list[dict[str, Any]]:
    """Return entries of `SampleList`, in this order; samples that the map lacks are left out.

    Args:
        layer_map: the map.
        sample_ids: whom to list.
        distances: number shown beside a sample.
        tones: how a sample's picture is ringed: 'manual' or 'suggested'.
        active: sample that stands out.
    """
    known = [s for s in sample_ids if s in layer_map.row_of][:LONGEST]
    first = known[:WITH_PICTURES]
    pictures = dict(zip(first, layer_map.thumbnails(first), strict=True))
    distances, tones = distances or {}, tones or {}
    texts = {s: (layer_map.text_of(s), layer_map.prompt_of(s)) for s in known}
    return [
        {
            "id": s,
            "src": pictures.get(s, ""),
            "title": shortened(text, 80),
            "note": shortened(prompt, 60) if prompt and prompt != text else "",
            "help": prompt or text,
            "detail": f"{distances[s]:.2f}" if s in distances else "",
            "distance": distances.get(s),
            "tone": tones.get(s, ""),
            "active": s == active,
        }
        for s, (text, prompt) in texts.items()
    ]


def remainder(layer_map: LayerMap, sample_ids: Iterable[str]) -> str:
    """Return the sentence below a list that is longer than what it shows."""
    count = sum(s in layer_map.row_of for s in sample_ids)
    return f"The first {LONGEST} of {count:,}; export holds all." if count > LONGEST else ""


def sample_list(session: Session, on_remove: Callable[[str], None] | None = None, **looks: Any) -> SampleList:
    """Return a list of samples of the map on show; where it opens them, one is selected.

    Args:
        session: whose map it is.
        on_remove: called with a sample that is to leave the list.
        looks: of the list.
    """

    def pictures(sample_ids: Sequence[str]) -> list[str]:
        layer_map = session.map
        known = [s for s in sample_ids if layer_map is not None and s in layer_map.row_of]
        found = dict(zip(known, layer_map.thumbnails(known), strict=True)) if known else {}
        return [found.get(s, "") for s in sample_ids]

    def answer(message: dict[str, Any]) -> None:
        if isinstance(sample_id := message.get("remove"), str) and on_remove is not None:
            on_remove(sample_id)
        elif isinstance(sample_id := message.get("open"), str) and sample_id in session.map.row_of:
            session.choose_sample(sample_id)

    return SampleList(answer, pictures, **looks)
