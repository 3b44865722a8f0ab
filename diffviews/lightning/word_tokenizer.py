"""A CLIP tokenizer whose every token is a word of the captions: byte-pair merges until no word is in parts
(Sennrich et al. 2016), in the same order every time."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from diffviews.adapters.diffusion_folder import diffusion_package
from diffviews.errors import ConfigError

END = "</w>"
"""Marks the last letter of a word."""
START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"
MOST_WORDS = 5_000
"""Different words of all captions."""

_WORDS = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]+")


def merge_words(words: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges by which each of these words is one token; other words fall into letters.

    The most frequent pair is merged first, of equally frequent ones the first in alphabetic order.
    """
    parts = {word: (*word[:-1], word[-1] + END) for word in sorted(set(words))}
    letters = {*ascii_lowercase, *(letter for word in parts for letter in word)}
    vocabulary = [START_TOKEN, END_TOKEN, *sorted(letters), *sorted(letter + END for letter in letters)]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for split in parts.values() for pair in pairwise(split)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        vocabulary.append("".join(best))
        parts = {word: _merged(split, best) for word, split in parts.items()}
    return {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}, merges


def _merged(split: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for part in split:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)


def word_tokenizer(captions: Iterable[str], length: int) -> Any:
    """Return a `CLIPTokenizer` of the words of captions, which pads and cuts to `length` tokens.

    Raises:
        ConfigError: if there are too many words.
    """
    words = {word for caption in set(captions) for word in _WORDS.findall(caption.lower())}
    if len(words) > MOST_WORDS:
        raise ConfigError(f"the captions have {len(words):,} words; a text encoder of words takes {MOST_WORDS:,}")
    vocabulary, merges = merge_words(words)
    tokenizer = diffusion_package("transformers").CLIPTokenizer
    return tokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def write_plain_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write vocab.json and merges.txt beside a saved tokenizer, which older versions of transformers read."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
