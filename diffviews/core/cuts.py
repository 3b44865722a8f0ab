"""Cuts: which layers of a network are one, since replacing either has the same effect on everything that follows.

    found = find_cuts(adapter)
    found.cuts[0].layers            # ('encoder_block_0', 'decoder_block_9')
    found.outermost                 # the cut through which everything goes

A U-Net's trunk at `encoder_block_2` and at `decoder_block_7` differs by what lies between them, which is a function of
the first. A layer's output taken over from another sample therefore does the same to the result at both: together
with the skips that reach past them, they cut the same graph. Such layers are one cut, and a layer's effect is the
cut's, never its own.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.core.rows import RowCopy, blocks
from diffviews.core.session import InterventionSession
from diffviews.noise import NoiseSource

_log = logging.getLogger(__name__)

PROBES = 4
"""Pairs of samples that layers are tried on."""
DATA_SPREAD = 0.5
"""Standard deviation of data in [-1, 1], as EDM takes it: what probes are scaled by."""
LOWEST = 0.1
"""Least noise level that layers are tried at; near sigma_min a network has next to no effect on its result."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Layers that are one."""

    layers: tuple[str, ...]
    """In the order of the forward pass."""

    @property
    def name(self) -> str:
        """The layer that stands for all: the first, after which the whole rest of the network follows."""
        return self.layers[0]

    def __str__(self) -> str:
        return "{" + ", ".join(self.layers) + "}"


@dataclass(frozen=True, slots=True)
class Cuts:
    """The cuts of a network, along its forward pass."""

    cuts: tuple[Cut, ...]
    outermost: Cut | None
    """The one that everything goes through: the donor's value there, and no other layer's changes anything more.
    None: something reaches past every layer."""
    idle: tuple[str, ...]
    """Layers that change nothing, whatever they are replaced by."""
    tolerance: float
    """Difference up to which two effects are the same, as a share of the greatest effect; 0: bit-identical."""

    def __str__(self) -> str:
        return ", ".join(map(str, self.cuts))


@torch.no_grad()
def find_cuts(
    adapter: GeneratorAdapter,
    layers: Sequence[str] | None = None,
    *,
    sigmas: Sequence[float] | None = None,
    seed: int = 0,
) -> Cuts:
    """Find which layers are one, by giving each the output of another sample and comparing what becomes of it.

    Donors and recipients are Gaussian, of data's spread with the noise of a level on top, and conditioned alike:
    blocks that are told a class or a time make the same of the same input only then. On the CPU in float32 equal
    effects are equal bit for bit, since all passes have the same rows. Elsewhere kernels may round differently from
    pass to pass, in TF32 and float16 to 10 bits, in bfloat16 to 7: effects are then equal to within four of these.

    Args:
        adapter: the model.
        layers: those to look at; None: all.
        sigmas: noise levels of the probes; None: three of the model's own range.
        seed: of the probes.
    """
    names = tuple(adapter.hookable_layers if layers is None else layers)
    probes = [_Probe(adapter, sigma, seed) for sigma in (_levels(adapter) if sigmas is None else sigmas)]

    def effect(*replaced: str) -> Tensor:
        return torch.stack([probe.recipients(replaced) for probe in probes])

    unchanged = effect()
    effects = {name: effect(name) - unchanged for name in names}
    everything = effect(*names) - unchanged
    tolerance = _tolerance(adapter)
    same = _Same(tolerance, max((float(e.abs().max()) for e in effects.values()), default=0.0))
    idle = tuple(name for name in names if same(effects[name], torch.zeros_like(unchanged)))
    groups: list[list[str]] = []
    for name in names:
        if name in idle:
            continue
        home = next((group for group in groups if same(effects[name], effects[group[0]])), None)
        groups.append([name]) if home is None else home.append(name)
    cuts = tuple(Cut(tuple(group)) for group in groups)
    outermost = next((cut for cut in cuts if same(effects[cut.name], everything)), None)
    return Cuts(cuts, outermost, idle, tolerance)


@dataclass(frozen=True, slots=True)
class _Same:
    tolerance: float
    scale: float

    def __call__(self, first: Tensor, second: Tensor) -> bool:
        if self.tolerance == 0:
            return torch.equal(first, second)
        return float((first - second).abs().max()) <= self.tolerance * self.scale


class _Probe:
    """Pairs of samples at one noise level: donors first, then recipients."""

    def __init__(self, adapter: GeneratorAdapter, sigma: float, seed: int) -> None:
        drawn = NoiseSource(seed, range(2 * PROBES), stream="cuts").normal(adapter.input_shape)
        self._adapter, self._sigma = adapter, sigma
        self._x = (drawn * (DATA_SPREAD**2 + sigma**2) ** 0.5).to(adapter.device)
        self._levels = torch.full((2 * PROBES,), sigma, dtype=torch.float32, device=adapter.device)
        same = Condition(class_id=0 if adapter.num_classes else None, prompt="" if adapter.takes_prompts else None)
        self._given = adapter.condition([same] * (2 * PROBES))
        if adapter.embeds_guidance:
            self._given |= {"guidance": torch.full((2 * PROBES,), adapter.defaults.default_guidance)}

    def recipients(self, replaced: Sequence[str]) -> Tensor:
        """Return what becomes of the recipients, (PROBES, C, H, W), whose `replaced` layers are the donors'."""
        donors, recipients = blocks(PROBES, 2)
        copies = [RowCopy(layer, donors, recipients) for layer in replaced]
        passing = "conditional" if self._given else "unconditional"
        with (
            InterventionSession(self._adapter, copies) as session,
            session.evaluation(0, self._sigma, passing),  # type: ignore[arg-type]
        ):
            return self._adapter.unlimited(self._x, self._levels, **self._given)[PROBES:].to(torch.float64)


def _levels(adapter: GeneratorAdapter) -> tuple[float, ...]:
    """Return three noise levels of the model's range, evenly in its logarithm."""
    lowest, highest = adapter.defaults.sigma_min, adapter.defaults.sigma_max
    lowest = min(max(lowest, LOWEST), highest)
    # Rounded: a level need not be exact, and is one of few digits where it is logged.
    return tuple(float(f"{lowest * (highest / lowest) ** share:.3g}") for share in (0.15, 0.5, 0.85))


def _tolerance(adapter: GeneratorAdapter) -> float:
    if adapter.precision == "bfloat16":
        return 2.0**-5
    exact = adapter.precision == "float32" and adapter.device.type == "cpu"
    return 0.0 if exact else 2.0**-8
