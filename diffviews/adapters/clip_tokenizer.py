"""CLIP's tokenizer, for models whose files bring none: those of the original Stable Diffusion."""

import lzma
from functools import cache
from importlib.resources import files
from typing import Any

from diffviews.adapters.diffusion_folder import diffusion_package

LENGTH = 77
"""Tokens that CLIP's text encoders read."""
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad: str = END) -> Any:
    """Return the tokenizer of CLIP (Radford et al. 2021), whose 49,408 tokens all of its text encoders share.

    Args:
        pad: what short prompts are filled up with: the end for OpenAI's encoder, "!" for OpenCLIP's.
    """
    vocab, merges = _vocabulary()
    kind = diffusion_package("transformers").CLIPTokenizer
    return kind(vocab=dict(vocab), merges=list(merges), model_max_length=LENGTH, pad_token=pad)


@cache
def _vocabulary() -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """Return token → number, and the merges: letters, the same at a word's end, merged pairs, start and end."""
    packed = files("diffviews.data").joinpath("clip_merges.txt.xz").read_bytes()
    lines = lzma.decompress(packed).decode("utf-8").split("\n")
    merges = tuple((first, second) for first, _, second in (line.partition(" ") for line in lines[1:-1]))
    letters = _letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    return {token: number for number, token in enumerate(tokens)}, merges


def _letters() -> list[str]:
    """Return the letter that stands for each byte, in the vocabulary's order: those that print, then the others."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printing] + [chr(256 + n) for n in range(256 - len(printing))]
