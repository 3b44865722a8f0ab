"""What a judge says of a generation: which images are as asked, and which as without the mask."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.generator import GenerationResult
from diffviews.errors import ConfigError
from diffviews.judges.base import Judge, Verdicts
from diffviews.judges.factors import FactorJudge, as_asked
from diffviews.judges.registry import make_judge
from diffviews.pipelines.workspace import Workspace
from diffviews.recipes.generation import GenerationRecipe
from diffviews.tracking.catalog import LayerRecord

KINDS = ("images", "baseline")
"""The images of a generation, and those of the same noise without the mask."""


def judge_of(
    recipe: GenerationRecipe, layer: LayerRecord | None, workspace: Workspace, adapter: GeneratorAdapter
) -> Judge | None:
    """Return the judge that a recipe asks for, fitted on the samples of its layer run; None where it asks for none.

    Raises:
        ConfigError: if there is no such judge, or it needs a layer run.
        JudgeError: if it is less accurate than its floor.
    """
    if recipe.judge is None:
        return None
    if recipe.judge == FactorJudge().name:
        return FactorJudge()  # needs no samples
    if layer is None:
        raise ConfigError(f"judge {recipe.judge!r} is fitted on the samples of a layer run; give layer_run, or factors")
    return make_judge(recipe.judge, workspace.samples_of(layer), adapter)


@dataclass(frozen=True, slots=True)
class JudgedGeneration:
    """What a judge says of a generation."""

    table: pd.DataFrame
    """One row an image: kind, index, label (-1: rejected), score, and a column a factor."""
    measures: dict[str, float]
    """Shares of the images: rejected, as asked, as without the mask; `baseline_…` of those without the mask."""

    def in_words(self) -> str:
        """Return the measures, a line each."""
        return "\n".join(f"{name.replace('_', ' ')}: {value:.2f}" for name, value in sorted(self.measures.items()))


def judged(judge: Judge, recipe: GenerationRecipe, result: GenerationResult) -> JudgedGeneration:
    """Return what a judge says of a generation's images and of their baseline.

    Where the judge tells factors, each factor that the prompt names is compared with it, and each with the baseline's;
    otherwise the class with the one asked for.
    """
    given = dict(zip(KINDS, (result.images, result.baseline_images), strict=True))
    verdicts = {kind: judge.classify(images) for kind, images in given.items() if images is not None}
    measures: dict[str, float] = {}
    for kind, found in verdicts.items():
        told = {"rejects": float(found.rejects.mean()), **_as_asked(recipe, result, found)}
        measures |= {name if kind == "images" else f"baseline_{name}": value for name, value in told.items()}
    if len(verdicts) == len(KINDS):
        measures |= _unchanged(*verdicts.values())
    return JudgedGeneration(pd.concat([_rows(*item) for item in verdicts.items()], ignore_index=True), measures)


def _rows(kind: str, found: Verdicts) -> pd.DataFrame:
    own = pd.DataFrame({"kind": kind, "index": np.arange(len(found.labels)), "label": found.labels})
    own["score"] = found.scores
    return own if found.factors is None else pd.concat([own, found.factors], axis=1)


def _as_asked(recipe: GenerationRecipe, result: GenerationResult, found: Verdicts) -> dict[str, float]:
    if found.factors is not None and recipe.prompt:
        table = as_asked([recipe.prompt] * len(found.labels), found)
        return {f"{name}_as_asked": float(values.mean()) for name, values in table.items() if values.notna().all()}
    if recipe.class_label is None or recipe.class_label < 0 or found.factors is not None:
        return {}
    return {"class_as_asked": float(np.mean(found.labels == result.labels))}


def _unchanged(masked: Verdicts, own: Verdicts) -> dict[str, float]:
    """Return of each factor, or of the class, the share that is as without the mask."""
    if masked.factors is None or own.factors is None:
        return {"class_unchanged": float(np.mean(masked.labels == own.labels))}
    first = [name for name in map(str, masked.factors) if not name.startswith("second_")]
    return {f"{name}_unchanged": float((masked.factors[name] == own.factors[name]).mean()) for name in first}
