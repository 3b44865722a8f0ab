"""What an atlas is made of: pairs, windows, rounds that close cells, ways of judging, picture and report."""

import numpy as np
import pandas as pd
import pytest

from diffviews.core.cuts import Cut, Cuts
from diffviews.core.interchange import Cell
from diffviews.errors import ConfigError, CorruptDataError
from diffviews.judges.base import Verdicts
from diffviews.pipelines.atlas.drawing import ROUND, Drawing, Round
from diffviews.pipelines.atlas.judging import Ways
from diffviews.pipelines.atlas.pairs import Pairs, different, equal_windows
from diffviews.pipelines.atlas.result import atlas_table, log_atlas
from diffviews.processing.atlas_figure import atlas_figure
from diffviews.recipes import AtlasRecipe
from diffviews.recipes.generation import Sampling

CUT, OUTER = Cut(("<script>alert(1)</script>",)), Cut(("outer", "last"))
CELLS = [Cell(CUT, "trunk", (0, 4)), Cell(CUT, "skips", (0, 4), OUTER), Cell(OUTER, "together", (0, 2))]
CLASSES = 5


@pytest.mark.parametrize(("steps", "parts"), [(18, 6), (12, 6), (7, 3), (4, 6), (1, 6), (50, 7)])
def test_windows_are_all_steps_and_equal_parts_of_them(steps, parts):
    whole, *divided = equal_windows(steps, parts)
    assert whole == (0, steps)
    lengths = [stop - first for first, stop in divided]
    if steps > 1:
        assert (sum(lengths), len(divided)) == (steps, min(steps, parts))
        assert [first for first, _ in divided[1:]] == [stop for _, stop in divided[:-1]]
        assert max(lengths) - min(lengths) <= 1
    else:
        assert not divided


def test_pairs_depend_on_their_number_and_the_seed_alone():
    pairs = Pairs("label", 3, Sampling(), classes=10)
    whole, part = pairs.request(0, 40), pairs.request(20, 5)
    assert whole.class_labels[40:50] == part.class_labels
    assert part.first_index == 40
    donors, recipients = whole.class_labels[0::2], whole.class_labels[1::2]
    assert sorted(donors) == sorted([*range(10)] * 4)
    assert all(donor != recipient for donor, recipient in zip(donors, recipients, strict=True))
    assert Pairs("label", 4, Sampling(), classes=10).request(0, 40).class_labels != whole.class_labels


def test_what_is_told_is_what_the_request_says():
    texts = ("a red circle", "a blue square", "a green star")
    prompted = Pairs("prompt", 0, Sampling(), prompts=texts).request(0, 6)
    assert set(prompted.prompts) == set(texts)
    assert all(a != b for a, b in zip(prompted.prompts[0::2], prompted.prompts[1::2], strict=True))
    assert Pairs("uniform", 0, Sampling(), classes=10).request(0, 2).class_labels == -1
    assert Pairs("none", 0, Sampling(), classes=10).request(0, 2).guidance_scale == 0
    assert Pairs("none", 0, Sampling(), classes=0).request(0, 2).guidance_scale is None
    with pytest.raises(ConfigError, match="1 to choose from"):
        Pairs("prompt", 0, Sampling(), prompts=("one",))
    assert different(["a", None, "b", "a"]) == ("a", "b")


def planted_round(random, first, cells, rates, count=ROUND):
    """Return a round whose cell c hits with the rate rates[c]; one pair is rejected and one alike."""
    donors = np.arange(count) % CLASSES
    recipients = (donors + random.integers(1, CLASSES, count)) % CLASSES
    recipients[:1], recipients[1:2] = -1, donors[1:2]
    draws = np.random.default_rng(first).random((len(rates), count))
    landed = np.stack([np.where(draws[cell] < rates[cell], donors, recipients) for cell in cells])
    near = np.ones(landed.shape, bool)
    shape = (len(cells), count, 1)
    return Round(first, np.array(cells), donors[:, None], recipients[:, None], near[0], landed.reshape(shape), near)


def drawn(rates, max_pairs=400, half_width=0.05):
    drawing, random = Drawing(CELLS, 1, half_width, max_pairs), np.random.default_rng(0)
    while drawing.open_cells:
        drawing.add(planted_round(random, drawing.pairs, drawing.open_cells, rates, drawing.next_round))
    return drawing


def test_cells_are_drawn_until_they_are_known_or_the_budget_is_spent():
    drawing = drawn([0.0, 0.5, 1.0])
    known, spent, other = (drawing.rate(cell, 0) for cell in range(3))
    assert known.n == other.n == 38  # one round, less the rejected pair and the one of one class
    assert spent.n == 380
    assert drawing.pairs == 400
    assert all((rate.high - rate.low) / 2 <= 0.05 for rate in (known, other))
    assert drawing.left_out(0) == (10, 10)


def test_a_cell_does_not_depend_on_when_others_are_known():
    alone, beside = drawn([0.0, 0.5, 0.0]), drawn([0.5, 0.5, 0.5])
    assert alone.rate(1, 0) == beside.rate(1, 0)


@pytest.mark.parametrize("max_pairs", [1, 39, 41, 100])
def test_budget_is_kept(max_pairs):
    assert drawn([0.5] * 3, max_pairs).pairs == max_pairs


def test_rounds_are_read_back_as_written_and_without_pickle(tmp_path):
    made = planted_round(np.random.default_rng(1), 40, [0, 2], [0.2, 0.5, 0.9])
    made.write(tmp_path / "round.npz")
    again = Round.read(tmp_path / "round.npz")
    assert again.first == 40
    for name in ("cells", "donors", "recipients", "plain_near", "landed", "near"):
        assert np.array_equal(getattr(again, name), getattr(made, name))
        assert getattr(again, name).dtype == getattr(made, name).dtype
    (tmp_path / "round.npz").write_bytes((tmp_path / "round.npz").read_bytes()[:200])
    with pytest.raises(CorruptDataError, match="no round of an atlas"):
        Round.read(tmp_path / "round.npz")
    np.savez(tmp_path / "hostile.npz", first=np.array([{}], dtype=object))
    with pytest.raises(CorruptDataError):
        Round.read(tmp_path / "hostile.npz")


def test_pairs_that_cannot_be_used_end_the_job_with_the_reason():
    drawing = Drawing(CELLS, 1, 0.05, 100)
    made = planted_round(np.random.default_rng(0), 0, [0, 1, 2], [1, 1, 1])
    made.donors[:30], made.donors[30:] = -1, made.recipients[30:]
    drawing.add(made)
    with pytest.raises(ConfigError, match=r"no pair of 40 can be used: of 30 .* 10 are of the same class"):
        drawing.check_usable(["class"])


class FactorsJudge:
    name = "factors"
    held_out = None

    def classify(self, images):
        table = pd.DataFrame({"shape": ["star", "", "ring"], "colour": ["red", "red", "blue"]})
        return Verdicts(np.array([0, 1, -1]), np.zeros(3), table)


def test_factors_are_judged_apart_and_rejects_are_of_none():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    ways = Ways(FactorsJudge(), ("colour", "shape"))
    assert ways.names == ("colour", "shape")
    seen = ways.of(images)
    assert seen[0, 0] == seen[1, 0] >= 0
    assert seen[0, 1] >= 0
    assert seen[1, 1] == -1
    assert (seen[2] == -1).all()
    assert Ways(FactorsJudge()).of(images).tolist() == [[0], [1], [-1]]
    with pytest.raises(ConfigError, match="colour"):
        Ways(FactorsJudge(), ("color",)).of(images)


class Run:
    """Keeps what is logged."""

    def __init__(self):
        self.kept, self.metrics = {}, {}

    def log_table(self, table, path):
        self.kept[path] = table

    def log_artifact_bytes(self, content, path):
        self.kept[path] = content

    def log_image(self, key, png):
        self.kept[key] = png

    def log_metrics(self, metrics):
        self.metrics |= metrics


def test_atlas_is_logged_as_table_picture_and_escaped_report():
    drawing, run = drawn([0.9, 0.1, 1.0], 80), Run()
    table = atlas_table(drawing, ["class"], [80.0, 10.0, 2.0, 0.5, 0.0])
    assert {"cut", "layers", "part", "first_step", "last_step", "sigma_from", "sigma_to", "n", "rate", "low", "high",
            "null", "p", "own", "rejects", "on_manifold"} <= set(table)  # fmt: skip
    assert table["sigma_to"].tolist() == [0.0, 0.0, 2.0]
    said = log_atlas(run, table, drawing, ["class"], Cuts((OUTER, CUT), OUTER, ("idle",), 0.0), model="<b>m</b>",
                     conditioning="label", measures={"judge_accuracy": 0.99})  # fmt: skip
    assert {"atlas.parquet", "atlas.csv", "atlas.png", "atlas.html", "atlas"} == set(run.kept)
    assert run.kept["atlas.png"].startswith(b"\x89PNG")
    page = run.kept["atlas.html"].decode()
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert "layer idle has no effect" in said
    assert "last" in said
    keys = [key for key in run.metrics if key.startswith("interchange_")]
    assert keys == ["interchange_-script-alert-1---script-_trunk", "interchange_-script-alert-1---script-_skips"]
    assert run.metrics["pairs"] == 80


def test_figure_draws_every_cell_of_the_table_it_is_given():
    table = pd.DataFrame({
        "cut": ["a", "a", "b"], "part": ["trunk", "trunk", "skips"], "first_step": [0, 0, 2], "last_step": [4, 2, 4],
        "rate": [0.5, np.nan, 1.0], "low": [0.4, 0.0, 0.9], "high": [0.6, 1.0, 1.0],
        "off_manifold": [True, False, False],
    })  # fmt: skip
    plain = atlas_figure(table.assign(off_manifold=False))
    assert atlas_figure(table) != plain  # hatched
    assert atlas_figure(table.assign(rate=[0.6, np.nan, 1.0], off_manifold=False)) != plain


@pytest.mark.parametrize(("field", "value"), [
    ("windows", 0), ("max_pairs", 0), ("batch_size", 0), ("half_width", 0.0), ("half_width", 0.5),
])  # fmt: skip
def test_impossible_recipes_are_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        AtlasRecipe(**{field: value})
    with pytest.raises(ConfigError, match="noise_mode"):
        AtlasRecipe(sampling=Sampling(noise_mode="zero"))


def test_recipe_is_read_back_from_json_and_knows_what_decides():
    recipe = AtlasRecipe(layers=("midblock",), windows=3, sampling=Sampling(num_steps=5), factors=("shape",))
    assert AtlasRecipe.from_json(recipe.to_json()) == recipe
    assert recipe.determining()["num_steps"] == 5
    assert recipe.determining()["windows"] == 3
    assert "diffviews atlas" in recipe.command()
