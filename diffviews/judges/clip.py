"""The judge `clip:<folder>`: zero-shot by the names of the classes (Radford et al. 2021), for any pictures.

The folder is a CLIPModel of transformers on this machine, with its tokenizer. What is farther, in the space of images,
from all of the samples than 99 % of held-out ones are is rejected.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import pairwise_distances_argmin_min
from torch import Tensor
from torch.nn import functional as F

from diffviews.adapters.diffusion_folder import load_component, load_tokenizer, read_json
from diffviews.data.pictures import resize_images
from diffviews.errors import CheckpointError, ConfigError
from diffviews.judges.base import JudgeRequest
from diffviews.judges.calibrated import CalibratedJudge, Decide, Opinion, calibrate, measure

TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a drawing of a {}.", "{}")
"""What is made of a class's name; the mean of their embeddings stands for it. A prompt is taken as it is."""
MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in CLIP's training, where the folder has no preprocessor_config.json."""
MOST_IMAGES = 10_000
"""Samples that are compared with, stratified by class, or two a class."""
BATCH = 32


def clip_judge(request: JudgeRequest) -> CalibratedJudge:
    """Return a judge by the name or prompt that is nearest to an image.

    Raises:
        ConfigError: if no folder is named, there are fewer than two names, or transformers is not installed.
        CheckpointError: if the folder holds no such model.
        SampleSetError: if samples have classes, but fewer than two of two images.
    """
    candidates = request.candidates
    if not request.argument:
        raise ConfigError("judge 'clip' names no folder; write clip:<folder>, that of a CLIPModel of transformers")
    if len(candidates) < 2:
        raise ConfigError(f"judge 'clip' needs two names or prompts to choose between, not {len(candidates)}")
    folder = Path(request.argument)
    if not folder.is_dir():
        raise CheckpointError(f"judge {request.notation!r}: there is no folder {folder}; give that of a CLIPModel")
    device = "cpu" if request.adapter is None else request.adapter.device
    model: Any = load_component(folder, "CLIPModel", torch.float32).to(device)
    asked = [[text] for text in request.prompts] or [
        [template.format(name.replace("_", " ")) for template in TEMPLATES] for name in candidates.values()
    ]
    texts = _embedded(model, load_tokenizer(folder), asked)
    look = image_embeddings(model, *_colours(folder))
    fit = partial(_fit, texts, np.array(list(candidates), np.int64), float(model.logit_scale.exp()))
    if not (request.labels >= 0).any():
        return measure(request.notation, look, fit(np.zeros((1, texts.shape[1]), np.float32), np.zeros(1)),
                       request.samples.images[:0], request.labels[:0])  # fmt: skip
    rows = request.rows_to_fit(MOST_IMAGES)
    return calibrate(request.notation, look, fit, request.samples.pictures.pixels(rows), request.labels[rows])


def image_embeddings(model: Any, mean: Tensor, spread: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """Return what gives the unit embeddings of images, (N, D) float32, fitted to the model's size by centre crop."""
    side, device = model.config.vision_config.image_size, model.logit_scale.device

    @torch.inference_mode()
    def embedded(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(resize_images(images, side)).permute(0, 3, 1, 2).float() / 255
        pixels = (pixels - mean.reshape(3, 1, 1)) / spread.reshape(3, 1, 1)
        seen = model.vision_model(pixel_values=pixels.to(device)).pooler_output
        found: np.ndarray = F.normalize(model.visual_projection(seen), dim=1).cpu().numpy()
        return found

    def look(images: np.ndarray) -> np.ndarray:
        return np.concatenate([embedded(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])

    return look


@torch.inference_mode()
def _embedded(model: Any, tokenizer: Any, asked: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the unit mean embedding of each candidate's texts, (K, D) float32."""
    length, found = model.config.text_config.max_position_embeddings, []
    for texts in asked:
        given = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        given = given.to(model.logit_scale.device)
        read = model.text_model(input_ids=given.input_ids, attention_mask=given.attention_mask).pooler_output
        found.append(F.normalize(model.text_projection(read), dim=1).mean(dim=0))
    unit: np.ndarray = F.normalize(torch.stack(found), dim=1).cpu().numpy()
    return unit


def _fit(texts: np.ndarray, classes: np.ndarray, scale: float, known: np.ndarray, _labels: np.ndarray) -> Decide:
    def decide(embeddings: np.ndarray) -> Opinion:
        logits = torch.from_numpy(scale * embeddings @ texts.T).double()
        sure, best = logits.softmax(dim=1).max(dim=1)
        return Opinion(classes[best.numpy()], sure.numpy(), pairwise_distances_argmin_min(embeddings, known)[1])

    return decide


def _colours(folder: Path) -> tuple[Tensor, Tensor]:
    config = read_json(folder / "preprocessor_config.json") if (folder / "preprocessor_config.json").exists() else {}
    return torch.tensor(config.get("image_mean", MEAN)), torch.tensor(config.get("image_std", SPREAD))
