"""The networks and preconditioners of EDM and EDM2 by the names of their classes, and their configurations.

A configuration has the names that EDM's own classes give their arguments. `precond` and `model_type` say which
classes those are; without them it is EDMPrecond around DhariwalUNet, the published ImageNet model's.
"""

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from diffviews.errors import ConfigError
from diffviews.models.adm_unet import ADMUNet
from diffviews.models.edm2_unet import EDM2UNet
from diffviews.models.preconditioning import Denoiser, EDMPrecond, IDDPMPrecond, VEPrecond, VPPrecond
from diffviews.models.song_unet import SongUNet
from diffviews.models.unet import HookedUNet

_log = logging.getLogger(__name__)

NETWORKS: Mapping[str, type[HookedUNet]] = {"DhariwalUNet": ADMUNet, "SongUNet": SongUNet, "UNet": EDM2UNet}
"""Networks by the names of EDM's and EDM2's classes."""
PRECONDITIONERS: Mapping[str, type[Denoiser]] = {
    "EDMPrecond": EDMPrecond,
    "VPPrecond": VPPrecond,
    "VEPrecond": VEPrecond,
    "iDDPMPrecond": IDDPMPrecond,
    "Precond": EDMPrecond,
}
"""Preconditioners by the same; `Precond` is EDM2's."""
CLASSES = ("precond", "model_type")
"""Keys of a configuration that name its classes."""
_USUAL = {"precond": "EDMPrecond", "model_type": "DhariwalUNet"}
_POSITIONAL = ("img_resolution", "img_channels", "label_dim")
"""Arguments that every preconditioner of theirs has first."""
_WITHOUT_EFFECT = ("use_fp16", "augment_dim", "logvar_channels", *CLASSES)
"""Arguments that change nothing at inference: precision, augmentation, the estimate of the uncertainty."""
_OWN = ("network", "out_channels", "style")
"""Arguments of our classes that no configuration has."""
EDM_DEFAULTS: Mapping[str, Any] = {
    "label_dim": 0,
    "sigma_min": 0.0,
    "sigma_max": float("inf"),
    "sigma_data": 0.5,
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "channel_mult_emb": 4,
    "num_blocks": 3,
    "attn_resolutions": [32, 16, 8],
    "dropout": 0.1,
    "label_dropout": 0.0,
}
"""What EDM's EDMPrecond and DhariwalUNet take where they are told nothing."""


def classes_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return preconditioner and network that a configuration names.

    Raises:
        ConfigError: if one of them is unknown.
    """
    made = str(config.get("precond", _USUAL["precond"]))
    inner = "UNet" if made == "Precond" else str(config.get("model_type", _USUAL["model_type"]))
    if made not in PRECONDITIONERS or inner not in NETWORKS or (inner == "UNet") != (made == "Precond"):
        raise ConfigError(
            f"a {made} around a {inner} is none of EDM's networks; those known are EDMPrecond, VPPrecond, VEPrecond "
            "and iDDPMPrecond around SongUNet or DhariwalUNet, and EDM2's Precond"
        )
    return made, inner


def network_defaults(made: str, inner: str) -> dict[str, Any]:
    """Return what classes of these names take where they are told nothing, as JSON has it."""
    if (made, inner) == (_USUAL["precond"], _USUAL["model_type"]):
        return dict(EDM_DEFAULTS)
    classes = (NETWORKS[inner], PRECONDITIONERS[made])
    defaults = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for cls in classes
        for name, parameter in inspect.signature(cls).parameters.items()
        if name not in _OWN and parameter.default is not inspect.Parameter.empty
    }
    # Ours are not in training where nobody says so; theirs are, and a configuration records what was.
    return defaults | ({"dropout": EDM_DEFAULTS["dropout"]} if inner == "DhariwalUNet" else {})


def options_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of all options that a configuration's classes have."""
    made, inner = classes_of(config)
    return tuple(dict.fromkeys([*parameters_of(NETWORKS[inner]), *parameters_of(PRECONDITIONERS[made])]))


def parameters_of(cls: type) -> list[str]:
    """Return the options of one class, as configurations name them."""
    return [name for name in inspect.signature(cls).parameters if name not in _OWN]


def pickled_config(class_name: str, positional: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole configuration of a network that EDM or EDM2 pickled.

    Args:
        class_name: of the preconditioner.
        positional: arguments it was made with.
        named: those given by name.

    Raises:
        ConfigError: if it is of another class, or made in a way that is not known.
    """
    usual = "SongUNet" if class_name in ("VPPrecond", "VEPrecond") else _USUAL["model_type"]
    classes = {"precond": class_name, "model_type": str(named.get("model_type", usual))}
    made, inner = classes_of(classes)
    if len(positional) > len(_POSITIONAL):
        raise ConfigError(f"the {made} was made with {len(positional)} arguments without names, which are not read")
    given = {**dict(zip(_POSITIONAL, positional, strict=False)), **named}
    known = options_of(classes)
    unknown = sorted(given.keys() - {*known, *_WITHOUT_EFFECT})
    if unknown:
        _log.warning("the pickled %s was also made with %s, which is not followed", made, ", ".join(unknown))
    if inner == "UNet":
        del classes["model_type"]
    told = {name: value for name, value in classes.items() if value != _USUAL[name]}
    return network_defaults(made, inner) | {key: value for key, value in given.items() if key in known} | told


def merged_config(usual: Mapping[str, Any], found: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a network is built with.

    Args:
        usual: an adapter's default configuration.
        found: what came with the checkpoint; if it is of other classes, nothing of the adapter's is taken.
        given: options that override both.

    Raises:
        ConfigError: if the classes are unknown.
    """
    if found and classes_of(found) != classes_of(usual):
        usual = network_defaults(*classes_of(found))
    return {**usual, **found, **given}
