"""Sessions: hooks on a model's layers that record and change what passes, for as long as wanted.

with InterventionSession(adapter, interventions, ["midblock"]) as session:
    with session.evaluation(step=0, sigma=80.0):
        denoised = adapter.forward(x, sigma, labels)
    own, used = session.natural["midblock"], session.replaced["midblock"]

Who wants the layers alone asks for `evaluation(…, stop_early=True)`: the pass then ends after the last of them.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.hooks import (
    Handle,
    Hook,
    attach_hooks,
    check_layers,
    detach_hooks,
    known_layers,
    primary_tensor,
    replace_primary,
)
from diffviews.errors import ConfigError

_log = logging.getLogger(__name__)

GuidancePass = Literal["conditional", "unconditional"]


Keep = Callable[[str, Tensor], Any]
"""Takes a layer's name and its natural output, which the model may go on to change in place, and keeps what it
wants of it; what it returns is noted."""


def copy_of(layer: str, own: Tensor) -> Tensor:
    """Keep a layer's output as it is."""
    return own.detach().clone()


class Change(Protocol):
    """What a session needs to know of an intervention."""

    @property
    def layer(self) -> str:
        """Layer whose output it changes."""

    def acts(self, step: int, guidance_pass: GuidancePass) -> bool:
        """Whether it acts in this step and pass."""

    def check(self, shape: Sequence[int]) -> None:
        """Raise ShapeError if it cannot fit a layer of this shape."""

    def value_at(self, sigma: float) -> Tensor:
        """Return what it changes the output with at a noise level."""

    def apply(self, own: Tensor, target: Tensor) -> Tensor:
        """Return the changed output as a new tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class _Evaluation:
    """One forward pass of the model, as its hooks need to know it."""

    session: "InterventionSession"
    targets: Mapping[int, Tensor]
    record: bool
    last_calls: Mapping[str, int] | None
    """How often the pass reaches each hooked layer, after which it may end; None: it runs to its end."""
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def is_over(self) -> bool:
        """Whether all that is wanted has been seen."""
        return self.last_calls is not None and all(self.calls[name] >= n for name, n in self.last_calls.items())


class _EarlyStop(BaseException):
    """Ends a forward pass whose further layers nobody wants; no error, so it passes by `except Exception`."""

    def __init__(self, evaluation: _Evaluation) -> None:
        super().__init__()
        self.evaluation = evaluation


_EVALUATION: ContextVar[_Evaluation | None] = ContextVar("diffviews_evaluation", default=None)
"""The pass now running in this thread. Hooks act only in passes of their own session, so sessions
on one adapter, in one thread or several, leave each other alone."""


class InterventionSession:
    """Hooks an adapter's layers for the time of a `with` block.

    A layer has one hook, which first keeps the natural value, then applies the interventions in
    the order given, then keeps the result; nothing depends on the order of registration.

    Args:
        adapter: model whose layers are hooked.
        interventions: what to change.
        record_layers: layers whose values are kept.
        keep: what is kept of their natural values; the default is a copy.

    Raises:
        LayerNotFoundError: on entry, if the adapter has no such layer.
        ShapeError: on entry, if a fixed target, channels or a region do not fit the layer.
    """

    def __init__(
        self,
        adapter: GeneratorAdapter,
        interventions: Sequence[Change] = (),
        record_layers: Sequence[str] = (),
        keep: Keep = copy_of,
    ) -> None:
        self._adapter, self._keep = adapter, keep
        self._interventions = tuple(interventions)
        self._recorded = frozenset(record_layers)
        self._handles: list[Handle] = []
        self._reached: set[str] = set()
        self.natural: dict[str, Any] = {}
        """What the recorded layers gave in the last recorded pass, {layer: (B, *shape)}, or what `keep` returned."""
        self.replaced: dict[str, Tensor] = {}
        """What the later layers read instead, for recorded layers that have an intervention; equal
        to `natural` where none acted."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The hooked layers, sorted."""
        return tuple(sorted(self._recorded.union(item.layer for item in self._interventions)))

    def __enter__(self) -> Self:
        if self._handles:
            raise ConfigError("this session is entered already; make another one")
        self._check()
        self._handles = attach_hooks(self._adapter, {layer: self._hook(layer) for layer in self.layers})
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        detach_hooks(self._handles)
        self._handles = []

    def _check(self) -> None:
        check_layers(known_layers(self._adapter), self.layers)
        shapes = self._adapter.get_layer_shapes() if self._interventions else {}
        for item in self._interventions:
            layer = self._adapter.layer_aliases.get(item.layer, item.layer)
            if layer in shapes:
                item.check(shapes[layer])

    @contextmanager
    def evaluation(
        self,
        step: int,
        sigma: float,
        guidance_pass: GuidancePass = "conditional",
        *,
        record: bool = True,
        stop_early: bool = False,
    ) -> Iterator[Self]:
        """Make the hooks act for one forward pass in the calling thread.

        Args:
            step: sampler step, from 0.
            sigma: noise level of the pass, at which targets are taken.
            guidance_pass: which pass of classifier-free guidance it is.
            record: whether `natural` and `replaced` are to be those of this pass.
            stop_early: end the `with` block as soon as the pass is through with the hooked layers.
                An adapter whose `forward` is no `single_pass` first shows, by one whole pass at this
                sigma, how often it reaches each of them.
        """
        self._adapter.tell_level(sigma)
        if record:
            self.natural, self.replaced = {}, {}
        # Targets come before the pass: a matched target runs the model itself.
        targets = {
            number: item.value_at(sigma)
            for number, item in enumerate(self._interventions)
            if item.acts(step, guidance_pass)
        }
        last_calls = self._last_calls(sigma, guidance_pass) if stop_early else None
        evaluation = _Evaluation(self, targets, record, last_calls)
        token = _EVALUATION.set(evaluation)
        try:
            yield self
        except _EarlyStop as stop:
            if stop.evaluation is not evaluation:
                raise
        finally:
            _EVALUATION.reset(token)
        if stop_early and last_calls is None:
            self._calls_seen(sigma, guidance_pass).update(evaluation.calls)
        self._warn_of_unreached()

    def _last_calls(self, sigma: float, guidance_pass: GuidancePass) -> Mapping[str, int] | None:
        """Return how often such a pass reaches each hooked layer, if that is known of all of them."""
        if getattr(self._adapter.forward, "single_pass", False):
            return dict.fromkeys(self.layers, 1)
        seen = self._calls_seen(sigma, guidance_pass)
        return {layer: seen[layer] for layer in self.layers} if seen.keys() >= set(self.layers) else None

    def _calls_seen(self, sigma: float, guidance_pass: GuidancePass) -> dict[str, int]:
        """Return how often whole passes of this kind reached layers; the adapter keeps it from session to session."""
        kinds = self._adapter.__dict__.setdefault("_layer_calls", {})
        return kinds.setdefault((sigma, guidance_pass), {})

    def _warn_of_unreached(self) -> None:
        for layer in self.layers:
            if layer not in self._reached:
                self._reached.add(layer)
                _log.warning(
                    "layer %r was not reached in a forward pass of %r: it is neither recorded nor changed",
                    layer,
                    self._adapter.model_type,
                )

    def _hook(self, layer: str) -> Hook:
        numbered = [(n, item) for n, item in enumerate(self._interventions) if item.layer == layer]

        def hook(module: Any, inputs: Any, output: Any) -> Any:
            evaluation = _EVALUATION.get()
            if evaluation is None or evaluation.session is not self:
                return None
            self._reached.add(layer)
            evaluation.calls[layer] += 1
            own = value = primary_tensor(output)
            for number, item in numbered:
                if number in evaluation.targets:
                    value = item.apply(value, evaluation.targets[number])
            if layer in self._recorded and evaluation.record:
                self.natural[layer] = self._keep(layer, own)
                if numbered:
                    self.replaced[layer] = copy_of(layer, value)
            if evaluation.is_over:
                raise _EarlyStop(evaluation)
            return None if value is own else replace_primary(output, value)

        return hook
