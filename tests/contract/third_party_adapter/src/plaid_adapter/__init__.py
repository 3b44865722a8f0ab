"""An adapter that gives the abstract part of the interface and nothing else."""

import torch
from torch import nn

from diffviews import GeneratorAdapter


class PlaidAdapter(GeneratorAdapter):
    """Pulls every image towards a mean colour by a 1×1 convolution."""

    def __init__(self):
        self.net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.SiLU(), nn.Conv2d(6, 3, 1)).requires_grad_(False)
        for number, parameter in enumerate(self.net.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape).sin() + number / 10)

    @property
    def model_type(self):
        return "plaid"

    @property
    def resolution(self):
        return 4

    @property
    def num_classes(self):
        return 0

    @property
    def hookable_layers(self):
        return ["first", "last"]

    def forward(self, x, sigma, class_labels=None, **kwargs):
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)
        return self.net(x / (1 + sigma**2).sqrt()).tanh()

    def register_activation_hooks(self, layer_names, hook_fn):
        modules = {"first": self.net[0], "last": self.net[2]}
        return [modules[name].register_forward_hook(hook_fn) for name in layer_names]

    def get_layer_shapes(self):
        return {"first": (6, 4, 4), "last": (3, 4, 4)}

    @classmethod
    def from_checkpoint(cls, checkpoint_path, device="cuda", **kwargs):
        return cls().to(device)

    @classmethod
    def get_default_config(cls):
        return {"colours": 3}
