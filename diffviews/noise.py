"""Noise: the level's written form, and draws that depend on the sample alone.

Every draw comes from a generator owned by one sample and lives on the CPU, so that a sample
starts from bitwise the same noise whatever the batch size, the device or the number of devices.
No function here reads or writes torch's global random state.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch


def format_sigma(sigma: float) -> str:
    """Write a noise level as its shortest round-trip decimal: 2.0 → '2', 0.002 → '0.002'."""
    return np.format_float_positional(float(sigma), trim="-")


def keyed_generator(*key: str | int) -> torch.Generator:
    """Return a CPU generator whose seed is a digest of `key`, independent of every other key."""
    text = "\x1f".join(str(part) for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)


def sample_noise(sample_ids: Sequence[str], shape: Sequence[int], draw: int = 0) -> torch.Tensor:
    """Return the unit Gaussian noise of each sample, (B, *shape) float32, fixed by its id.

    The same sample gets the same noise at every sigma, for every layer and in every job. Where one draw is not enough,
    draws 1, 2, … are further ones, independent of it and of each other.
    """
    further = (draw,) if draw else ()
    return torch.stack([torch.randn(*shape, generator=keyed_generator("sample", s, *further)) for s in sample_ids])


class NoiseSource:
    """Successive Gaussian draws for samples `indices` of a job with `seed`.

    Each sample owns one generator: what it draws depends on (seed, index) and on how often it
    was asked before, never on its neighbours in the batch.
    """

    def __init__(self, seed: int, indices: Sequence[int], stream: str = "generation") -> None:
        self._generators = [keyed_generator(stream, seed, index) for index in indices]

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Draw (B, *shape) unit Gaussian noise on the CPU."""
        return torch.stack([torch.randn(*shape, generator=g, dtype=dtype) for g in self._generators])

    def integers(self, high: int) -> torch.Tensor:
        """Draw one integer in [0, high) a sample, (B,) int64 on the CPU."""
        return torch.cat([torch.randint(high, (1,), generator=g) for g in self._generators])
