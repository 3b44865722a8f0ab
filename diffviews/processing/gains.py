"""What each layer knows beyond the noised input that the network was given, with the tests that go with it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from diffviews.processing.probes import chosen_by_others
from diffviews.processing.statistics import best_group, holm, sign_flip_test

READERS = ("knn", "probe")
"""How a representation is read, in the order of the answers' second axis."""

FLIPS = 9999
"""Sign flips behind a p-value, which is 0.0001 at least."""

Answers = Mapping[str, np.ndarray]
"""{representation: (draws, 2, N) bool}: whether each sample's class was read rightly, by noise draw and reader."""


@dataclass(frozen=True, slots=True, eq=False)
class Gains:
    """One noise level: what each layer knows, and what it is to be compared with."""

    table: pd.DataFrame
    """One row a layer, in the order given: layer; for each reader knows_R, knows_R_sd (over draws), gain_R with
    gain_R_low and gain_R_high (95 %), gain_R_p, gain_R_holm and random_R; knows_best, knows_best_probe (0 or 1)."""
    baselines: dict[str, float]
    """input_R, denoised_R: mean over the draws."""

    def metrics(self, layer: str) -> dict[str, float]:
        """Return the measures of one layer; those that are not known are left out."""
        rows = self.table[self.table["layer"] == layer].drop(columns=["layer", *(f"gain_{r}_holm" for r in READERS)])
        return {} if rows.empty else {str(name): float(value) for name, value in rows.iloc[0].dropna().items()}


def measure_gains(
    layers: Answers, inputs: Answers, denoised: np.ndarray, random: Answers, folds: np.ndarray
) -> Gains:
    """Compare what is read from each layer with what is read, by the same reader, from the same noised input.

    A layer's gain is its accuracy minus that of the better form of the input, which for each fold is chosen by the
    others, averaged over the draws. With d the difference of a sample, all its draws together, for they are no
    independent questions: the interval is gain ± 1.96 √Σd² / N, that of McNemar's test for clustered pairs (Durkalski
    et al. 2003), and the p-value flips the signs of d, which for one draw is McNemar's exact test (1947). By the same
    test, with Holm's correction, the layers that are not told from the best one are one group.

    Args:
        layers: answers from each layer.
        inputs: from each form of the noised input; at least one.
        denoised: (draws, 2, N) bool, from the network's result.
        random: from the same layers of a network with random weights; layers may be missing.
        folds: (N,) int of the samples.
    """
    table = pd.DataFrame({"layer": list(layers)})
    baselines = {}
    for number, reader in enumerate(READERS):
        given = chosen_by_others(np.stack([answers[:, number] for answers in inputs.values()]), folds)
        baselines[f"input_{reader}"] = float(given.mean())
        baselines[f"denoised_{reader}"] = float(denoised[:, number].mean())
        own = {layer: answers[:, number] for layer, answers in layers.items()}
        rows = [_row(reader, answers, given) for answers in own.values()]
        table = pd.concat([table, pd.DataFrame(rows)], axis=1)
        table[f"gain_{reader}_holm"] = holm(table[f"gain_{reader}_p"].to_numpy())
        table[f"random_{reader}"] = [random[name][:, number].mean() if name in random else np.nan for name in layers]
        members = best_group(np.stack([answers.mean(axis=0) for answers in own.values()])).members
        table["knows_best" if reader == "knn" else f"knows_best_{reader}"] = members.astype(np.float64)
    return Gains(table, baselines)


def _row(reader: str, own: np.ndarray, given: np.ndarray) -> dict[str, float]:
    """Return a layer's measures by one reader from its answers and those of the input, each (draws, N) bool."""
    by_draw, differences = own.mean(axis=1), own.mean(axis=0) - given.mean(axis=0)
    gain, half = float(differences.mean()), 1.96 * float(np.sqrt((differences**2).sum())) / len(differences)
    return {
        f"knows_{reader}": float(by_draw.mean()),
        f"knows_{reader}_sd": float(by_draw.std(ddof=1)) if len(own) > 1 else float("nan"),
        f"gain_{reader}": gain,
        f"gain_{reader}_low": gain - half,
        f"gain_{reader}_high": gain + half,
        f"gain_{reader}_p": sign_flip_test(differences, draws=FLIPS),
    }

