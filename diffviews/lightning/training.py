"""Training of a class-conditional denoiser with the EDM loss (Karras et al. 2022), under Lightning.

    weights = train_denoiser(images, labels, TrainingConfig(steps=1500), device="auto")
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from diffviews.device import resolve_device
from diffviews.errors import ConfigError
from diffviews.lightning.averaged_training import AveragedTraining, forked_random_state, train_averaged
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.lightning.training_config import TrainingConfig
from diffviews.lightning.training_data import Batch, training_batches
from diffviews.models.adm_unet import ADMUNet
from diffviews.models.preconditioning import EDMPrecond
from diffviews.noise import NoiseSource, keyed_generator
from diffviews.sampling.samplers import heun, samples
from diffviews.sampling.schedules import karras_sigmas


def build_denoiser(config: TrainingConfig) -> EDMPrecond:
    """Return an untrained denoiser whose initial weights depend on the config and its seed alone."""
    with forked_random_state("training weights", config.seed):
        return EDMPrecond(ADMUNet(**config.network_options()), sigma_data=config.sigma_data)


def edm_loss(denoised: Tensor, x0: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """Return the mean weighted squared error, Karras et al. 2022, eq. 8: lambda(sigma) = 1 / c_out².

    Args:
        denoised: what the denoiser made of the noised images, (B, C, H, W) float32.
        x0: clean images, (B, C, H, W) float32.
        sigma: noise level of each image, (B,) > 0.
        sigma_data: standard deviation of the data.
    """
    weight = (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()
    return (weight.reshape(-1, 1, 1, 1) * (denoised - x0).square()).mean()


def withhold_labels(labels: Tensor, config: TrainingConfig, generator: torch.Generator) -> Tensor:
    """Return `labels` (B, K) with a share of the rows withheld: some zeros, some uniform 1/K.

    Zeros train the unconditional pass of classifier-free guidance; the uniform label is the one
    under which one asks which class a layer decides for.
    """
    draw = torch.rand(len(labels), generator=generator).to(labels.device)
    uniform = draw < config.label_dropout * config.uniform_share
    kept = labels * (draw >= config.label_dropout)[:, None]
    return kept + uniform[:, None] / labels.shape[1]


class DenoiserTraining(AveragedTraining):
    """Trains a denoiser; arguments as those of `AveragedTraining`."""

    config: TrainingConfig

    def __init__(self, config: TrainingConfig, group: ProcessGroup = ALONE) -> None:
        super().__init__(config, group)
        self.denoiser = build_denoiser(config)
        self.ema = self.averaged(self.denoiser)

    @property
    def trained(self) -> nn.Module:
        return self.denoiser

    def step_loss(self, batch: Batch, step: int) -> Tensor:
        if not self.config.dropout:
            return self.loss(*batch, key=step)
        own = (self.group.rank,) if self.group.rank else ()  # each process drops other features
        with forked_random_state("training dropout", self.config.seed, step, *own):
            return self.loss(*batch, key=step)

    def loss(self, x0: Tensor, labels: Tensor | None, key: int) -> Tensor:
        """Return the loss of clean images with the noise, levels and withheld labels of draw `key`.

        In a group it is that of this process's share, weighted such that the mean over all processes is that of
        the whole batch; what is drawn is the same in all.
        """
        generator = keyed_generator("training", self.config.seed, key)
        levels = torch.randn(len(x0), generator=generator) * self.config.p_std + self.config.p_mean
        sigma = levels.exp().to(x0.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device)
        if labels is not None:
            labels = withhold_labels(labels, self.config, generator)
        given = (x0, sigma, noise) if labels is None else (x0, sigma, noise, labels)
        factor, (x0, sigma, noise, *own_labels) = self.own_share(*given)
        noised = x0 + sigma.reshape(-1, 1, 1, 1) * noise
        denoised = self.denoiser(noised, sigma, own_labels[0] if own_labels else None)
        return edm_loss(denoised, x0, sigma, self.config.sigma_data) * factor

    @torch.no_grad()
    def sample_grid(self, rows: int = 4, num_steps: int = 18) -> np.ndarray:
        """Return `rows` samples of each class by the averaged weights, (rows · max(K, 1), H, W, C) uint8.

        The classes take turns, so that K columns make a grid; the noise is the same every time.
        """
        config, device = self.config, next(self.ema.parameters()).device
        count = rows * max(config.label_dim, 1)
        labels = torch.eye(config.label_dim).repeat(rows, 1).to(device) if config.label_dim else None
        noise = NoiseSource(config.seed, range(count), stream="training grid")
        sigmas = karras_sigmas(num_steps, sigma_max=80.0, sigma_min=0.002)
        size = (config.img_channels, config.img_resolution, config.img_resolution)
        network = self.ema.module.eval()

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            return network(x, sigma, labels)

        x = samples(heun(denoiser, noise.normal(size).to(device) * sigmas[0], sigmas, noise.normal))
        pixels = (x.to(torch.float32) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()


def train_denoiser(
    images: np.ndarray,
    labels: np.ndarray | None,
    config: TrainingConfig,
    *,
    device: str | torch.device = "auto",
    group: ProcessGroup = ALONE,
    **options: Any,
) -> dict[str, Tensor]:
    """Train a denoiser and return the averaged weights, the state of an `EDMPrecond` on the CPU.

    Initial weights, order of images and noise are functions of the config alone. In one environment
    (CPU, number of threads, build of torch) so is the result, bit by bit; elsewhere sums are rounded
    otherwise, which grows over many steps into other weights of the same quality. The processes of a group
    share each batch, each with a copy of the network; all return the same weights.

    Args:
        images: (N, H, W, C) uint8, H = W = config.img_resolution.
        labels: (N,) integer classes; None when config.label_dim is 0.
        config: everything else that decides the result.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        group: processes that train together.
        options: of `train_averaged`: reports, and the state that an interrupted training goes on from.

    Raises:
        ConfigError: if the device is not there, or a batch has fewer images than there are processes.
        ShapeError: if images or labels do not fit the config.
        CorruptDataError: if the loss ceases to be finite.
        WorkerError: if another process failed.
    """
    chosen = resolve_device(device)
    if config.batch_size < group.size:
        raise ConfigError(f"batch_size {config.batch_size} gives {group.size} processes no image each; raise it")
    module = DenoiserTraining(config, group)
    order = {"batch_size": config.batch_size, "steps": config.steps, "seed": config.seed}

    def batches(first: int) -> DataLoader[Batch]:
        return training_batches(images, labels, config.label_dim, **order, first=first)

    train_averaged(module, batches, chosen, **options)
    return {name: tensor.detach().cpu().clone() for name, tensor in module.ema.module.state_dict().items()}
