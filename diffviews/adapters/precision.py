"""The floating-point format of a forward pass, by its name."""

from typing import get_args

import torch

from diffviews.adapters.base import Precision
from diffviews.errors import ConfigError, unknown_name


def precision_of(dtype: torch.dtype) -> Precision:
    """Return the name of a network's dtype."""
    return next(name for name in get_args(Precision) if getattr(torch, name) == dtype)


def precision_dtype(precision: str, auto: torch.dtype = torch.float32) -> torch.dtype:
    """Return the dtype of a forward pass; 'auto' is what the model takes by itself.

    Raises:
        ConfigError: if the name is none of the known ones.
    """
    if precision == "auto":
        return auto
    if precision not in get_args(Precision):
        raise ConfigError(unknown_name("precision", precision, ("auto", *get_args(Precision))))
    dtype: torch.dtype = getattr(torch, precision)
    return dtype
