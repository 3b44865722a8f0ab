"""Clusters of prompts by their embeddings, each named by the words that set it apart."""

from collections.abc import Sequence

import numpy as np

MAX_CLUSTERS = 12
WORDS = 3
"""Words in a cluster's name."""


def cluster_prompts(embeddings: np.ndarray, prompts: Sequence[str]) -> list[str]:
    """Return the name of each prompt's cluster, such as '2: dog, beach, running'.

    k-means over embeddings of unit length, the number of clusters about sqrt(N / 2) of the different
    prompts, at most 12; names by tf-idf (scikit-learn). The answer is the same every time.

    Args:
        embeddings: one a prompt, (N, D).
        prompts: their texts.

    Returns:
        (N,) names; clusters are numbered from 1 by size.
    """
    from sklearn.cluster import KMeans

    different = list(dict.fromkeys(prompts))
    first = [list(prompts).index(prompt) for prompt in different]
    values = np.asarray(embeddings, dtype=np.float64)[first].reshape(len(first), -1)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    wanted = min(MAX_CLUSTERS, max(1, round((len(different) / 2) ** 0.5)), len(np.unique(values, axis=0)))
    found = KMeans(wanted, n_init=4, random_state=0).fit_predict(values)
    of_prompt = dict(zip(different, found, strict=True))
    members = np.array([of_prompt[prompt] for prompt in prompts])
    sizes = np.bincount(members, minlength=wanted)
    rank = {cluster: place + 1 for place, cluster in enumerate(np.argsort(-sizes, kind="stable"))}
    names = _names(different, found, wanted)
    return [f"{rank[cluster]}: {names[cluster]}" for cluster in members]


def _names(prompts: Sequence[str], clusters: np.ndarray, count: int) -> list[str]:
    """Return the words whose tf-idf is highest in each cluster, joined."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(stop_words="english")
    try:
        weights = vectorizer.fit_transform(prompts)
    except ValueError:  # nothing but stop words
        return ["no words"] * count
    words = vectorizer.get_feature_names_out()
    named = []
    for cluster in range(count):
        mean = np.asarray(weights[np.flatnonzero(clusters == cluster)].mean(axis=0)).ravel()
        top = [words[i] for i in np.argsort(-mean, kind="stable")[:WORDS] if mean[i] > 0]
        named.append(", ".join(top) or "no words")
    return named
