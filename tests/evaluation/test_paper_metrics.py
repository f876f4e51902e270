"""Our metrics on random similarities against the paper's definitions, transcribed word for word as plain loops.

The definitions: docs/evaluation.md and arXiv 2412.21009. Nothing of the package is used on the literal side.
"""

import random

import numpy as np
import pytest
import torch

from open_clip_idplugin.evaluation import metrics
from open_clip_idplugin.evaluation.metrics import entity_metrics, general_metrics, general_ranks, top_k

KS = (1, 5, 10, 50)


class Random:
    """Similarities of texts and images, without two that are equal."""

    def __init__(self, seed, texts, images):
        values = list(range(texts * images))
        random.Random(seed).shuffle(values)
        self.rows = [[values[text * images + image] / 1000 for image in range(images)] for text in range(texts)]
        self._tensor = torch.tensor(self.rows, dtype=torch.float32)
        self.n_rows, self.n_images = texts, images

    def block(self, start, stop):
        return self._tensor[start:stop]


def literal_general(rows, image_of_text):
    """Every text is a query with one right image; every image is a query with its own texts as right answers."""
    result = {}
    texts, images = range(len(rows)), range(len(rows[0]))
    for k in KS:
        hits = 0
        for text in texts:
            nearest = sorted(images, key=lambda image: rows[text][image], reverse=True)[:k]
            hits += image_of_text[text] in nearest
        result[f"t2i_R@{k}"] = hits / len(rows)
    for k in KS:
        hits = 0
        for image in images:
            nearest = sorted(texts, key=lambda text: rows[text][image], reverse=True)[:k]
            hits += any(image_of_text[text] == image for text in nearest)
        result[f"i2t_R@{k}"] = hits / len(rows[0])
    result["t2i_sum"] = sum(result[f"t2i_R@{k}"] for k in KS)
    result["i2t_sum"] = sum(result[f"i2t_R@{k}"] for k in KS)
    result["sum"] = result["t2i_sum"] + result["i2t_sum"]
    return result


def literal_entity(rows, person_of_query, person_of_image):
    """One query a person; every image of the person is relevant; means over people."""
    result = dict.fromkeys(
        [f"entity_R@{k}" for k in KS] + [f"entity_R@{k}_kmin" for k in KS] + ["mAP@10", "mAP@10_standard"], 0.0
    )
    for query, person in enumerate(person_of_query):
        images = range(len(person_of_image))
        ranking = sorted(images, key=lambda image: rows[query][image], reverse=True)
        relevant = [image for image in images if person_of_image[image] == person]
        for k in KS:
            hits = 0
            for image in ranking[:k]:
                if image in relevant:
                    hits += 1
            result[f"entity_R@{k}"] += hits / len(relevant)
            result[f"entity_R@{k}_kmin"] += hits / min(k, len(relevant))
        precisions = 0.0
        for position in range(1, 11):
            if ranking[position - 1] in relevant:
                precisions += sum(image in relevant for image in ranking[:position]) / position
        result["mAP@10"] += precisions / 10
        result["mAP@10_standard"] += precisions / min(10, len(relevant))
    return {name: value / len(person_of_query) for name, value in result.items()}


@pytest.mark.parametrize("block_elements", [150, 4_000_000])
@pytest.mark.parametrize("seed", range(3))
def test_general_retrieval(seed, block_elements, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", block_elements)
    scores = Random(seed, texts=210, images=70)
    image_of_text = [text // 3 for text in range(210)]
    random.Random(seed).shuffle(image_of_text)
    measured = general_metrics(general_ranks(scores, np.array(image_of_text)))
    assert measured == pytest.approx(literal_general(scores.rows, image_of_text), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_entity_retrieval(seed, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", 150)
    scores = Random(seed, texts=12, images=90)
    owners = [*range(12), *(random.Random(seed).randrange(12) for _ in range(78))]
    measured = entity_metrics(top_k(scores, 50), np.arange(12), np.array(owners))
    assert measured == pytest.approx(literal_entity(scores.rows, list(range(12)), owners), abs=1e-12)
