"""Prompt clusters follow the embeddings and are named by their words."""

import numpy as np

from diffviews.processing.text_clusters import cluster_prompts

ANIMALS = ["a dog on the beach", "a big dog", "the dog runs", "a dog and a stick", "dog in the snow"]
HOUSES = ["a red house", "the house by the lake", "a small house"]


def embeddings(counts, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.eye(len(counts)) * 10
    return np.concatenate([centres[i] + rng.normal(0, 0.1, (n, len(counts))) for i, n in enumerate(counts)])


def test_clusters_follow_the_embeddings_and_carry_their_words():
    names = cluster_prompts(embeddings([5, 3]), ANIMALS + HOUSES)
    assert len(set(names[:5])) == len(set(names[5:])) == 1
    assert names[0].startswith("1: dog")
    assert names[-1].startswith("2: house")


def test_same_prompt_has_one_cluster_and_the_answer_repeats():
    prompts = (ANIMALS + HOUSES) * 2
    values = np.tile(embeddings([5, 3]), (2, 1))
    first = cluster_prompts(values, prompts)
    assert first[:8] == first[8:]
    assert cluster_prompts(values, prompts) == first


def test_few_or_wordless_prompts_make_one_cluster():
    assert cluster_prompts(np.ones((1, 4)), ["a dog"]) == ["1: dog"]
    assert cluster_prompts(np.ones((3, 4)), ["the", "a", ""]) == ["1: no words"] * 3
