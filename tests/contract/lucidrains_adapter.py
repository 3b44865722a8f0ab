"""An adapter of denoising-diffusion-pytorch's class-conditional U-Net."""

import torch
from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet

from diffviews.adapters.checkpoint import load_weights
from diffviews.adapters.named_layers import NamedLayers
from diffviews.adapters.timesteps import denoised_by_timesteps, schedule_of_betas

RETURNS = {"pred_noise": "epsilon", "pred_v": "v_prediction", "pred_x0": "sample"}


class LucidrainsAdapter(NamedLayers):
    """The U-Net as it is; sigma becomes its timestep, and -1 its embedding of no class."""

    class_input, null_class, label_dropout = "index", -1, True
    model_type, resolution, num_classes, config = "lucidrains", 0, 0, {}  # set below

    def __init__(self, image_size=32, num_classes=10, objective="pred_noise", beta_schedule="cosine", **unet):
        # part of the digest, by which captured activations are known as this model's
        self.config = {"image_size": image_size, "num_classes": num_classes, "objective": objective}
        self.config |= {"beta_schedule": beta_schedule, **unet}
        self.net = Unet(num_classes=num_classes, **{"dim": 64, "dim_mults": (1, 2, 4), **unet}).requires_grad_(False)
        plan = GaussianDiffusion(self.net, image_size=image_size, objective=objective, beta_schedule=beta_schedule)
        self.schedule = schedule_of_betas(plan.betas, RETURNS[objective])
        self.resolution, self.num_classes, self.default_steps = image_size, num_classes, 50

    @property
    def sigma_range(self):
        return self.schedule.sigma_range[0], 80.0

    def start_scale(self, sigma_max):
        return (1 + sigma_max**2) ** 0.5

    @property
    def layer_modules(self):
        net = self.net
        down = {f"down_{i}_{j}": level[j] for i, level in enumerate(net.downs) for j in (0, 1)}
        middle = {name: getattr(net, name) for name in ("mid_block1", "mid_attn", "mid_block2")}
        up = {f"up_{i}_{j}": level[j] for i, level in enumerate(net.ups) for j in (0, 1)}
        return {**down, **middle, **up, "final": net.final_res_block}

    def forward(self, x, sigma, class_labels=None, **kwargs):
        classes = torch.full((len(x),), -1, device=x.device) if class_labels is None else class_labels

        def network(scaled, timesteps):
            return self.net(scaled, timesteps, classes.clamp(min=0), cond_drop_prob=0.0, cond_keep_mask=classes >= 0)

        return denoised_by_timesteps(network, x, sigma, self.schedule, clip=1.0)

    @classmethod
    def from_checkpoint(cls, checkpoint_path, device="cuda", **options):
        adapter = cls(**options)
        if checkpoint_path is not None:
            load_weights(adapter.net, checkpoint_path, ["ema_model.model.", "model."])
        return adapter.to(device)

    @classmethod
    def get_default_config(cls):
        return {"image_size": 32, "num_classes": 10}
