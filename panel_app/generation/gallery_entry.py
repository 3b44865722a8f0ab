"""A generation in the gallery of a session: in words, sample by sample, step by step, and as paths over a map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from diffviews.pipelines.generate import LoggedGeneration
from diffviews.pipelines.paths import unusual_steps
from diffviews.recipes.generation import GenerationRecipe
from diffviews.recipes.naming import Subject, generation_detail, generation_name
from diffviews.tracking.records import LayerRecord
from panel_app.layer_map import LayerMap
from panel_app.map.overlays import DrawnPath
from panel_app.pictures import FRAME, INSET, difference_address, picture_address
from panel_app.points import short_sigma
from panel_app.theme import PATHS


@dataclass(frozen=True, slots=True, eq=False)
class GalleryEntry:
    """A generation that was made, or looked at again, in this session."""

    generation: LoggedGeneration
    title: str
    detail: str
    map_run: str
    """Map that its path was placed on."""
    usual_distance: float | None = None
    """Median distance to the data of that map's own samples."""

    @classmethod
    def on_map(cls, generation: LoggedGeneration, layer_map: LayerMap) -> Self:
        """Return the entry of a generation whose path was placed on a map."""
        subject = subject_on(generation.recipe, layer_map)
        title, detail = generation_name(generation.recipe, subject), generation_detail(generation.recipe, subject)
        measured = "distance_to_data" in layer_map.numeric_columns
        usual = layer_map.table["distance_to_data"].median() if measured else None
        return cls(generation, title, detail, layer_map.map_run, usual)

    @property
    def run_id(self) -> str:
        """Of the generation."""
        return self.generation.run_id

    def samples(self) -> list[dict[str, Any]]:
        """Return the samples as `ResultView` shows them."""
        result, rows = self.generation.result, []
        for index, image in enumerate(result.images):
            row: dict[str, Any] = {"image": picture_address(image), "title": f"sample {index + 1} of {self.title}"}
            if result.baseline_images is not None and result.difference_images is not None:
                row["baseline"] = picture_address(result.baseline_images[index])
                row["difference"] = difference_address(result.difference_images[index])
            rows.append(row)
        return rows

    def steps(self, sample: int) -> list[dict[str, Any]]:
        """Return one sample's steps as `ResultView` shows them; none where they were not recorded."""
        result, far, unusual = self.generation.result, *self._distances(sample)
        frames, noised = result.intermediates, result.noised_inputs
        if frames is None:
            return []
        usual = f" (samples: {self.usual_distance:.2f})" if self.usual_distance else ""
        return [
            {
                "frame": picture_address(frames[step][sample], FRAME),
                "noised": None if noised is None else picture_address(noised[step][sample], INSET),
                "sigma": short_sigma(sigma),
                "note": f"distance to the data {far[step]:.2f}{usual}{unusual[step]}" if step in far else "",
            }
            for step, sigma in enumerate(result.sigmas)
        ]

    def _distances(self, sample: int) -> tuple[dict[int, float], dict[int, str]]:
        """Return each step's distance to the data, and words where its place means little."""
        path = self.generation.path
        if path is None:
            return {}, {}
        rows = path[(path["sample"] == sample) & (path["variant"] == "masked")]
        steps = rows["step"].astype(int).tolist()
        words = [", beyond 95 % of held-out samples" if far else "" for far in unusual_steps(rows)]
        return dict(zip(steps, rows["distance"].astype(float), strict=True)), dict(zip(steps, words, strict=True))


@dataclass(frozen=True, slots=True)
class Track:
    """One sample's denoising path on show, wherever it can be placed."""

    entry: GalleryEntry
    sample: int
    """Which of its samples."""
    colour: str
    has_baseline: bool
    """Whether the path without the mask is on show beside it."""

    def drawn(self) -> list[DrawnPath]:
        """Return the paths on the map that they were placed on, the baseline first."""
        drawn, path = [], self.entry.generation.path
        if path is None:
            return []
        for variant in ("baseline", "masked") if self.has_baseline else ("masked",):
            rows = path[(path["sample"] == self.sample) & (path["variant"] == variant)].sort_values("step")
            if len(rows):
                x, y, sigmas, distances = (tuple(rows[c].astype(float)) for c in ("x", "y", "sigma", "distance"))
                unusual = tuple(unusual_steps(rows).tolist())
                drawn.append(DrawnPath(x, y, sigmas, distances, variant == "baseline", self.colour, unusual))
        return drawn


def subject_on(recipe: GenerationRecipe, layer_map: LayerMap, layer: LayerRecord | None = None) -> Subject:
    """Return what a recipe's ids stand for; `layer` is that of its layer run, where it is not the one of the map."""
    facts, about = layer_map.facts, layer or layer_map.layer
    return Subject.of(
        recipe,
        layer=about.layer,
        sigma=about.sigma,
        samples=layer_map.samples,
        asks=facts.asks,
        class_names=layer_map.samples.classes if facts.class_names is None else facts.class_names,
    )


def path_colours(run_ids: Sequence[str], before: Mapping[str, str]) -> dict[str, str]:
    """Return a colour for each generation's path; one that had a colour keeps it while it is on show.

    Args:
        run_ids: generations on show.
        before: colours of those that were on show, by run id.
    """
    colours = {run: before[run] for run in run_ids if run in before}
    for run in run_ids:
        if run not in colours:
            taken = list(colours.values())
            colours[run] = min(PATHS, key=taken.count)  # more paths than colours start over
    return colours
