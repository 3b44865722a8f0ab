"""The judge `factors`: what a scene of `shapes` shows, by analysis through synthesis.

The world is known, so nothing is learned. The ground is the one that most pixels are nearest to; an object is that
colour, shape, size and place whose rendering takes most squared error from the picture (matching pursuit, Mallat and
Zhang 1993), sharp or blurred as a VAE blurs; a second one is sought in what is left.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from diffviews.data.shapes import COLOURS, FACTORS, GROUNDS, OBJECT_FACTORS, Scenes, factor_columns, parse, render
from diffviews.data.shapes.scene import SPACING
from diffviews.errors import ConfigError, ShapeError
from diffviews.judges.base import HeldOut, JudgeRequest, Verdicts

SIDE = 32
"""Side at which scenes are judged, pixels; multiples of it are averaged down."""
WINDOW = 17
"""Side of what is looked at around an object, pixels."""
STEP, REACH = 0.25, 1.0
"""Centres are tried every STEP pixels up to REACH pixels from the pixel that fits best."""
BLURS = (0.0, 0.6, 1.0)
"""Standard deviations of the Gaussian blurs that are tried, pixels."""
OBJECT_SHARE = 0.5
"""Of an object's own squared contrast with its ground, what it must explain to be one."""
STRAY = 25.0
"""Root mean square of what the objects leave of a picture, grey levels, above which it is rejected."""

MOST_MEASURED = 1000
"""Scenes that its accuracy is measured on."""

_COLOURS = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
_GROUNDS = torch.tensor(list(GROUNDS.values()), dtype=torch.float32)
_BATCH = 128


@dataclass(frozen=True, slots=True)
class FactorJudge:
    """Judges scenes; the class of an image is the shape of its most visible object."""

    name: str = "factors"
    held_out: HeldOut | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of the scenes it was measured on whose shape it finds; None: of none."""
        return self.held_out.accuracy if self.held_out else None

    @torch.no_grad()
    def classify(self, images: np.ndarray) -> Verdicts:
        """Return factors of each image, as columns of `Scenes.table`, the score being the share explained.

        Rejected is what has no object or three, or of which more than STRAY is left.

        Raises:
            ShapeError: if the images are not (N, S, S, 3) uint8, S a multiple of 32.
        """
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] != 3:
            raise ShapeError(f"images are {images.shape} {images.dtype}; give (N, S, S, 3) uint8")
        height, width = images.shape[1:3]
        if height != width or height % SIDE:
            raise ShapeError(f"images have {height} × {width} pixels; scenes have a multiple of {SIDE} each way")
        found = [_look(torch.from_numpy(part.copy())) for part in np.split(images, range(_BATCH, len(images), _BATCH))]
        values, scores = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        columns = [*OBJECT_FACTORS, *(f"second_{name}" for name in OBJECT_FACTORS), "ground"]
        names = {
            column: [FACTORS[column.removeprefix("second_")][v] if v >= 0 else "" for v in values[:, number]]
            for number, column in enumerate(columns)
        }
        return Verdicts(values[:, 0], scores.astype(np.float64), pd.DataFrame(names))


def factors_judge(request: JudgeRequest) -> FactorJudge:
    """Return the judge, measured on the samples by their shape, those of two objects left out.

    Raises:
        ConfigError: if the samples have classes that are no shapes.
    """
    if request.argument or request.prompts:
        raise ConfigError("judge 'factors' takes nothing after its name and no prompts; it finds all of a scene")
    others = set(request.samples.classes.values()) - set(FACTORS["shape"])
    if others:
        raise ConfigError(
            f"judge 'factors' knows scenes of `shapes`; {sorted(others)[0]!r} is none of the shapes "
            f"{', '.join(FACTORS['shape'])}, so take another judge"
        )
    columns = factor_columns(request.samples)
    rows = request.labelled_rows(len(request.labels))
    if columns is not None:
        rows = rows[(columns["second_shape"] == "").to_numpy()[rows]]
    rows = rows[:MOST_MEASURED]
    if not len(rows):
        return FactorJudge()
    said = FactorJudge().classify(request.samples.pictures.pixels(rows)).labels
    return FactorJudge(held_out=HeldOut(request.labels[rows], said))


def as_asked(captions: Sequence[str], verdicts: Verdicts) -> pd.DataFrame:
    """Return which factors of each image are those that its caption asks for.

    Columns of 1.0, 0.0 and NaN for what is not asked: each factor of an object (the mean over the objects asked for,
    by the order of those found that suits best), the ground, and `count`, the number of objects. Of a rejected image
    nothing is as asked.
    """
    assert verdicts.factors is not None
    rows = [
        _matched(caption, found)
        for caption, found in zip(captions, verdicts.factors.to_dict("records"), strict=True)
    ]
    table = pd.DataFrame(rows, columns=[*OBJECT_FACTORS, "ground", "count"], dtype=np.float64)
    return table.where(table.isna() | ~verdicts.rejects[:, None], 0.0)


def _matched(caption: str, found: Mapping[Hashable, str]) -> dict[str, float]:
    asked = parse(caption)
    seen = [{name: found[f"{prefix}{name}"] for name in OBJECT_FACTORS} for prefix in ("", "second_")]
    seen = [one for one in seen if one["shape"]] or [dict.fromkeys(OBJECT_FACTORS, "")]
    padded = [*seen, *[dict.fromkeys(OBJECT_FACTORS, "")] * (len(asked.objects) - len(seen))]

    def agreement(order: tuple[dict[str, str], ...]) -> list[dict[str, float]]:
        return [
            {name: float(one[name] == wanted) for name, wanted in objects.items()}
            for objects, one in zip(asked.objects, order, strict=True)
        ]

    orders = map(agreement, permutations(padded, len(asked.objects)))
    best = max(orders, key=lambda told: sum(sum(one.values()) for one in told))
    factors = {name: [told[name] for told in best if name in told] for name in OBJECT_FACTORS}
    result = {name: float(np.mean(values)) for name, values in factors.items() if values}
    result["count"] = float(len(asked.objects) == len(seen))
    return result if asked.ground is None else {**result, "ground": float(asked.ground == found["ground"])}


def _look(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return shape, colour, size and place of two objects and the ground of each image, (n, 9) int64, -1 for none,
    and the share of the contrast with the ground that they explain, (n,)."""
    if not len(images):
        return torch.empty(0, 9, dtype=torch.int64), torch.empty(0)
    times = images.shape[1] // SIDE
    pixels = F.avg_pool2d(images.permute(0, 3, 1, 2).float(), times)
    ground = _ground(pixels)
    left = pixels - _GROUNDS[ground][:, :, None, None]
    contrast = left.square().sum(dim=(1, 2, 3))
    objects = []
    for _ in range(3):
        object_, left = _object(left, _COLOURS[None] - _GROUNDS[ground][:, None])
        objects.append(object_)
    values = torch.cat([*objects[:2], ground[:, None]], dim=1)
    rest = left.square().sum(dim=(1, 2, 3))
    score = 1 - rest / contrast.clamp(min=1.0)
    stray = (rest / left[0].numel()).sqrt()
    rejected = (values[:, 0] < 0) | (objects[2][:, 0] >= 0) | (stray > STRAY)
    values[rejected, :8] = -1
    return values, score


def _ground(pixels: Tensor) -> Tensor:
    """Return the ground of pixels (n, 3, H, W) that most of them are nearest to, of all colours, (n,)."""
    palette = torch.cat([_GROUNDS, _COLOURS])
    nearest = torch.cdist(pixels.flatten(2).mT, palette[None]).argmin(dim=2)
    return F.one_hot(nearest, len(palette)).sum(dim=1)[:, : len(_GROUNDS)].argmax(dim=1)


def _object(left: Tensor, contrasts: Tensor) -> tuple[Tensor, Tensor]:
    """Find the object that explains most of what is left.

    Args:
        left: difference from the ground that is not explained yet, (n, 3, 32, 32).
        contrasts: of each colour with the ground, (n, 6, 3).

    Returns:
        Shape, colour, size and place, (n, 4) int64, -1 where there is none, and what remains, as `left`.
    """
    templates = _templates()
    along = torch.einsum("ncyx,nkc->nkyx", left, contrasts)
    energy = contrasts.square().sum(dim=2)
    count, colours = along.shape[:2]
    # Where: every pixel is tried with the templates that are centred on it.
    fit = F.conv2d(along.reshape(-1, 1, SIDE, SIDE), templates.coarse[:, None], padding=WINDOW // 2)
    gain = 2 * fit.reshape(count, colours, -1, SIDE * SIDE)
    gain -= (energy[:, :, None] * templates.coarse.square().sum(dim=(1, 2)))[..., None]
    peak = gain.amax(dim=(1, 2)).argmax(dim=1)
    row, column = peak // SIDE, peak % SIDE
    # What: around that pixel, by fractions of one.
    around = F.pad(along, [WINDOW // 2] * 4)
    offsets = torch.arange(WINDOW)
    window = (
        torch.arange(count)[:, None, None],
        (row[:, None] + offsets)[:, :, None],
        (column[:, None] + offsets)[:, None, :],
    )
    patch = around.permute(0, 2, 3, 1)[window]
    fine = templates.fine.flatten(1)
    gains = 2 * (patch.flatten(1, 2).mT @ fine.T) - energy[..., None] * fine.square().sum(dim=1)
    best = gains.flatten(1).argmax(dim=1)
    colour, chosen = best // len(fine), best % len(fine)
    gained = gains.flatten(1).gather(1, best[:, None])[:, 0]
    own = energy.gather(1, colour[:, None])[:, 0] * fine[chosen].square().sum(dim=1)
    shape, size, dx, dy = (values[chosen] for values in (templates.shape, templates.size, templates.dx, templates.dy))
    x, y = column + 0.5 + dx, row + 0.5 + dy
    place = 3 * _third(y) + _third(x)
    there = gained > OBJECT_SHARE * own
    whole = torch.zeros(count, SIDE + WINDOW - 1, SIDE + WINDOW - 1)
    whole[window] = templates.fine[chosen]
    inside = whole[:, WINDOW // 2 : WINDOW // 2 + SIDE, WINDOW // 2 : WINDOW // 2 + SIDE]
    drawn = inside[:, None] * contrasts[torch.arange(count), colour][:, :, None, None]
    found = torch.stack([shape, colour, size, place], dim=1)
    return torch.where(there[:, None], found, -1), left - drawn * there[:, None, None, None]


def _third(centre: Tensor) -> Tensor:
    """Return the row or column of the place that is nearest to a centre in pixels."""
    return (centre / (SPACING * SIDE) - 1).round().clamp(0, 2).long()


@dataclass(frozen=True, slots=True, eq=False)
class _Templates:
    """Renderings of every shape and size in a window."""

    coarse: Tensor
    """Centred and a little blurred, (18, 17, 17)."""
    fine: Tensor
    """At every offset and blur, (M, 17, 17)."""
    shape: Tensor
    size: Tensor
    dx: Tensor
    dy: Tensor


@lru_cache(1)
def _templates() -> _Templates:
    steps = np.arange(-REACH, REACH + STEP / 2, STEP)
    shapes, sizes = len(FACTORS["shape"]), len(FACTORS["size"])
    described = np.array(list(product(range(shapes), range(sizes), steps, steps)))
    centred = np.array([(shape, size, 0.0, 0.0) for shape, size in product(range(shapes), range(sizes))])
    sharp = _rendered(described)
    fine = np.concatenate([_blurred(sharp, blur) for blur in BLURS])
    shape, size, dx, dy = (torch.from_numpy(np.tile(column, len(BLURS))) for column in described.T)
    coarse = torch.from_numpy(_blurred(_rendered(centred), BLURS[1]))
    return _Templates(coarse, torch.from_numpy(fine), shape.long(), size.long(), dx.float(), dy.float())


def _blurred(coverage: np.ndarray, blur: float) -> np.ndarray:
    return coverage if not blur else gaussian_filter(coverage, (0, blur, blur), mode="constant")


def _rendered(described: np.ndarray) -> np.ndarray:
    """Return the coverage in a window of objects given by shape, size, and offset in pixels, (m, 17, 17) float32."""
    count = len(described)
    shape, size = (np.column_stack([described[:, k].astype(np.int64), np.full(count, -1)]) for k in range(2))
    middle = SIDE // 2 + 0.5  # the centre of a pixel
    centre = np.full((count, 2, 2), np.nan)
    centre[:, 0] = (middle + described[:, 2:4]) / SIDE
    zeros = np.zeros((count, 2), np.int64)
    scenes = Scenes(np.arange(count), 0, zeros[:, 0], shape, zeros, size, zeros, centre)
    first = SIDE // 2 - WINDOW // 2
    window = slice(first, first + WINDOW)
    return render(scenes, SIDE).coverage[:, 0, window, window].astype(np.float32) / 255
