"""Toy models whose deciding layer and window are known; only the abstract part of an adapter is there."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.fakes import _Fake

CLASSES, SIZE = 4, 8


def templates() -> Tensor:
    """Return one image a class, (K, 3, 8, 8): stripes that no other class shares."""
    images = torch.full((CLASSES, 3, SIZE, SIZE), -0.5)
    for label in range(CLASSES):
        images[label, :, label::CLASSES] = 0.8
    return images


def nearest_class(images: np.ndarray) -> np.ndarray:
    """Return the class of images (N, 8, 8, 3) uint8 by the nearest template."""
    pixels = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    return torch.cdist(pixels.flatten(1), templates().flatten(1)).argmin(1).numpy()


class PlantedAdapter(_Fake):
    """Takes on the class that its input looks most like: at noise levels (low, high] through one layer.

    Above them x0 is estimated as nothing, so nothing is decided there; below, the class is that of the input and goes
    through no layer. The other layers carry a texture of the input, or nothing that is used ('idle').
    """

    def __init__(self, deciding: str, levels: tuple[float, float], layers: int = 5) -> None:
        super().__init__()
        for number in range(layers):
            self.layers[f"block_{number}"] = nn.Identity()
        self.layers["idle"] = nn.Identity()
        self.deciding, self.levels = deciding, levels

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        level = float(torch.as_tensor(sigma).flatten()[0])
        x = x.to(torch.float32)
        likeness = torch.einsum("bchw,kchw->bk", x, templates())
        deciding, texture = likeness, torch.zeros_like(x)
        for number, (name, layer) in enumerate(self.layers.items()):
            if name == self.deciding:
                deciding = layer(likeness)
            elif name == "idle":
                layer(likeness)
            else:
                texture = texture + 0.03 * torch.tanh(layer(x[:, :, number, number])).reshape(len(x), 3, 1, 1)
        if level > self.levels[1]:
            return texture
        return texture + templates()[(deciding if level > self.levels[0] else likeness).argmax(1)]

    def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: (CLASSES,) if name in (self.deciding, "idle") else (3,) for name in self.layers}


class SkipCarriedAdapter(_Fake):
    """Everything goes through 'first'; the class then goes past 'middle', which carries a texture alone."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("first", "middle", "last"):
            self.layers[name] = nn.Identity()

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        seen = self.layers["first"](x.to(torch.float32))
        texture = self.layers["middle"](torch.tanh(seen.mean(dim=(2, 3), keepdim=True)))
        likeness = torch.einsum("bchw,kchw->bk", seen, templates())
        return self.layers["last"](templates()[likeness.argmax(1)] + 0.05 * texture)

    def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"first": (3, SIZE, SIZE), "middle": (3, 1, 1), "last": (3, SIZE, SIZE)}
