"""An adapter of azula's ViT within its Karras denoiser: layers of tokens, a continuous time, any of its schedules."""

import torch
from azula import noise
from azula.denoise import KarrasDenoiser
from azula.nn.layers import SineEncoding
from azula.nn.vit import ViT
from torch import nn

from diffviews.adapters.base import single_pass
from diffviews.adapters.checkpoint import load_weights
from diffviews.adapters.named_layers import NamedLayers
from diffviews.adapters.timesteps import time_of_sigma

SCHEDULES = {"vp": noise.VPSchedule, "cosine": noise.CosineSchedule, "rectified": noise.RectifiedSchedule}


class Backbone(nn.Module):
    """A ViT modulated by azula's time, log(sigma_t / alpha), and by a class; class K is none."""

    def __init__(self, num_classes, features, **vit):
        super().__init__()
        self.time, self.label = SineEncoding(features), nn.Embedding(num_classes + 1, features)
        self.vit = ViT(3, 3, mod_features=features, **vit)

    def forward(self, x, time, label):
        return self.vit(x, self.time(time) + self.label(label))


class AzulaAdapter(NamedLayers):
    """The denoiser as it is; sigma becomes its time."""

    class_input, label_dropout = "index", True
    model_type, resolution, num_classes, config = "azula", 0, 0, {}  # set below

    def __init__(self, image_size=32, num_classes=10, schedule="vp", **vit):
        self.config = {"image_size": image_size, "num_classes": num_classes, "schedule": schedule, **vit}
        backbone = Backbone(num_classes, **{"features": 64, "patch_size": 4, **vit})
        self.denoiser = KarrasDenoiser(backbone, SCHEDULES[schedule]()).requires_grad_(False)
        self.resolution, self.num_classes, self.null_class = image_size, num_classes, num_classes

    @property
    def layer_modules(self):
        vit = self.denoiser.backbone.vit
        blocks = {f"block_{number}": block for number, block in enumerate(vit.blocks)}
        return {"in_proj": vit.in_proj, **blocks, "out_proj": vit.out_proj}

    @single_pass
    def forward(self, x, sigma, class_labels=None, **kwargs):
        label = torch.full((len(x),), self.null_class, device=x.device) if class_labels is None else class_labels
        t, alpha = time_of_sigma(sigma, self.denoiser.schedule, like=x)
        return self.denoiser(alpha * x, t, label=label).mean.to(x.dtype)

    @classmethod
    def from_checkpoint(cls, checkpoint_path, device="cuda", **options):
        adapter = cls(**options)
        if checkpoint_path is not None:
            load_weights(adapter.denoiser, checkpoint_path)
        return adapter.to(device)

    @classmethod
    def get_default_config(cls):
        return {"image_size": 32, "num_classes": 10}
