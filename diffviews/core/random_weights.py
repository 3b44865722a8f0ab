"""The same network without what it has learned: a copy of an adapter whose weights are drawn at random."""

from copy import deepcopy

import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.errors import ConfigError
from diffviews.noise import keyed_generator


@torch.no_grad()
def with_random_weights(adapter: GeneratorAdapter, seed: int = 0) -> GeneratorAdapter:
    """Return a copy of an adapter each of whose parameters is drawn from a normal distribution with its mean and SD.

    What a layer of it tells is due to the architecture, to the noised input, and to how large the weights are. Keeping
    each tensor's mean and SD is what no scheme of initialisation does for any network: a norm's gains stay near 1,
    layers that training begins at zero do not silence the network, and signals stay about as large as they were, so
    that nothing overflows. The arrangement of the weights, which is what was learned, is gone. Buffers, such as noise
    schedules, and single numbers stay. The adapter itself is not changed.

    Args:
        adapter: the model.
        seed: equal seeds give equal weights.

    Raises:
        ConfigError: if it cannot be copied, or its parameters are not found.
    """
    try:
        copy = deepcopy(adapter)
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ConfigError(f"model {adapter.model_type!r} cannot be copied ({error})") from error
    copy.__dict__.pop("_computed_digest", None)
    originals = {id(tensor) for network in adapter._networks() for tensor in network.parameters()}
    drawn: set[int] = set()
    for place, network in enumerate(copy._networks()):
        for name, tensor in network.named_parameters():
            if id(tensor) in originals:
                raise ConfigError(f"model {adapter.model_type!r} shares its weights with its copies")
            if tensor.is_floating_point() and tensor.numel() > 1 and id(tensor) not in drawn:
                drawn.add(id(tensor))
                own, noise = tensor.float(), keyed_generator("random weights", seed, place, name)
                values = torch.randn(tensor.shape, generator=noise).to(tensor.device)
                tensor.copy_(own.mean() + own.std() * values)
    if not drawn:
        raise ConfigError(f"model {adapter.model_type!r} keeps its parameters where they are not found")
    return copy
