"""Generation: `generate` and the older functions over it, which notebooks rely on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.core.extractor import StrPath, capture, flatten_activations, save_activations
from diffviews.core.generation import generate
from diffviews.core.interventions import FixedTarget, Intervention
from diffviews.core.masking import ActivationMasker
from diffviews.core.request import (
    ClassLabel,
    GenerationRequest,
    GenerationResult,
    NoiseMode,
    Progress,
    ProgressCallback,
)
from diffviews.core.schedules import karras_sigmas
from diffviews.data.files import check_file_name, write_atomically
from diffviews.errors import ShapeError

__all__ = [
    "GenerationRequest",
    "GenerationResult",
    "Progress",
    "ProgressCallback",
    "generate",
    "generate_with_mask",
    "generate_with_mask_multistep",
    "get_denoising_sigmas",
    "infer_layer_shape",
    "save_generated_sample",
    "tensor_to_uint8_image",
]


def generate_with_mask(
    adapter: GeneratorAdapter,
    masker: ActivationMasker | None,
    class_label: ClassLabel = None,
    conditioning_sigma: float = 0.1,
    num_samples: int = 1,
    device: Any = "cuda",
    seed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Generate in one step: D(noise · sigma; sigma), with the masker's masks in place.

    Args:
        adapter: the model.
        masker: its masks; None: none.
        class_label: class; -1: uniform label; None: random.
        conditioning_sigma: noise level of the step.
        num_samples: how many images.
        device: accepted for older callers; the model stays where it is.
        seed: seed of noise and random classes; None: fresh.

    Returns:
        Images (N, H, W, 3) uint8 and class ids (N,) int64, on the CPU.
    """
    return generate_with_mask_multistep(
        adapter,
        masker,
        class_label,
        num_steps=1,
        sigma_max=conditioning_sigma,
        sigma_min=conditioning_sigma,
        num_samples=num_samples,
        device=device,
        seed=seed,
    )


def generate_with_mask_multistep(
    adapter: GeneratorAdapter,
    masker: ActivationMasker | None = None,
    class_label: ClassLabel = None,
    num_steps: int = 4,
    mask_steps: int | None = None,
    sigma_max: float = 80.0,
    sigma_min: float = 0.002,
    rho: float = 7.0,
    guidance_scale: float = 1.0,
    stochastic: bool = True,
    noise_mode: NoiseMode = "stochastic",
    num_samples: int = 1,
    device: Any = "cuda",
    seed: int | None = None,
    extract_layers: Sequence[str] | None = None,
    return_trajectory: bool = False,
    return_intermediates: bool = False,
    return_noised_inputs: bool = False,
) -> tuple[Any, ...]:
    """Generate by predicting x0 and re-noising, with the masker's masks in place for the first steps.

    Whether the masker's own hooks are registered makes no difference; they are off meanwhile.

    Args:
        adapter: the model.
        masker: its masks; None: none.
        class_label: class; -1: uniform label; None: random.
        num_steps: sampler steps.
        mask_steps: how many of the first steps are masked; None: all.
        sigma_max: first noise level.
        sigma_min: last noise level.
        rho: curvature of the schedule.
        guidance_scale: 0 unconditional, 1 conditional, above 1 amplified.
        stochastic: accepted for older callers, without effect.
        noise_mode: 'stochastic', 'fixed' (seed 42 if none is given) or 'zero' (no noise at all).
        num_samples: how many images.
        device: accepted for older callers; the model stays where it is.
        seed: seed of noise and random classes; None: fresh.
        extract_layers: layers of the trajectory.
        return_trajectory: also return, for each step, (N, D) float32: the layers' own values,
            before any mask, in sorted order.
        return_intermediates: also return each step's estimate of x0, (N, H, W, 3) uint8.
        return_noised_inputs: also return each step's noised input, alike.

    Returns:
        (images, labels[, trajectory][, intermediates][, noised_inputs]): images (N, H, W, 3)
        uint8 and class ids (N,) int64 on the CPU, the others as lists over the steps.
    """
    masked = mask_steps is None or mask_steps > 0
    masks = dict(masker.masks) if masker is not None and masked else {}
    steps = None if mask_steps is None else (0, mask_steps)
    # A mask with a row for each sample must meet all samples in one batch.
    whole = any(len(mask) > 1 for mask in masks.values())
    request = GenerationRequest(
        class_labels=class_label,
        num_samples=num_samples,
        seed=seed,
        sampler="renoise",
        schedule="karras",
        num_steps=num_steps,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        rho=rho,
        guidance_scale=guidance_scale,
        noise_mode=noise_mode,
        interventions=tuple(Intervention(name, FixedTarget(m), steps=steps) for name, m in masks.items()),
        baseline=False,
        record_layers=tuple(extract_layers or ()) if return_trajectory else (),
        record_steps=return_intermediates or return_noised_inputs,
        batch_size=num_samples if whole else 64,
    )
    result = _generate_without_own_hooks(adapter, masker, request)
    answer: list[Any] = [torch.from_numpy(result.images), torch.from_numpy(result.labels)]
    if return_trajectory:
        answer.append(_trajectory(result))
    if return_intermediates:
        answer.append(_frames(result.intermediates))
    if return_noised_inputs:
        answer.append(_frames(result.noised_inputs))
    return tuple(answer)


def _generate_without_own_hooks(
    adapter: GeneratorAdapter, masker: ActivationMasker | None, request: GenerationRequest
) -> GenerationResult:
    if masker is None:
        return generate(adapter, request)
    with masker.suspended():
        return generate(adapter, request)


def _trajectory(result: GenerationResult) -> list[np.ndarray]:
    if not result.trajectory:
        return []
    steps = range(len(result.sigmas))
    return [flatten_activations({name: kept[s] for name, kept in result.trajectory.items()}) for s in steps]


def _frames(steps: np.ndarray | None) -> list[Tensor]:
    return [] if steps is None else [torch.from_numpy(images) for images in steps]


def get_denoising_sigmas(num_steps: int, sigma_max: float, sigma_min: float, rho: float = 7.0) -> Tensor:
    """Return `karras_sigmas` in float32: (num_steps,), descending, no final zero."""
    return karras_sigmas(num_steps, sigma_max, sigma_min, rho).to(torch.float32)


def tensor_to_uint8_image(tensor: Tensor) -> Tensor:
    """Return (B, H, W, C) uint8 on the CPU for (B, C, H, W) in [-1, 1], rounded and clipped."""
    if tensor.ndim != 4:
        raise ShapeError(f"a batch of images has shape (B, C, H, W), not {tuple(tensor.shape)}")
    grey_levels = (tensor.detach().to(torch.float32) * 127.5 + 128.0).clamp(0, 255)
    return grey_levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def save_generated_sample(
    image: Any,
    activations: Mapping[str, Any] | None,
    metadata: Mapping[str, Any],
    output_dir: StrPath,
    sample_id: str,
) -> dict[str, Any]:
    """Write a generated image and, if there are any, its activations, below `output_dir`.

    `images/<model>/<sample_id>.png`, `activations/<model>/<sample_id>.npz` and `.json`, where the
    model is `metadata["model"]` or "generated".

    Returns:
        The metadata with `sample_id` and the relative paths of what was written.

    Raises:
        ConfigError: if the sample id or the model cannot name a file.
        ShapeError: if the image is not uint8 (H, W, 3).
    """
    check_file_name("sample id", sample_id)
    model = check_file_name("model", str(metadata.get("model", "generated")))
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ShapeError(f"the image is {pixels.dtype} of shape {pixels.shape}, not uint8 (H, W, 3)")
    record = {**metadata, "sample_id": sample_id, "image_path": f"images/{model}/{sample_id}.png"}
    root = Path(output_dir)
    picture = root / record["image_path"]
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(picture, lambda file: Image.fromarray(pixels).save(file, format="PNG"))
    if activations:
        record["activation_path"] = f"activations/{model}/{sample_id}.npz"
        save_activations(root / record["activation_path"], activations, json.loads(json.dumps(record)))
    return record


def infer_layer_shape(adapter: GeneratorAdapter, layer_name: str, device: Any = "cuda") -> tuple[int, ...]:
    """Return a layer's shape for one sample, from the adapter or, failing that, from a forward pass.

    Args:
        adapter: the model.
        layer_name: the layer.
        device: accepted for older callers; the model stays where it is.

    Raises:
        LayerNotFoundError: if the adapter has no such layer.
    """
    shapes = adapter.get_layer_shapes()
    if layer_name in shapes:
        return tuple(shapes[layer_name])
    x0 = torch.zeros(1, *adapter.input_shape)
    captured = capture(adapter, x0, ["shape"], adapter.condition([Condition(0)]), adapter.sigma_range[1], [layer_name])
    return tuple(captured[layer_name].shape[1:])
