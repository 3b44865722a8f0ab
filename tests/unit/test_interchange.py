"""Interchange finds the planted cut and window, tells trunk from skips, and depends on nothing but the pair."""

import numpy as np
import pytest

from diffviews import get_adapter
from diffviews.core.cuts import Cut, find_cuts
from diffviews.core.generator import GenerationRequest, generate
from diffviews.core.interchange import Cell, cells_of, interchange, work_per_pair
from diffviews.core.plan import GenerationPlan
from diffviews.errors import ConfigError
from diffviews.processing.exchange_rate import exchange_rate
from diffviews.sampling.samplers import Churn
from tests.planted import PlantedAdapter, SkipCarriedAdapter, nearest_class

STEPS = 12
WINDOWS = [(first, first + 2) for first in range(0, STEPS, 2)]
SIGNAL = {"sigma_max": 3.0, "sigma_min": 0.05}
"""Noise levels at which a template is seen through the noise, so that a class that was decided lasts."""


def request(pairs, **options):
    return GenerationRequest(
        **{"num_samples": 2 * pairs, "class_labels": -1, "num_steps": STEPS, "sampler": "euler", **options}
    )


def rates(adapter, cells, pairs=48, **options):
    """Return each cell's rate, judged by the nearest template."""
    exchanged = interchange(adapter, request(pairs, **options), cells)
    donors, recipients = nearest_class(exchanged.donors), nearest_class(exchanged.recipients)
    differ = donors != recipients
    assert differ.sum() > pairs / 2

    def rate(images):
        landed, near = nearest_class(images)[differ], np.ones(differ.sum(), bool)
        return exchange_rate(landed, donors[differ], recipients[differ], near)

    return {cell: rate(exchanged.images[cell]) for cell in cells}


@pytest.mark.parametrize("seed", range(20))
def test_planted_cut_and_window_rank_first(seed):
    random = np.random.default_rng(seed)
    deciding, window = f"block_{random.integers(5)}", WINDOWS[random.integers(len(WINDOWS))]
    levels = [*GenerationPlan.of(PlantedAdapter(deciding, (0, 1)), request(1, **SIGNAL)).sigmas.tolist(), 0.0]
    adapter = PlantedAdapter(deciding, (levels[window[1]], levels[window[0]]))
    cuts = find_cuts(adapter, sigmas=[levels[window[0]]])
    found = rates(adapter, cells_of(cuts, WINDOWS), seed=seed, pairs=24, **SIGNAL)
    ranked = sorted(found, key=lambda cell: found[cell].rate - found[cell].null, reverse=True)
    assert (ranked[0].cut.name, ranked[0].window) == (deciding, window)
    assert found[ranked[0]].rate > 0.8
    assert found[ranked[0]].p < 0.01
    assert max(found[cell].rate for cell in ranked[1:]) < 0.2
    assert min(found[cell].own for cell in ranked[1:]) > 0.8


def test_what_skips_carry_is_told_from_the_trunk():
    adapter = SkipCarriedAdapter()
    cells = cells_of(find_cuts(adapter), [(0, STEPS)])
    found = {(cell.cut.layers, cell.part): rate for cell, rate in rates(adapter, cells).items()}
    assert set(found) == {(("first", "last"), "together"), (("middle",), "trunk"), (("middle",), "skips")}
    assert found[("middle",), "skips"].rate == 1.0
    assert found[("first", "last"), "together"].rate == 1.0
    assert found[("middle",), "trunk"].rate == 0.0
    assert found[("middle",), "trunk"].own == 1.0


@pytest.fixture(scope="module")
def digits():
    return get_adapter("edm-digits").from_checkpoint(None, device="cpu")


@pytest.fixture(scope="module")
def cells(digits):
    return cells_of(find_cuts(digits), [(0, 3), (1, 2)])


def test_pairs_are_the_same_in_any_batch_and_beside_any_cells(digits, cells):
    given = request(4, num_steps=3, sampler="heun", seed=3, churn=Churn(4.0), class_labels=(0, 1, 2, 3, 4, 5, 6, 7))
    whole = interchange(digits, given, cells)
    alone = interchange(digits, given.span(4, 2), [cells[3], cells[-1]])
    for cell in (cells[3], cells[-1]):
        assert np.array_equal(alone.images[cell][0], whole.images[cell][2])
    small = interchange(digits, given.span(0, 8), cells[:4])
    assert all(np.array_equal(small.images[cell], whole.images[cell]) for cell in cells[:4])
    plain = generate(digits, given)
    assert np.array_equal(plain.images[0::2], whole.donors)
    assert np.array_equal(plain.images[1::2], whole.recipients)


@pytest.mark.parametrize("options", [
    {"sampler": "heun"}, {"sampler": "euler", "churn": Churn(6.0)}, {"sampler": "renoise"},
    {"sampler": "heun", "guidance_scale": 2.0},
])  # fmt: skip
def test_everything_of_a_donor_of_the_same_class_and_noise_changes_nothing(digits, cells, options):
    # Two samples of one seed and index are one: the donor's output is the recipient's own at every evaluation.
    given = request(1, num_steps=3, seed=1, class_labels=(5, 5), **options)
    twins = [cell for cell in cells if cell.window == (1, 2)]
    plan_noise = GenerationPlan.noise
    try:
        GenerationPlan.noise = lambda self, rows: plan_noise(self, [0] * len(rows))
        made = interchange(digits, given, twins)
    finally:
        GenerationPlan.noise = plan_noise
    assert np.array_equal(made.donors, made.recipients)
    assert all(np.array_equal(made.images[cell], made.recipients) for cell in twins)


def test_what_reaches_past_a_cut_is_the_same_from_before_and_from_after_it(digits, cells):
    last = Cut(("decoder_block_9",))
    before = [cell for cell in cells if cell.part == "skips" and cell.cut.name in ("encoder_block_3", "midblock")]
    assert len(before) == 4
    after = [Cell(cell.cut, "skips", cell.window, last, after=True) for cell in before]
    given = request(5, num_steps=3, sampler="heun", seed=4, class_labels=tuple(range(10)))
    made, again = interchange(digits, given, before), interchange(digits, given, after)
    for cell, other in zip(before, after, strict=True):
        assert np.array_equal(made.images[cell], again.images[other])
        assert not np.array_equal(made.images[cell], made.recipients)


def test_skips_are_measured_where_no_layer_comes_before_them():
    adapter = SkipCarriedAdapter()
    cells = cells_of(find_cuts(adapter, ["middle", "last"]), [(0, STEPS)])
    found = {(cell.cut.name, cell.part): rate.rate for cell, rate in rates(adapter, cells).items()}
    assert found == {("middle", "trunk"): 0.0, ("middle", "skips"): 1.0, ("last", "together"): 1.0}


def test_work_is_what_is_told(digits, cells):
    seen = []
    interchange(digits, request(2, num_steps=3, seed=0), cells, tell=seen.append)
    assert sum(seen) == 2 * work_per_pair(cells, 3)


def test_impossible_requests_are_refused(digits, cells):
    with pytest.raises(ConfigError, match="pairs"):
        interchange(digits, GenerationRequest(num_samples=3, num_steps=3), cells)
    with pytest.raises(ConfigError, match="noise of their own"):
        interchange(digits, request(1, num_steps=3, noise_mode="zero"), cells)
    with pytest.raises(ConfigError, match="beyond the 2 steps"):
        interchange(digits, request(1, num_steps=2), cells)
    with pytest.raises(ConfigError, match="needs the cut"):
        Cell(cells[0].cut, "skips", (0, 1))
    with pytest.raises(ConfigError, match="is no"):
        Cell(cells[0].cut, "trunk", (2, 2))
