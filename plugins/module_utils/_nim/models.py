# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What models need and what GPUs have, as far as NVIDIA has published it. GB are 10^9 bytes, as in its tables.

NVIDIA's Metadata API would tell it for each profile of newer images; it is not asked yet, and does not know the older
ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from . import contract

GB = 10**9


@dataclass(frozen=True)
class Model:
    """``billions``: of parameters; ``least`` and ``half``: GB of weights in the smallest known form and in 16 bits;
    ``gpus``: numbers of GPUs that have been seen to work, empty if not known; ``sure``: false where all of it was
    read from the name.
    """

    name: str
    billions: float
    least: float
    half: float
    gpus: tuple[int, ...] = ()
    sure: bool = True

    @property
    def disk(self) -> float:
        """GB that the cache should have: weights, and engines or other profiles beside them. 4 GB per billion."""
        return 4 * self.billions


# id: billions, GB with 8 bits, GB with 16 bits, GPUs in the published examples.
# Sources: the support matrices of 24.05 (llama3-8b: 8.5 and 16 GB) and 1.1 (llama-3.1-8b: 9.76 and 15.04 GB),
# NVIDIA/nim-deploy kserve/nim-models for the numbers of GPUs; 1 and 2 GB per billion parameters where no size is named.
_TABLE: Mapping[str, tuple[float, float, float, tuple[int, ...]]] = {
    "meta/llama3-8b-instruct": (8, 8.5, 16, (1, 2)),
    "meta/llama-3.1-8b-instruct": (8, 9.8, 15, (1, 2)),
    "meta/llama-3.1-8b-base": (8, 9.8, 15, (1, 2)),
    "meta/llama3-70b-instruct": (70, 70, 140, (2, 4)),
    "meta/llama-3.1-70b-instruct": (70, 70, 140, (2, 4, 8)),
    "meta/llama-3.3-70b-instruct": (70, 70, 140, ()),
    "meta/llama-3.1-405b-instruct": (405, 405, 810, (8, 16)),
    "mistralai/mistral-7b-instruct-v0.3": (7.2, 7.5, 14.5, (1, 2)),
    "mistralai/mistral-7b-instruct-v03": (7.2, 7.5, 14.5, (1, 2)),
    "mistralai/mixtral-8x7b-instruct-v01": (46.7, 47, 94, (2, 4)),
    "mistralai/mixtral-8x22b-instruct-v01": (141, 141, 282, (8,)),
}
_SIZE = re.compile(r"(?:^|[-_])(?:(\d+)x)?(\d+(?:\.\d+)?)b(?=$|[-_.])")
_EXPERTS = re.compile(r"[-_]\d+e(?=$|[-_])")  # 17b-128e: the size of one expert among many
_BYTES_AT_LEAST, _BYTES_OF_HALF = 0.5, 2  # for each parameter; 4 bits are the smallest in use


def model_of(image: str) -> Model | None:
    """What is known of the model in an image: from the table, else judged by its name; ``None`` if neither tells."""
    name = contract.model_of(image)
    if name in _TABLE:
        billions, least, half, gpus = _TABLE[name]
        return Model(name, billions, least, half, gpus)
    match = _SIZE.search(name.rpartition("/")[2])
    if not match or _EXPERTS.search(name):
        return None
    billions = float(match[2]) * (float(match[1]) * 0.83 if match[1] else 1)  # experts share what is not theirs
    return Model(name, billions, billions * _BYTES_AT_LEAST, billions * _BYTES_OF_HALF, sure=False)


@dataclass(frozen=True)
class Profile:
    """``gpu``: of which the profile was made, a part of its product's name; empty for any."""

    name: str
    gpus: int
    gpu: str = ""

    def fits(self, gpu: Gpu) -> bool:
        """Whether it was made for such a GPU: an A10 is no A10G."""
        return self.gpu in re.split(r"[-_ ]", gpu.product.lower())


# Those of llama3-8b-instruct 1.0, as `list-model-profiles` shows them.
_PROFILES: Mapping[str, Profile] = {
    "8835c31752fbc67ef658b20a9f78e056914fdef0660206d82f252d62fd96064d": Profile("vllm-fp16-tp1", 1),
    "19031a45cf096b683c4d66fff2a072c0e164a24f19728a58771ebfc4c9ade44f": Profile("vllm-fp16-tp2", 2),
}
_READABLE = re.compile(r"tp(\d+)(?:-pp(\d+))?")
_MADE_FOR = re.compile(r"^tensorrt_llm-([a-z0-9]+)-")


def profile_of(word: str) -> Profile | None:
    """The profile of that id or readable name, such as ``tensorrt_llm-l40s-fp8-tp1-throughput``; ``None``: unknown."""
    if word in _PROFILES:
        return _PROFILES[word]
    match = _READABLE.search(word)
    if not match:
        return None
    made_for = _MADE_FOR.match(word)
    gpu = made_for[1] if made_for and not re.fullmatch(r"(fp|bf|int)\d+|local|trtllm", made_for[1]) else ""
    return Profile(word, int(match[1]) * int(match[2] or 1), gpu)


@dataclass(frozen=True)
class Gpu:
    """``memory``: GB of one; 0 if not known. ``eight_bits``: whether it computes FP8 (Ada, Hopper and later)."""

    product: str
    memory: float
    eight_bits: bool


# part of the product's name: GB. NVIDIA's data sheets; the longer names first.
_GPUS: tuple[tuple[str, float], ...] = (
    ("GB200", 186), ("B200", 180), ("GH200", 96), ("H200", 141), ("H100-NVL", 94), ("H100", 80), ("H800", 80),
    ("H20", 96), ("A100-SXM4-40GB", 40), ("A100-PCIE-40GB", 40), ("A100", 80), ("A800", 80), ("L40S", 48),
    ("L40", 48), ("L20", 48), ("L4", 24), ("A40", 48), ("A30", 24), ("A10G", 24), ("A10", 24), ("RTX-4090", 24),
    ("V100-SXM2-32GB", 32), ("V100", 16), ("T4", 16), ("P100", 16),
)  # fmt: skip
_EIGHT_BITS = re.compile(r"\b(GB200|B200|GH200|H200|H100|H800|H20|L40S?|L20|L4|RTX-4090|RTX-6000-Ada)\b")
OLDEST_DRIVER = 535  # NIM 1.0; later lines want 560, but on data-center GPUs still take 535 (support matrix of 1.3)
_MIG = re.compile(r"/mig-\d+g\.(\d+)gb")
_SHARE = "aliyun.com/gpu-mem"  # counted in GiB


def gpu_of(labels: Mapping[str, str]) -> Gpu | None:
    """The GPU of a node by its labels: GPU feature discovery's, else those of ACK; ``None`` where neither is there."""
    product = labels.get("nvidia.com/gpu.product") or labels.get("aliyun.accelerator/nvidia_name") or ""
    said = labels.get("nvidia.com/gpu.memory") or labels.get("aliyun.accelerator/nvidia_mem") or ""
    digits = re.match(r"\d+", said)
    if not product and not digits:
        return None
    plain = product.replace(" ", "-")
    known = next((size for part, size in _GPUS if re.search(rf"(?:^|-){re.escape(part)}(?:$|-)", plain)), 0.0)
    memory = int(digits[0]) * 2**20 / GB if digits else known
    major, minor = labels.get("nvidia.com/gpu.compute.major", ""), labels.get("nvidia.com/gpu.compute.minor", "0")
    if major.isdigit() and minor.isdigit():
        eight_bits = (int(major), int(minor)) >= (8, 9)
    else:
        eight_bits = bool(_EIGHT_BITS.search(plain))
    return Gpu(product or "GPU", memory, eight_bits)


def driver_of(labels: Mapping[str, str]) -> int:
    """The driver's branch of a node by the labels that `gpu_of` reads, such as 550; 0 if it is not known."""
    said = labels.get("nvidia.com/cuda.driver.major") or labels.get("ack.aliyun.com/nvidia-driver-version") or ""
    digits = re.match(r"\d+", said)
    return int(digits[0]) if digits else 0


def memory_for(devices: Mapping[str, str], gpu: Gpu | None) -> float:
    """GB of GPU memory that a replica with these extended resources gets on such a GPU; 0 if that is not known."""
    total = 0.0
    for resource, count in devices.items():
        if resource == _SHARE:
            total += int(count) * 2**30 / GB
        elif match := _MIG.search(resource):
            total += int(count) * int(match[1])
        elif resource.startswith("nvidia.com/gpu"):
            total += int(count) * (gpu.memory if gpu else 0)
    return total
