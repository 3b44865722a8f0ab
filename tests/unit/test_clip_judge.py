"""The judge `clip`: what transformers' own CLIPModel says of images and names, from a folder that runs nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import transformers

from diffviews.data.samples import SampleSet
from diffviews.errors import CheckpointError, ConfigError, JudgeError
from diffviews.judges import clip
from diffviews.judges.registry import make_judge
from diffviews.lightning.word_tokenizer import word_tokenizer

NAMES = ("circle", "red square", "star", "cross")
SIDE = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small CLIPModel with random weights."""
    path = tmp_path_factory.mktemp("clip")
    texts = [template.format(name) for template in clip.TEMPLATES for name in NAMES]
    tokenizer = word_tokenizer(texts, 16)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config={
            **small, "vocab_size": len(tokenizer), "max_position_embeddings": 16,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**small, "image_size": SIDE, "patch_size": 8}, projection_dim=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CLIPModel(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.constant_(model.logit_scale, 2.0)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    mean = [0.5, 0.4, 0.3]
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": [0.2, 0.3, 0.4]}))
    return path


def samples(side: int = SIDE, count: int = 40) -> SampleSet:
    random, labels = np.random.default_rng(0), np.arange(count) % 4
    images = random.integers(0, 256, (4, side, side, 3))[labels] * 0.7 + random.integers(0, 70, (count, side, side, 3))
    names = [NAMES[label].replace(" ", "_") for label in labels]
    ids = [f"image-{row}" for row in range(count)]
    return SampleSet.from_images(images.astype(np.uint8), ids, class_labels=labels + 2, class_names=names)


def logits(folder: Path, images: np.ndarray, texts: list[str]) -> np.ndarray:
    """Return what transformers gives for images of the model's own size."""
    model = transformers.CLIPModel.from_pretrained(folder)
    tokens = transformers.CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    pixels = (torch.from_numpy(images).float() / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])
    with torch.no_grad():
        return model(**tokens, pixel_values=pixels.permute(0, 3, 1, 2)).logits_per_image.numpy()


def test_prompts_are_chosen_as_by_transformers(folder: Path) -> None:
    given = samples()
    prompts = ("a photo of a circle.", "star", "a drawing of a cross.")
    judge = make_judge(f"clip:{folder}", given, prompts=prompts)
    expected = logits(folder, given.images, list(prompts))
    verdicts = judge.classify(given.images)
    np.testing.assert_array_equal(verdicts.labels, expected.argmax(axis=1))
    softmax = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(verdicts.scores, softmax.max(axis=1), rtol=1e-4)
    assert judge.accuracy is None, "no sample has one of the prompts"


def test_names_are_put_into_templates_whose_mean_stands_for_them(folder: Path) -> None:
    given = samples()
    judge = make_judge(f"clip:{folder}", given, floor=0.0)
    # Of unit embeddings the mean's logits are the mean of the logits, up to the length of each name's mean.
    each = np.stack([logits(folder, given.images, [t.format(name) for t in clip.TEMPLATES]) for name in NAMES], axis=1)
    model = transformers.CLIPModel.from_pretrained(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    length = []
    for name in NAMES:
        tokens = tokenizer([t.format(name) for t in clip.TEMPLATES], padding=True, return_tensors="pt")
        with torch.no_grad():
            pooled = model.text_projection(model.text_model(**tokens).pooler_output)
        length.append(float(torch.nn.functional.normalize(pooled, dim=1).mean(dim=0).norm()))
    expected = (each.mean(axis=2) / np.array(length)).argmax(axis=1) + 2
    opinion = judge.decide(judge.look(given.images))
    np.testing.assert_array_equal(opinion.labels, expected)


def test_images_of_other_sizes_are_fitted_and_static_is_rejected(folder: Path) -> None:
    judge = make_judge(f"clip:{folder}", samples(32), floor=0.0)
    assert judge.classify(samples(32).images).rejects.mean() < 0.1
    static = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), np.uint8)
    assert judge.classify(static).rejects.mean() > 0.5  # by random weights, which mix it with much else


def test_model_that_knows_no_names_is_refused(folder: Path) -> None:
    with pytest.raises(JudgeError, match=r"below its floor of 0\.900"):
        make_judge(f"clip:{folder}", samples())


def test_folder_that_holds_no_plain_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"write clip:<folder>"):
        make_judge("clip", samples())
    with pytest.raises(CheckpointError, match="there is no folder"):
        make_judge("clip:openai/clip-vit-base-patch32", samples())
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        make_judge(f"clip:{tmp_path}", samples())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "transformers_weights": "model.bin"}))
    with pytest.raises(CheckpointError, match="transformers_weights"):
        make_judge(f"clip:{tmp_path}", samples())
