"""What every training does: Adam, an average of the weights, reports, and a state from which it goes on.

    class Mine(AveragedTraining): ...      # a network and the loss of a step
    train_averaged(Mine(config), batches, device, state=Path("training.safetensors"))

All randomness comes from generators keyed by the seed and the step, or from a fork of torch's
global one that is put back afterwards; a training leaves no trace in the caller's random state.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from diffviews.errors import CorruptDataError
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.lightning.runner import interruptible, trainer
from diffviews.lightning.training_config import OptimiserConfig
from diffviews.lightning.training_state import load_state, save_state
from diffviews.noise import keyed_generator

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


class AveragedTraining(lightning.LightningModule):
    """Trains the network that a subclass has, and keeps the exponential moving average of its weights in `ema`.

    Args:
        config: everything that decides the result, apart from the data.
        group: processes that share each batch; the mean of their gradients is that of the whole batch.
    """

    config: OptimiserConfig
    ema: AveragedModel

    def __init__(self, config: OptimiserConfig, group: ProcessGroup = ALONE) -> None:
        super().__init__()
        self.config, self.group = config, group
        self.first_step = 0
        self._moments: dict[int, dict[str, Tensor]] = {}

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The network whose parameters are trained."""

    @abstractmethod
    def step_loss(self, batch: Any, step: int) -> Tensor:
        """Return the loss of one batch, a scalar, with the random draws of this step."""

    @abstractmethod
    def sample_grid(self) -> np.ndarray:
        """Return images by the averaged weights, (N, H, W, C) uint8, to look at."""

    def averaged(self, network: nn.Module) -> AveragedModel:
        """Return the average of a network's weights, which each step moves on."""
        return AveragedModel(network, avg_fn=self._averaged).requires_grad_(False)

    def own_share(self, *tensors: Tensor) -> tuple[float, list[Tensor]]:
        """Return this process's rows of a batch, and the factor on their mean loss by which the mean over all
        processes is that of the whole batch."""
        own = [tensor[self.group.rank :: self.group.size] for tensor in tensors]
        return len(own[0]) * self.group.size / len(tensors[0]), own

    def go_on_from(self, state: Path) -> None:
        """Take up a training that was interrupted; raises as `load_state`."""
        self.first_step, self._moments = load_state(state, self, self.config)

    def _averaged(self, average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        return torch.lerp(current, average, self.config.ema_decay(int(updates)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of one batch.

        Raises:
            CorruptDataError: if it is not finite.
        """
        step = self.first_step + batch_idx
        loss = self.step_loss(batch, step)
        if not torch.isfinite(loss):
            raise CorruptDataError(f"the loss of step {step} is {loss.item()}; lower learning_rate")
        self.log("loss", loss.detach(), prog_bar=True, sync_dist=self.group.size > 1)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.trained)

    def configure_optimizers(self) -> Any:
        rate = self.config.learning_rate
        optimizer = torch.optim.Adam(self.trained.parameters(), lr=rate, betas=(0.9, 0.99))
        if self._moments:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self._moments})
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.config.learning_rate_factor(self.first_step + step)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(eq=False)
class TrainingReport(Callback):
    """Tells `on_metrics` the mean loss of every `metrics_every` steps, `on_grid` samples every `grid_every`."""

    module: AveragedTraining
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


def train_averaged(
    module: AveragedTraining,
    batches: Callable[[int], Iterable[Any]],
    device: torch.device,
    *,
    on_metrics: OnMetrics | None = None,
    on_grid: OnGrid | None = None,
    metrics_every: int = 25,
    grid_every: int = 500,
    state: Path | None = None,
    save_every: int = 250,
    progress: bool = False,
) -> None:
    """Train until all steps of the module's config are done; its average then holds the result.

    Args:
        module: what is trained.
        batches: returns those from a step on.
        device: of this process.
        on_metrics: told the step, the mean loss since the last call and the learning rate, by the first process.
        on_grid: told the step and samples of the averaged weights, by the first process.
        metrics_every: steps between two calls of `on_metrics`.
        grid_every: steps between two calls of `on_grid`.
        state: file that the training is kept in while it runs; where it is there already, the training goes on from
            it, and ends with the weights of one that was never interrupted.
        save_every: steps between two writings of `state`.
        progress: show Lightning's progress bar.

    Raises:
        CorruptDataError: if the loss ceases to be finite, or the state is damaged or of another training.
        WorkerError: if another process failed.
    """
    config, group = module.config, module.group
    if state is not None and state.exists():
        module.go_on_from(state)
    left = config.steps - module.first_step
    if not left:
        return
    tell = (on_metrics, on_grid) if group.leads else (None, None)
    # The options by which the processes of a group average their gradients.
    together: dict[str, Any] = {} if group.size == 1 else {
        "strategy": "ddp", "devices": group.local_size, "num_nodes": group.size // group.local_size,
        "use_distributed_sampler": False,
    }  # fmt: skip
    runner = trainer(
        device,
        progress=progress and group.leads,
        max_steps=left,
        max_epochs=1,
        limit_train_batches=left,
        gradient_clip_val=config.max_gradient_norm or None,
        callbacks=[
            TrainingReport(module, *tell, metrics_every, grid_every, state if group.leads else None, save_every)
        ],
        **together,
    )
    with group.connected(), interruptible():
        runner.fit(module, batches(module.first_step))
