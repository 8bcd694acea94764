# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import contract, quantity

LINES = [  # tag, line, known, metrics, port opens early
    ("1.0.0", "1.0", True, "/metrics", False),
    ("1.1.2", "1.0", True, "/metrics", False),
    ("1.3.0", "1.x", True, "/v1/metrics", True),
    ("1.8.4-variant", "1.x", True, "/v1/metrics", True),
    ("1", "1.x", True, "/v1/metrics", True),
    ("2.0.12", "2.x", True, "/v1/metrics", True),
    ("v3.0.0", "3.x", True, "/v1/metrics", True),
    ("24.05.rc15", "24.05", True, "/metrics", False),
    ("latest", "3.x", False, "/v1/metrics", True),
]


@pytest.mark.parametrize(("tag", "line", "known", "metrics", "early"), LINES)
def test_release_lines(tag, line, known, metrics, early):
    found = contract.contract_for(f"nvcr.io/nim/meta/llama3-8b-instruct:{tag}")
    assert (found.line, found.known, found.metrics_path, found.port_opens_before_loaded) == (
        line,
        known,
        metrics,
        early,
    )
    assert found.grace_period == 60


def test_a_digest_alone_is_unknown():
    assert not contract.contract_for("nvcr.io/nim/meta/llama3-8b-instruct@sha256:" + "0" * 64).known


IMAGES = [
    ("nvcr.io/nim/meta/llama3-8b-instruct:1.0.0", "nvcr.io", "meta/llama3-8b-instruct", "chat"),
    ("nvcr.io/nim/nvidia/nv-embedqa-e5-v5:1.0.0", "nvcr.io", "nvidia/nv-embedqa-e5-v5", "embeddings"),
    ("nvcr.io/nim/nvidia/nv-rerankqa-mistral-4b-v3:1.0.0", "nvcr.io", "nvidia/nv-rerankqa-mistral-4b-v3", "ranking"),
    (
        "mirror.example.com:5000/team/nim/meta/llama3-8b-instruct",
        "mirror.example.com:5000",
        "meta/llama3-8b-instruct",
        "chat",
    ),
    ("nim/meta/llama3-8b-instruct:1.0.0", "", "meta/llama3-8b-instruct", "chat"),
]


@pytest.mark.parametrize(("image", "registry", "model", "api"), IMAGES)
def test_images(image, registry, model, api):
    assert contract.parse_image(image).registry == registry
    assert contract.model_of(image) == model
    assert contract.api_of(image) == api


BAD_IMAGES = [
    ("https://nvcr.io/nim/x:1", "https://"),
    ("nvcr.io/nim/Meta/x:1", "lower case"),
    ("nvcr.io/nim/x y:1", "white space"),
    ("nvcr.io/nim/x:", "not an image"),
]


@pytest.mark.parametrize(("image", "word"), BAD_IMAGES)
def test_bad_images(image, word):
    with pytest.raises(ValueError, match=word):
        contract.parse_image(image)


@pytest.mark.parametrize(("one", "other"), [("0.5", "500m"), ("1Gi", "1024Mi"), (1, "1"), ("1e3", "1k"), ("2000m", 2)])
def test_equal_quantities(one, other):
    assert quantity.parse(one) == quantity.parse(other)


@pytest.mark.parametrize("text", ["", "8 Gi", "32GB", "x", "1e", None, "Gi"])
def test_no_quantities(text):
    with pytest.raises(ValueError, match="not a quantity"):
        quantity.parse(text)
