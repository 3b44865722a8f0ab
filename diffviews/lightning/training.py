"""Training of a class-conditional denoiser with the EDM loss (Karras et al. 2022), under Lightning.

    weights = train_denoiser(images, labels, TrainingConfig(steps=1500), device="auto")

All randomness comes from generators keyed by the seed and the step, or from a fork of torch's
global one that is put back afterwards; a training leaves no trace in the caller's random state.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from diffviews.device import resolve_device
from diffviews.errors import ConfigError, CorruptDataError
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.lightning.runner import interruptible, trainer
from diffviews.lightning.training_config import TrainingConfig
from diffviews.lightning.training_data import Batch, training_batches
from diffviews.lightning.training_state import load_state, save_state
from diffviews.models.adm_unet import ADMUNet
from diffviews.models.preconditioning import EDMPrecond
from diffviews.noise import NoiseSource, keyed_generator
from diffviews.sampling.samplers import heun, samples
from diffviews.sampling.schedules import karras_sigmas

OnMetrics = Callable[[int, dict[str, float]], None]
"""`on_metrics(step, {"loss": …, "learning_rate": …})`; raising from it ends the training."""
OnGrid = Callable[[int, np.ndarray], None]
"""`on_grid(step, images)`: samples of the averaged weights, (N, H, W, C) uint8, classes in turn."""


@contextmanager
def forked_random_state(*key: str | int) -> Iterator[None]:
    """Seed torch's global generators from `key` inside the block and put them back after it."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(keyed_generator(*key).initial_seed())  # noqa: TID251  # given back when the fork ends
        yield


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


class DenoiserTraining(lightning.LightningModule):
    """Trains a denoiser and keeps the exponential moving average of its weights in `ema`.

    Args:
        config: everything that decides the result, apart from the images.
        group: processes that share each batch; the mean of their gradients is that of the whole batch.
    """

    def __init__(self, config: TrainingConfig, group: ProcessGroup = ALONE) -> None:
        super().__init__()
        self.config, self.group = config, group
        self.first_step = 0
        self._moments: dict[int, dict[str, Tensor]] = {}
        self.denoiser = build_denoiser(config)
        self.ema = AveragedModel(self.denoiser, avg_fn=self._averaged).requires_grad_(False)

    def go_on_from(self, state: Path) -> None:
        """Take up a training that was interrupted; raises as `load_state`."""
        self.first_step, self._moments = load_state(state, self, self.config)

    def _averaged(self, average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        return torch.lerp(current, average, self.config.ema_decay(int(updates)))

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
        own, whole = slice(self.group.rank, None, self.group.size), len(x0)
        x0, sigma, noise, labels = x0[own], sigma[own], noise[own], None if labels is None else labels[own]
        noised = x0 + sigma.reshape(-1, 1, 1, 1) * noise
        loss = edm_loss(self.denoiser(noised, sigma, labels), x0, sigma, self.config.sigma_data)
        return loss * (len(x0) * self.group.size / whole)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch.

        Raises:
            CorruptDataError: if it is not finite.
        """
        step = self.first_step + batch_idx
        if self.config.dropout:
            own = (self.group.rank,) if self.group.rank else ()  # each process drops other features
            with forked_random_state("training dropout", self.config.seed, step, *own):
                loss = self.loss(*batch, key=step)
        else:
            loss = self.loss(*batch, key=step)
        if not torch.isfinite(loss):
            raise CorruptDataError(f"the loss of step {step} is {loss.item()}; lower learning_rate")
        self.log("loss", loss.detach(), prog_bar=True, sync_dist=self.group.size > 1)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.denoiser)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.denoiser.parameters(), lr=self.config.learning_rate, betas=(0.9, 0.99))
        if self._moments:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self._moments})
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.config.learning_rate_factor(self.first_step + step)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

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


@dataclass(eq=False)
class TrainingReport(Callback):
    """Tells `on_metrics` the mean loss of every `metrics_every` steps, `on_grid` samples every `grid_every`."""

    module: DenoiserTraining
    on_metrics: OnMetrics | None
    on_grid: OnGrid | None
    metrics_every: int
    grid_every: int
    state: Path | None
    """File that all the next step depends on is written to, every `save_every` steps; None: none."""
    save_every: int
    _losses: list[Tensor] = field(default_factory=list, init=False)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = self.module.first_step + batch_idx + 1
        last = step == self.module.config.steps
        self._losses.append(trainer.callback_metrics["loss"])
        if self.on_metrics is not None and (last or step % self.metrics_every == 0):
            config = self.module.config
            rate = config.learning_rate * config.learning_rate_factor(step - 1)
            self.on_metrics(step, {"loss": float(torch.stack(self._losses).mean()), "learning_rate": rate})
            self._losses.clear()
        if self.on_grid is not None and (last or step % self.grid_every == 0):
            self.on_grid(step, self.module.sample_grid())
        if self.state is not None and (last or step % self.save_every == 0):
            save_state(self.state, self.module, trainer.optimizers[0], self.module.config, step)


def train_denoiser(
    images: np.ndarray,
    labels: np.ndarray | None,
    config: TrainingConfig,
    *,
    device: str | torch.device = "auto",
    on_metrics: OnMetrics | None = None,
    on_grid: OnGrid | None = None,
    metrics_every: int = 25,
    grid_every: int = 500,
    state: Path | None = None,
    save_every: int = 250,
    progress: bool = False,
    group: ProcessGroup = ALONE,
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
        on_metrics: told the step, the mean loss since the last call and the learning rate, by the first process.
        on_grid: told the step and samples of the averaged weights, by the first process.
        metrics_every: steps between two calls of `on_metrics`.
        grid_every: steps between two calls of `on_grid`.
        state: file that the training is kept in while it runs; where it is there already, the training goes on from
            it, and ends with the weights of one that was never interrupted.
        save_every: steps between two writings of `state`.
        progress: show Lightning's progress bar.
        group: processes that train together.

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
    if state is not None and state.exists():
        module.go_on_from(state)
    order = {"batch_size": config.batch_size, "steps": config.steps, "seed": config.seed}
    batches = training_batches(images, labels, config.label_dim, **order, first=module.first_step)
    tell = (on_metrics, on_grid) if group.leads else (None, None)
    # The options by which the processes of a group average their gradients.
    together: dict[str, Any] = {} if group.size == 1 else {
        "strategy": "ddp", "devices": group.local_size, "num_nodes": group.size // group.local_size,
        "use_distributed_sampler": False,
    }  # fmt: skip
    runner = trainer(
        chosen,
        progress=progress and group.leads,
        max_steps=config.steps - module.first_step,
        max_epochs=1,
        limit_train_batches=config.steps - module.first_step,
        gradient_clip_val=config.max_gradient_norm or None,
        callbacks=[
            TrainingReport(module, *tell, metrics_every, grid_every, state if group.leads else None, save_every)
        ],
        **together,
    )
    if module.first_step < config.steps:
        with group.connected(), interruptible():
            runner.fit(module, batches)
    return {name: tensor.detach().cpu().clone() for name, tensor in module.ema.module.state_dict().items()}
