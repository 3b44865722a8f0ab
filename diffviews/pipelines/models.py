"""Loading a model for a job: its checkpoint brought here from wherever it lies, then its adapter."""

from pathlib import Path
from typing import Any

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.registry import load_adapter


def load_model(
    model: str, checkpoint: str | None = None, device: str = "auto", precision: str = "auto", profile: str | None = None
) -> GeneratorAdapter:
    """Return the adapter of a model with its weights loaded, in inference mode."""
    options = {} if precision == "auto" else {"precision": precision}
    return load_adapter(model, checkpoint=checkpoint, device=device, **options)


def absolute(checkpoint: str | None) -> str | None:
    """Return a checkpoint by a name that holds in any working directory; addresses stay as they are."""
    return str(Path(checkpoint).resolve()) if checkpoint is not None and Path(checkpoint).exists() else checkpoint


def describe(adapter: GeneratorAdapter) -> dict[str, Any]:
    """Return what a form must know of a model to offer what it can do, without loading it."""
    sigma_min, sigma_max = adapter.sigma_range
    return {
        "takes_prompts": adapter.takes_prompts,
        "num_classes": adapter.num_classes,
        "default_steps": adapter.default_steps,
        "default_guidance": adapter.default_guidance,
        "default_sampler": adapter.default_sampler,
        "sigma_min": sigma_min,
        "sigma_max": sigma_max,
        "layers": {layer: list(shape) for layer, shape in adapter.get_layer_shapes().items()},
    }
