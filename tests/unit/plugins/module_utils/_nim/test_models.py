# SPDX-License-Identifier: GPL-3.0-or-later
"""What models need and what GPUs have."""

from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import models

H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}


@pytest.mark.parametrize(
    ("image", "billions", "sure"),
    [
        ("nvcr.io/nim/meta/llama3-8b-instruct:1.0.0", 8, True),
        ("mirror.example.com:5000/nim/meta/llama-3.1-70b-instruct:1.3.0", 70, True),
        ("nvcr.io/nim/qwen/qwen3-30b-a3b:1.0.0", 30, False),
        ("nvcr.io/nim/openai/gpt-oss-120b:1.0.0", 120, False),
        ("nvcr.io/nim/nvidia/llama-3.2-nv-embedqa-1b-v2:1.3.0", 1, False),
        ("nvcr.io/nim/other/thing-8x7b-v1:1.0.0", 46.48, False),
    ],
)
def test_a_model_by_its_image(image: str, billions: float, sure: bool) -> None:
    model = models.model_of(image)
    assert model is not None
    assert (model.billions, model.sure) == (pytest.approx(billions), sure)
    assert model.least < model.half


@pytest.mark.parametrize(
    "image",
    [
        "nvcr.io/nim/nvidia/nv-embedqa-e5-v5:1.0.0",
        "nvcr.io/nim/meta/llama-4-maverick-17b-128e-instruct:1.0.0",
        "nvcr.io/nim/meta/llm8bits:1.0.0",
        "not an image",
    ],
)
def test_nothing_is_made_up(image: str) -> None:
    assert models.model_of(image) is None


@pytest.mark.parametrize(
    ("labels", "product", "memory", "eight_bits"),
    [
        (H100, "NVIDIA-H100-80GB-HBM3", 85.5, True),
        ({"nvidia.com/gpu.product": "NVIDIA-L40S"}, "NVIDIA-L40S", 48, True),
        ({"nvidia.com/gpu.product": "NVIDIA-L4"}, "NVIDIA-L4", 24, True),
        ({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}, "NVIDIA-A100-SXM4-40GB", 40, False),
        ({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}, "NVIDIA-A100-SXM4-80GB", 80, False),
        ({"nvidia.com/gpu.product": "NVIDIA-A10G"}, "NVIDIA-A10G", 24, False),
        # ACK without GPU feature discovery
        (
            {"aliyun.accelerator/nvidia_name": "NVIDIA-A10", "aliyun.accelerator/nvidia_mem": "22731MiB"},
            "NVIDIA-A10", 23.8, False,
        ),
        ({"aliyun.accelerator/nvidia_name": "Tesla P100 PCIE 16GB"}, "Tesla P100 PCIE 16GB", 16, False),
        ({"nvidia.com/gpu.product": "A-NEW-ONE", "nvidia.com/gpu.compute.major": "12"}, "A-NEW-ONE", 0, True),
    ],
)  # fmt: skip
def test_a_gpu_by_the_labels_of_its_node(labels: dict[str, str], product: str, memory: float, eight_bits: bool) -> None:
    gpu = models.gpu_of(labels)
    assert gpu is not None
    assert (gpu.product, gpu.eight_bits) == (product, eight_bits)
    assert gpu.memory == pytest.approx(memory, rel=0.01)


def test_a_node_that_says_nothing() -> None:
    assert models.gpu_of({"kubernetes.io/arch": "amd64"}) is None


@pytest.mark.parametrize(
    ("labels", "driver"),
    [
        ({"nvidia.com/cuda.driver.major": "550"}, 550),
        ({"ack.aliyun.com/nvidia-driver-version": "470.161.03"}, 470),
        ({}, 0),
    ],
)
def test_the_driver_of_a_node(labels: dict[str, str], driver: int) -> None:
    assert models.driver_of(labels) == driver


@pytest.mark.parametrize(
    ("devices", "memory"),
    [
        ({"nvidia.com/gpu": "2"}, 171),
        ({"nvidia.com/mig-1g.10gb": "1"}, 10),
        ({"nvidia.com/mig-3g.40gb": "2"}, 80),
        ({"aliyun.com/gpu-mem": "20"}, 21.5),
        ({"rdma/hca": "1"}, 0),
    ],
)
def test_memory_of_what_is_asked_for(devices: dict[str, str], memory: float) -> None:
    assert models.memory_for(devices, models.gpu_of(H100)) == pytest.approx(memory, rel=0.01)


@pytest.mark.parametrize(
    ("word", "gpus", "gpu"),
    [
        ("8835c31752fbc67ef658b20a9f78e056914fdef0660206d82f252d62fd96064d", 1, ""),
        ("tensorrt_llm-l40s-fp8-tp2-throughput", 2, "l40s"),
        ("tensorrt_llm-fp8-tp1-pp1", 1, ""),
        ("vllm-bf16-tp8-pp2-lora", 16, ""),
    ],
)
def test_a_profile(word: str, gpus: int, gpu: str) -> None:
    profile = models.profile_of(word)
    assert profile is not None
    assert (profile.gpus, profile.gpu) == (gpus, gpu)


def test_an_unknown_profile() -> None:
    assert models.profile_of("a" * 64) is None
    assert models.profile_of("") is None
