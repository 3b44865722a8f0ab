"""Prompts as the embeddings that a text-conditioned U-Net reads, made as diffusers' own pipelines make them."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)

KEPT_PROMPTS = 128
"""Prompts whose embeddings are kept; those used longest ago go first."""

Embedding = dict[str, Tensor]
"""Keyword arguments of a forward pass, each (1, …)."""


class PromptEncoder:
    """Encodes prompts by one CLIP text encoder, as Stable Diffusion 1 and 2 do: its last hidden state.

    Every prompt is encoded alone, so its embedding does not depend on what else is in a batch.

    Args:
        tokenizers: one tokenizer for each encoder.
        encoders: text encoders.
    """

    def __init__(self, tokenizers: Sequence[Any], encoders: Sequence[nn.Module]) -> None:
        self.tokenizers, self.encoders = tuple(tokenizers), tuple(encoders)
        self._embedding = lru_cache(KEPT_PROMPTS)(self._encode)

    def encode(self, prompts: Sequence[str]) -> Embedding:
        """Return the embeddings of prompts, each (B, …) on the encoders' device."""
        parts = [self._embedding(prompt) for prompt in prompts]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def forget(self) -> None:
        """Drop what is kept, as after a move to another device."""
        self._embedding.cache_clear()

    @torch.no_grad()
    def _encode(self, prompt: str) -> Embedding:
        tokens, mask = self._tokens(0, prompt)
        return {"prompt_embeds": self.encoders[0](tokens, attention_mask=mask)[0]}

    def _tokens(self, number: int, prompt: str) -> tuple[Tensor, Tensor | None]:
        """Return the token ids (1, T) of one tokenizer, padded and cut to its length, and the mask if one is used."""
        tokenizer, encoder, length = self.tokenizers[number], self.encoders[number], self._length(number)
        self._say_cut(number, prompt, tokenizer(prompt).input_ids)
        given = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        device = next(encoder.parameters()).device
        masked = getattr(encoder.config, "use_attention_mask", False)
        return given.input_ids.to(device), given.attention_mask.to(device) if masked else None

    def _length(self, number: int) -> int:
        """Return how many tokens are read: a tokenizer without its configuration would take any number."""
        length, config = self.tokenizers[number].model_max_length, getattr(self.encoders[number], "config", None)
        return int(min(length, getattr(config, "max_position_embeddings", length)))

    def _say_cut(self, number: int, prompt: str, tokens: Sequence[int]) -> None:
        """Say where a prompt is cut that is longer than an encoder reads; tokens begin and end with a mark."""
        tokenizer, length = self.tokenizers[number], self._length(number)
        if len(tokens) <= length:
            return
        lost = tokens[length - 1 : -1]
        _log.warning(
            "prompt %r is cut at token %d for text encoder %d of %d, which reads %d: the last %d are lost, from %r on",
            _beginning(prompt), length - 1, number + 1, len(self.encoders), length, len(lost),
            _beginning(tokenizer.decode(lost[:8])),
        )  # fmt: skip


class DualPromptEncoder(PromptEncoder):
    """Encodes prompts by two encoders, as SDXL does.

    The penultimate hidden states of both stand side by side; the pooled text of the second goes beside them.
    """

    @torch.no_grad()
    def _encode(self, prompt: str) -> Embedding:
        outputs = [
            encoder(self._tokens(number, prompt)[0], output_hidden_states=True)
            for number, encoder in enumerate(self.encoders)
        ]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return {"prompt_embeds": states, "pooled_prompt_embeds": outputs[-1][0]}


def _beginning(text: str, most: int = 40) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
