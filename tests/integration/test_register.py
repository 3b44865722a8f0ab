"""A model in the registry: pictures from `mlflow.pyfunc`, weights through `models:/`, and no pickle anywhere."""

import base64
import io

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffviews.core.generator import GenerationRequest, generate
from diffviews.data.checkpoints import PICKLED
from diffviews.errors import CheckpointError, ConfigError
from diffviews.pipelines.models import resolve_checkpoint
from diffviews.pipelines.workspace import open_workspace
from diffviews.serving.register import gather_weights, register
from tests.checkpoints import small_edm_checkpoint
from tests.jobs import load_model


@pytest.fixture
def registry(own_store, monkeypatch):
    """An empty registry, which MLflow's own functions use as well."""
    monkeypatch.setenv("DIFFVIEWS_CACHE_DIR", str(own_store / "cache"))
    uri = open_workspace().tracker.profile.tracking_uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    return own_store


def pictures(table):
    opened = [Image.open(io.BytesIO(base64.b64decode(text))) for text in table["image"]]
    return np.stack([np.asarray(picture) for picture in opened])


def test_registered_model_generates_and_is_a_checkpoint(registry, adapter):
    made = register("digits", device="cpu")
    assert str(made) == "models:/digits/1"
    assert str(register("digits", checkpoint=str(made), device="cpu")) == "models:/digits/2"

    model = mlflow.pyfunc.load_model(str(made))
    signature = model.metadata.signature
    assert (signature.inputs.input_names(), len(signature.params.params)) == (["class_label"], 3)
    table = model.predict(pd.DataFrame({"class_label": [3, -1]}), params={"seed": 4, "num_steps": 5})
    expected = generate(adapter, GenerationRequest(class_labels=(3, -1), num_samples=2, seed=4, num_steps=5))
    assert np.abs(pictures(table).astype(int) - expected.images.astype(int)).max() <= 1
    assert (table["seed"].tolist(), table["class_label"].tolist()) == ([4, 4], [3, -1])
    for wrong, words in (
        ({"data": pd.DataFrame({"class_label": [0] * 300})}, "num_samples 300 is beyond"),
        ({"data": pd.DataFrame({"class_label": []}, dtype="int64")}, "no row"),
        ({"data": pd.DataFrame({"class_label": [1]}), "params": {"num_steps": 10**9}}, "1000000000 is beyond"),
    ):
        with pytest.raises(ConfigError, match=words):
            model.predict(**wrong)

    assert load_model("edm-digits", str(made), device="cpu").digest() == adapter.digest()
    files = [path for path in resolve_checkpoint(str(made)).parents[1].rglob("*") if path.is_file()]
    assert {"MLmodel", "pyfunc_entry.py", "model.safetensors"} <= {path.name for path in files}
    assert not [path for path in files if path.suffix in PICKLED]


def test_pickled_weights_are_registered_as_safetensors(tmp_path):
    tensors = load_file(small_edm_checkpoint(tmp_path / "weights.safetensors"))
    torch.save(tensors, tmp_path / "weights.bin")
    folder = gather_weights("edm-digits", str(tmp_path / "weights.bin"), tmp_path / "gathered")
    (file,) = folder.iterdir()
    written = load_file(file)
    assert file.name == "model.safetensors"
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)


def test_folder_is_registered_without_its_pickles(tmp_path):
    source = tmp_path / "model"
    source.mkdir()
    (source / "weights.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"is a pickle.*convert it first"):
        gather_weights("edm-digits", str(source), tmp_path / "first")
    small_edm_checkpoint(source / "weights.safetensors")
    folder = gather_weights("edm-digits", str(source), tmp_path / "second")
    assert [path.name for path in folder.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a:b", "a@b", "-x", "a" * 300])
def test_name_that_no_address_could_hold_is_refused(name):
    with pytest.raises(ConfigError, match="cannot name a registered model"):
        register(name)


def test_part_of_a_model_is_not_registered_alone(tmp_path):
    with pytest.raises(CheckpointError, match="only a part of a model and needs 'sdxl'"):
        gather_weights("dmd2-sdxl-4step", "dmd2-sdxl-4step-lora", tmp_path / "weights")
    with pytest.raises(CheckpointError, match="brings no weights"):
        gather_weights("sdxl", None, tmp_path / "weights")
