"""Handwritten digits as logged runs, without a model or MLflow: what dashboard tests browse."""

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from diffviews.data.samples import SampleSet
from diffviews.processing.similarity import Similarity

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LAYERS = ("encoder_block_0", "encoder_block_3", "midblock", "decoder_block_2")
SIGMAS = (0.5, 2.0)


class FlatProjector:
    """PCA in place of UMAP, with a projector's interface."""

    def __init__(self, sample_ids, features, planes=(0, 1)):
        self.sample_ids = tuple(sample_ids)
        self._pca = PCA(12, random_state=0).fit(features)
        self._planes = list(planes)
        self.parameters = SimpleNamespace(metric="euclidean")
        self.pca_components, self.scaler_scale = self._pca.components_, np.ones(features.shape[1])
        self.pca_points = self._pca.transform(features).astype(np.float32)
        self.embedding = self.pca_points[:, self._planes]

    def neighbors(self, row, k, space="activation"):
        points = self.pca_points if space == "activation" else self.embedding
        distances = np.linalg.norm(points - points[row], axis=1)
        order = np.argsort(distances, kind="stable")
        order = order[order != row][:k]
        return order, distances[order]


class SyntheticGenerations:
    """What a `SyntheticRunner` made, in the order it was made."""

    def __init__(self):
        self.made, self.read = [], []

    def of_layers(self, layer_runs):
        start = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
        return [
            SimpleNamespace(
                run_id=outcome.run_id, name="a name", layer=outcome.recipe.layer_run.split("/")[1],
                source_run=outcome.recipe.layer_run, start_time=start + timedelta(minutes=number),
            )
            for number, outcome in reversed(list(enumerate(self.made)))
            if outcome.recipe.layer_run in layer_runs
        ]  # fmt: skip

    def preview(self, run_id):
        self.read.append(run_id)
        return SimpleNamespace(recipe=self.generation(run_id).recipe, thumbnail=f"data:image/png;base64,{run_id}")

    def generation(self, run_id):
        return next(outcome for outcome in self.made if outcome.run_id == run_id)


class SyntheticRuns:
    """One extraction of four layers at two noise levels; grows by re-computed maps."""

    def __init__(self, count=400, ui_url=None, extractions=("ext-1",)):
        digits = load_digits()
        self.images = np.repeat((digits.images[:count] * 255 / 16).astype(np.uint8)[..., None], 3, axis=-1)
        self.images = self.images.repeat(2, axis=1).repeat(2, axis=2)
        self.labels = digits.target[:count]
        self.sample_set = SampleSet.from_images(
            self.images,
            [f"digits-{i:04d}" for i in range(count)],
            class_labels=self.labels,
            class_names=[NAMES[t] for t in self.labels],
        )
        self.ui_url, self.extraction_ids = ui_url, extractions
        self.added_maps, self.places, self.exports = [], {}, []
        self.under_way, self.troubled, self.generations = [], None, SyntheticGenerations()
        self.noted, self.further, self.params = None, None, {}
        self._features = digits.data[:count]

    def experiments(self):
        return ["diffviews"] if self.extraction_ids else []

    def extractions(self, experiment):
        start = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
        return [
            SimpleNamespace(
                run_id=e, name=e, experiment=experiment, model="edm-digits", dataset="digits", start_time=start
            )
            for e in self.extraction_ids
        ]

    def layers(self, extraction):
        return [
            SimpleNamespace(
                run_id=f"{extraction}/{layer}/{sigma}",
                parent_id=extraction,
                layer=layer,
                layer_index=index,
                model="edm-digits",
                dataset="digits",
                sigma=sigma,
                metrics={
                    "knn_accuracy_activation": 0.55 + 0.1 * index - 0.05 * sigma,
                    "control_rate": 0.1 + 0.25 * index,
                    "control_baseline": 0.1,
                    "trustworthiness": 0.96,
                },
                params={"pca_components": "50", "conditioning": "label", **self.params},
            )
            for index, layer in enumerate(LAYERS)
            for sigma in SIGMAS
        ]

    def maps(self, layer_run):
        return [m for m in self.added_maps if m.source_run == layer_run and m.params.get("map") != "aligned"]

    def aligned_maps(self, layer_runs):
        return [m for m in self.added_maps if m.source_run in layer_runs and m.params.get("map") == "aligned"]

    def samples(self, extraction):
        return self.sample_set

    def model(self, extraction):
        return self.noted

    def columns(self, extraction):
        return self.further

    def points(self, map_run, slice_sigma=None):
        projector = self.projector(map_run, slice_sigma)
        rng = np.random.default_rng(7)
        order = rng.permutation(len(projector.sample_ids))  # rows of a table come in any order
        table = pd.DataFrame(projector.embedding, columns=list("xyz")[: projector.embedding.shape[1]])
        table.insert(0, "sample_id", projector.sample_ids)
        table["neighborhood_preservation"] = rng.uniform(0.3, 1, len(table))
        table["distance_to_data"] = np.linalg.norm(projector.pca_points, axis=1)
        return table.iloc[order].reset_index(drop=True)

    def projector(self, map_run, slice_sigma=None):
        base = next((m.source_run for m in self.added_maps if m.run_id == map_run), map_run)
        _, layer, sigma = base.split("/")
        sigma = sigma if slice_sigma is None else slice_sigma
        rng = np.random.default_rng(LAYERS.index(layer))
        features = self._features + rng.normal(0, 2 * float(sigma), self._features.shape)
        made = next((m for m in self.added_maps if m.run_id == map_run), None)
        planes = (0, 1) if made is None else (2, 1, 3) if made.params.get("n_components") == "3" else (2, 1)
        return FlatProjector(self.sample_set.sample_ids, features, planes)

    def similarity(self, extraction, sigma):
        gaps = np.abs(np.subtract.outer(np.arange(len(LAYERS)), np.arange(len(LAYERS))))
        alike = 1 - gaps / len(LAYERS)
        return Similarity(tuple(LAYERS), alike, alike / 2, alike / 3, np.full(alike.shape, 0.005))

    def address_of(self, run_id):
        return self.places.get(run_id)

    def pending(self, experiment):
        return list(self.under_way)

    def trouble(self):
        return self.troubled

    def log_export(self, source_run, files, *, title, link):
        self.exports.append((source_run, files, title, link))
        return f"export-{len(self.exports)}"

    def run_url(self, run_id):
        return f"{self.ui_url}/#/experiments/1/runs/{run_id}" if self.ui_url else None


class PromptRuns(SyntheticRuns):
    """The same pictures as if a text model had made them: prompts, categories and clusters, no classes."""

    WORDS = ("round", "thin", "bold", "slanted", "wide")

    def __init__(self, count=200, categories=True, **options):
        super().__init__(count, **options)
        prompts = [f"a {self.WORDS[i % 5]} {NAMES[t]}, take {i}" for i, t in enumerate(self.labels)]
        kinds = ["even" if t % 2 == 0 else "odd" for t in self.labels]
        self.sample_set = SampleSet.from_images(
            self.images,
            [f"digits-{i:04d}" for i in range(count)],
            class_labels=[int(kind == "odd") for kind in kinds] if categories else None,
            class_names=kinds if categories else None,
            prompts=prompts,
            class_order="categories",
        )
        clusters = [f"{i % 5 + 1}: {self.WORDS[i % 5]}" for i in range(count)]
        self.further = pd.DataFrame(
            {"sample_id": self.sample_set.sample_ids, "prompt_cluster": clusters, "length": [len(p) for p in prompts]}
        ).sample(frac=1, random_state=0)
        self.noted = {
            "takes_prompts": True,
            "num_classes": 0,
            "default_steps": 50,
            "default_guidance": 7.5,
            "default_sampler": "euler",
            "sigma_min": 0.03,
            "sigma_max": 14.6146,
            "layers": {"encoder_block_0": [32, 16, 16], "midblock": [64, 8, 8], "decoder_block_2": [77, 320]},
        }


class SyntheticRunner:
    """Pretends to generate: the average picture appears out of noise, step by step."""

    def __init__(self, runs, seconds_a_step=0.0):
        self.runs, self.pause, self.made, self.recipes, self.ordered = runs, seconds_a_step, 0, [], []

    def generate(self, recipe, job):
        self.recipes.append(recipe)
        steps, n = recipe.sampling.num_steps or 18, recipe.num_samples
        rng = np.random.default_rng(recipe.seed or 0)
        goal = self.runs.sample_set.images_of(recipe.sample_ids or ["digits-0000"]).mean(axis=0)
        images = np.clip(goal + rng.normal(0, 18, (n, *goal.shape)), 0, 255)
        other = np.clip(self.runs.images[rng.integers(0, len(self.runs.images), n)].astype(float), 0, 255)
        frames, noised = [], []
        sigmas = np.geomspace(80, 0.002, steps)
        for step in range(steps):
            share = (step + 1) / steps
            frame = images * share + 127 * (1 - share)
            frames.append(frame.astype(np.uint8))
            noised.append(np.clip(127 + rng.normal(0, 60, images.shape) * (1 - share) + (images - 127) * share, 0, 255))
            time.sleep(self.pause)
            job.report(step + 1, steps, frames[-1][0])
        self.made += 1
        result = SimpleNamespace(
            images=images.astype(np.uint8),
            labels=np.full(n, -1),
            seed=recipe.seed or 0,
            sigmas=sigmas,
            baseline_images=other.astype(np.uint8) if recipe.sample_ids else None,
            difference_images=np.abs(images - other).astype(np.uint8) if recipe.sample_ids else None,
            intermediates=np.stack(frames),
            noised_inputs=np.stack(noised).astype(np.uint8),
        )
        outcome = SimpleNamespace(
            run_id=f"gen-{self.made}", recipe=recipe, result=result, path=self._path(recipe, sigmas, n)
        )
        self.runs.generations.made.append(outcome)
        return outcome

    def replay(self, run_id, job):
        job.report(1, 1)
        return SimpleNamespace(run_id=run_id, num_images=4, largest_difference=0)

    def extract(self, recipe, job):
        self.ordered.append(recipe)
        job.report(1, 2)
        self.runs.extraction_ids = ("ext-2", *self.runs.extraction_ids)
        return "ext-2"

    def embed(self, recipe, job):
        job.report(0, 0)
        time.sleep(self.pause)
        run_id = f"map-{len(self.runs.added_maps) + 1}"
        params = {"n_neighbors": str(recipe.maps.n_neighbors), "min_dist": str(recipe.maps.min_dist)}
        params |= {"map": recipe.map, "n_components": str(recipe.maps.n_components), "sigmas": "0.5,2"}
        self.runs.added_maps.insert(0, SimpleNamespace(run_id=run_id, source_run=recipe.layer_run, params=params))
        return run_id

    def _path(self, recipe, sigmas, count):
        table = self.runs.points(recipe.map_run or recipe.layer_run)
        rows = table.set_index("sample_id")
        goal = rows.loc[list(recipe.sample_ids) or ["digits-0000"], ["x", "y"]].mean().to_numpy()
        rng = np.random.default_rng(1)
        parts = []
        for variant in ("masked", "baseline"):
            for sample in range(count):
                end = goal if variant == "masked" else rows[["x", "y"]].iloc[sample].to_numpy()
                start = rows[["x", "y"]].mean().to_numpy() + rng.normal(0, 2, 2)
                share = np.linspace(0, 1, len(sigmas))[:, None]
                way = start * (1 - share) + end * share + rng.normal(0, 0.8, (len(sigmas), 2))
                parts.append(
                    pd.DataFrame(
                        {
                            "step": np.arange(len(sigmas)),
                            "sample": sample,
                            "sigma": sigmas,
                            "x": way[:, 0],
                            "y": way[:, 1],
                            "distance": np.linspace(20, 1, len(sigmas)),
                            "variant": variant,
                        }
                    )
                )
        return pd.concat(parts, ignore_index=True)
