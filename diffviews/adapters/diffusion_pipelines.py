"""Which folders of diffusers fit which adapter, by the class of their pipeline and by its further components."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffviews.errors import CheckpointError

PIPELINES: Mapping[str, str] = {
    "DDPMPipeline": "ddpm",
    "DDIMPipeline": "ddpm",
    "PNDMPipeline": "ddpm",
    "StableDiffusionPipeline": "sd-v1.5",
    "StableDiffusionPipelineSafe": "sd-v1.5",
    "StableDiffusionImg2ImgPipeline": "sd-v1.5",
    "LatentConsistencyModelPipeline": "sd-v1.5",
    "LatentConsistencyModelImg2ImgPipeline": "sd-v1.5",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
}
"""Pipelines of diffusers whose sampling an adapter repeats, and the adapter; students take their teacher's."""

BESIDE = ("scheduler", "safety_checker", "feature_extractor", "image_encoder", "watermark")
"""Components that do not take part in sampling from a prompt, or are read apart from the networks."""


def check_pipeline(folder: Path, index: Mapping[str, Any], components: Collection[str], family: str) -> None:
    """Refuse a folder whose pipeline, or a further component of it, an adapter does not know.

    Args:
        folder: where it lies, for messages.
        index: its `model_index.json`.
        components: those that the adapter loads.
        family: the adapter, one of the values of `PIPELINES`.

    Raises:
        CheckpointError: naming the adapter that fits, if one does.
    """
    pipeline = index.get("_class_name")
    fitting = PIPELINES.get(pipeline) if isinstance(pipeline, str) else None
    if pipeline is not None and fitting != family:
        raise CheckpointError(
            f"checkpoint {folder} is a {pipeline if isinstance(pipeline, str) else 'custom pipeline'}, which "
            + (f"fits model {fitting!r}, not {family!r}" if fitting else f"fits no model here; {_known(family)}")
        )
    further = {name: entry[1] for name, entry in index.items() if _is_component(entry)}
    strange = [name for name in further if name not in components and name not in BESIDE]
    if strange:
        raise CheckpointError(
            f"checkpoint {folder} has the component {strange[0]!r} ({further[strange[0]]}), which model {family!r} "
            f"does not use, so its images would be others; {_known(family)}"
        )
    if index.get("requires_aesthetics_score"):
        raise CheckpointError(
            f"checkpoint {folder} is SDXL's refiner, which is told an aesthetic score; model {family!r} takes the base"
        )


def _is_component(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[1], str)


def _known(family: str) -> str:
    known = ", ".join(name for name, adapter in PIPELINES.items() if adapter == family)
    return f"{family!r} takes {known}; for other models write an adapter (docs/adapters.md)"
