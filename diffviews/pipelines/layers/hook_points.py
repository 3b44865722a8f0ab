"""The `layers` command: a model's hook points with shapes and bytes."""

import math

from diffviews.pipelines.models import load_model


def layers(model: str = "edm-digits", checkpoint: str | None = None, device: str = "cpu") -> str:
    """List a model's hook points, their shapes, and what one sample's activation takes in float16.

    Args:
        model: adapter name.
        checkpoint: weights: a file, a folder or an address; null takes the adapter's own.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    adapter = load_model(model, checkpoint, device=device)
    shapes = adapter.get_layer_shapes()
    rows = [
        (name, " × ".join(map(str, shapes[name])), f"{2 * math.prod(shapes[name]):,}")
        for name in adapter.hookable_layers
    ]
    total = sum(2 * math.prod(shape) for shape in shapes.values())
    rows = [("layer", "shape", "bytes a sample"), *rows, ("all", "", f"{total:,}")]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {size:>{widths[2]}}" for name, shape, size in rows)
