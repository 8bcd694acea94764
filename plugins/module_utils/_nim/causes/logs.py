# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What NIM's own log, or that of the engine in it, says of why it ended. The narrow cases come first."""

from __future__ import annotations

from .model import Case
from .pull import BLOCKED, BLOCKED_REMEDY, BUSY, ENTITLEMENT, ENTITLEMENT_REMEDY, KEY, RIGHT_REMEDY

_MAP = (
    'Exception: Error {{ context: "fetching file map with bearer token", source: "HTTP status client error ({}) for '
    'url (https://api.ngc.nvidia.com/v2/org/nim)" }}'
)
_SENDING = "error sending request for url (https://api.ngc.nvidia.com/v2/org/nim/team/meta/models/x/files)"

# A node that has the image already never asks the registry for it, so the key fails here first.
DOWNLOAD = (
    Case(
        "key-missing",
        r"requires an api key, but none was found",
        "NIM has no key: NGC_API_KEY is missing or empty in the container.",
        "write the secret with nim_secret, and let env_from_secret name it",
        "The requested operation requires an API key, but none was found",
    ),
    Case(
        "key-malformed",
        r"invalidheadervalue",
        "the key in the container holds a line break or another character that no key has.",
        "write it again with nim_secret, which strips it",
        'Error { context: "fetching file map with bearer token" ... InvalidHeaderValue }',
    ),
    Case(
        "hf-token",
        r"\b40[13]\b.{0,80}huggingface\.co|gated ?repo|access to model .{0,120} is restricted",
        "Hugging Face refuses the model: HF_TOKEN is missing, wrong, or has no right to it.",
        (
            "accept the model's terms on its page at Hugging Face, and give a token of that account: "
            "env_from_secret: {{HF_TOKEN: {{secret: SECRET, key: HF_TOKEN}}}}"
        ),
        "401 Client Error: Unauthorized for url: https://huggingface.co/meta-llama/x/resolve/main/config.json",
    ),
    Case(
        "terms",
        r"(must|need to|have to|please|not yet|not) accept(ed)? .{0,40}(terms|licen[cs]e|eula)"
        r"|(terms|licen[cs]e|eula).{0,40}not (yet |been )*accepted",
        "the model's terms have not been accepted.",
        "press Accept Terms on the model's page in the NGC catalog, as a member of the key's organisation",
        "You must accept the license terms of this model before you can use it",
        confidence="likely",
    ),
    Case(
        "blocked",
        r"\b451\b.{0,3}unavailable for legal|unavailable for legal reasons",
        BLOCKED,
        BLOCKED_REMEDY,
        _MAP.format("451 Unavailable For Legal Reasons"),
    ),
    Case(
        "entitlement",
        r"\b402\b.{0,3}payment required|payment required",
        ENTITLEMENT,
        ENTITLEMENT_REMEDY,
        _MAP.format("402 Payment Required"),
    ),
    Case(
        "key",
        r"\b401\b.{0,3}unauthorized|(status|code|error)\W{0,4}401\b",
        "NGC refuses the key when NIM downloads the model: it is wrong, expired or revoked (401).",
        KEY,
        _MAP.format("401 Unauthorized"),
        confidence="likely",
    ),
    Case(
        "right",
        r"\b403\b.{0,3}forbidden|(status|code|error)\W{0,4}403\b",
        "the key is known to NGC, but has no right to the model's files (403).",
        RIGHT_REMEDY,
        _MAP.format("403 Forbidden"),
        confidence="likely",
    ),
    Case(
        "busy",
        r"\b429\b.{0,3}too many requests|\b50[0-4]\b.{0,3}(internal|bad gateway|service unavailable|gateway)",
        "NGC is busy or has trouble of its own, so NIM can't download the model.",
        BUSY,
        _MAP.format("503 Service Unavailable"),
        heals=True,
    ),
    Case(
        "proxy",
        r"tunnel error|unsuccessful tunnel|\b407\b.{0,3}proxy|proxy authentication required|proxyconnect|proxyerror",
        "NIM's proxy does not let it reach NGC.",
        "set HTTPS_PROXY, HTTP_PROXY and NO_PROXY in env, in capitals and in small letters, with user and password",
        _SENDING + ": client error (Connect): tunnel error: unsuccessful",
    ),
    Case(
        "certificate",
        (
            r"unknownissuer|invalid peer certificate|certificate_verify_failed|certificate verify failed"
            r"|self.signed certificate|unable to get local issuer certificate|x509: "
        ),
        "NIM does not trust the certificate that it is shown for NGC, likely that of a company's proxy.",
        "set ca_bundle to a ConfigMap or Secret with the company's CA",
        _SENDING + ": invalid peer certificate: UnknownIssuer",
    ),
    Case(
        "dns",
        (
            r"dns error|failed to lookup address|temporary failure in name resolution|name or service not known"
            r"|no such host|could not resolve host"
        ),
        "NIM can't find NGC's address: DNS in the pod does not know the name or does not answer.",
        (
            "check CoreDNS (kubectl -n kube-system get pods -l k8s-app=kube-dns) and network policies; without a way "
            "out fill the cache elsewhere and take NGC_API_KEY away"
        ),
        _SENDING + ": client error (Connect): dns error: failed to lookup address information",
        heals=True,
    ),
    Case(
        "network",
        (
            r"error sending request for url|max retries exceeded|connection (refused|reset|timed out|aborted)"
            r".{0,200}ngc\.nvidia\.com|ngc\.nvidia\.com.{0,200}(timed out|timeout|connection|unreachable)"
        ),
        "NIM can't reach NGC from inside the pod.",
        (
            "check the pod's way out: proxy (HTTPS_PROXY and NO_PROXY in env), network policy, firewall; without a way "
            "out fill the cache elsewhere and take NGC_API_KEY away"
        ),
        _SENDING,
        heals=True,
    ),
)

DISK = (
    Case(
        "share-memory",
        (
            r"/dev/shm\S*.{0,60}no space left|shared memory segment|\bbus error|\bsigbus\b"
            r"|object store is using /tmp instead of /dev/shm"
        ),
        "/dev/shm is too small.",
        "set share_memory higher, and memory with it",
        (
            "NCCL WARN Error while creating shared memory segment /dev/shm/nccl-x (size 9637888), error: No space left "
            "on device (28)"
        ),
    ),
    Case(
        "cache-full",
        r"no space left on device|os error 28\b|errno 28\b|disk quota exceeded",
        "the cache volume is full.",
        "enlarge the claim, or remove models that are no longer used from it",
        "No space left on device (os error 28)",
    ),
    Case(
        "p2p-cache",
        r"gpu_p2p_access_cache",
        "NIM can't write the file in which it keeps how the GPUs reach each other: the cache is read-only.",
        "let it write to the cache once, or put the file there that its log names when you fill the cache",
        "OSError: [Errno 30] Read-only file system: '/mnt/models/vllm/vllm/gpu_p2p_access_cache_for_0,1.json'",
    ),
    Case(
        "cache-read-only",
        r"read-only file system|is read-only|os error 30\b|errno 30\b",
        "the cache is mounted read-only, and the model is not in it yet.",
        (
            "mount the claim through cache, not through storageUri; with storageUri set the annotation "
            'storage.kserve.io/readonly: "false" (KServe 0.14 and newer)'
        ),
        "caches.py /mnt/models/cache is read-only, application may fail if model is not already present in cache",
    ),
    Case(
        "cache-not-writable",
        r"unable to write to nim_cache_path|permission denied|errno 13\b|os error 13\b|manifestdownloaderror",
        "NIM may not write to the cache volume.",
        "set security_context.fsGroup; on NFS (Alibaba Cloud NAS) runAsUser must be the owner of the directory",
        "ManifestDownloadError: Permission denied (os error 13)",
    ),
    Case(
        "cache-incomplete",
        (
            r"repo file list has not been validated|errors? fetching files|does not appear to have a file named"
            r"|snapshots/\S+.{0,80}(no such file|not found)"
        ),
        "the cache does not hold all of the model, and NIM can't load what is missing.",
        (
            "give it a key and a cache that it may write; a cache that was copied must keep its symbolic links "
            "(cp -a, tar), which object stores do not"
        ),
        'Errors fetching files: issue a download request for file: "x"; the repo file list has not been validated',
        confidence="likely",
    ),
)

GPU = (
    Case(
        "driver-mismatch",
        r"driver/library version mismatch",
        "the node's NVIDIA driver was updated, but the old one is still loaded.",
        "restart the node (drain it first), or unload and load the driver's kernel modules",
        "Failed to initialize NVML: Driver/library version mismatch",
    ),
    Case(
        "driver",
        (
            r"built for nvidia driver release|compatibility mode is unavailable|cuda driver version is insufficient"
            r"|\berror:? 80[34]\b|unsupported display driver|forward compatibility was attempted"
            r"|nvidia driver on your system is too old|\bcuda.{0,40}requires .{0,20}driver"
        ),
        "the node's NVIDIA driver is too old for this image.",
        "update the driver (NIM 1.3 and newer: 560, on data-center GPUs 535.86 or 550.54 do), or use an older tag",
        (
            "ERROR: This container was built for NVIDIA Driver Release 560.28 or later, but version 525.60 was "
            "detected and compatibility mode is UNAVAILABLE."
        ),
    ),
    Case(
        "fabric",
        r"\berror:? 802\b|system not yet initialized|systemnotready|fabric ?manager|\bnvswitch",
        "the node's NVLink switches are not set up.",
        "start the fabric manager on the node, in the driver's version: systemctl status nvidia-fabricmanager",
        "RuntimeError: CUDA error 802: system not yet initialized (is nvidia-fabricmanager running?)",
    ),
    Case(
        "gpu-runtime",
        (
            r"failed to initialize nvml|libcuda\.so|libnvidia-ml\.so|no cuda-capable device|driver not loaded"
            r"|no nvidia driver|nvidia driver was not detected|nvidia-container-cli|unresolvable cdi devices"
            r"|(?<!non-)free gpus:\s*<none>[\s-]*non-free gpus:?\s*<none>|no cuda gpus are available"
        ),
        "the container sees no GPU: the node's container runtime does not hand it in.",
        (
            "set up the NVIDIA container toolkit on the node (nvidia-ctk runtime configure), as the default runtime or "
            "by runtimeClassName, and check the driver: nvidia-smi"
        ),
        "Failed to initialize NVML: Unknown Error",
    ),
    Case(
        "gpu-busy",
        r"(?<!non-)free gpus:\s*<none>",
        "the GPU that the pod got is used by something else.",
        (
            "find what else runs on it (nvidia-smi on the node): a process outside Kubernetes, or GPU sharing "
            "(time slicing, aliyun.com/gpu-mem), which NIM can't use"
        ),
        "SYSTEM INFO - Free GPUs: <None> - Non-free GPUs: - [2236:10de] (0) NVIDIA A10 [current utilization: 85%]",
    ),
    Case(
        "gpu-too-old",
        r"no kernel image is available|compute capability of at least|bfloat16 is only supported",
        "the GPU is too old for this model's engine.",
        "take a GPU of compute capability 8.0 or newer (Ampere), or a profile of precision fp16",
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0",
    ),
    Case(
        "gpu-fault",
        r"\bxid\b|illegal memory access|uncorrectable ecc|fallen off the bus|unspecified launch failure",
        "a GPU of the node is faulty, or the driver lost it.",
        (
            "look into the node's kernel log (dmesg | grep -i xid), keep pods away from it: kubectl cordon "
            "{node}, then "
            "reset the GPU or restart the node"
        ),
        "CUDA error: an illegal memory access was encountered",
        confidence="likely",
    ),
    Case(
        "gpu-count",
        r"world size .{0,40}(larger|greater) than .{0,40}gpus|(requires|needs) \d+ gpus|tensor.parallel.{0,60}exceeds",
        "the profile wants another number of GPUs than the pod has.",
        "set gpus to what the profile needs (tp times pp), or unset NIM_MODEL_PROFILE and NIM_TENSOR_PARALLEL_SIZE",
        "ValueError: World size (2) is larger than the number of available GPUs (1) in this node",
    ),
    Case(
        "model-length",
        r"max_model_len.{0,40}(greater|larger) than the (derived|maximum)",
        "NIM_MAX_MODEL_LEN is more than the model can do.",
        "set NIM_MAX_MODEL_LEN in env to what the message names, or take it away",
        "ValueError: User-specified max_model_len (131072) is greater than the derived max_model_len (8192)",
    ),
    Case(
        "kv-cache",
        (
            r"larger than the maximum number of tokens|no available memory for the cache blocks"
            r"|kv cache is needed, which is larger|is larger than the available kv cache"
        ),
        "the GPU's memory holds the model, but not the cache for a context of this length.",
        (
            "set NIM_MAX_MODEL_LEN lower in env (or NIM_KVCACHE_PERCENT higher), take more gpus, or a profile of "
            "precision fp8"
        ),
        (
            "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be "
            "stored in KV cache (68512)"
        ),
    ),
    Case(
        "gpu-memory",
        r"out ?of ?memory|cudaerrormemoryallocation|cublas_status_alloc_failed",
        "the GPU has too little memory for the model.",
        (
            "take a larger GPU or more gpus, a profile of precision fp8, or a lower NIM_MAX_MODEL_LEN; see what "
            "else is on it"
        ),
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB",
    ),
    Case(
        "nccl",
        r"nccl (warn|error)|nccl(system|unhandledcuda|internal|remote)error",
        "the GPUs of the pod can't talk to each other (NCCL).",
        "look at the message; NCCL_DEBUG: INFO in env tells more, NCCL_P2P_DISABLE: 1 goes round faulty direct paths",
        "torch.distributed.DistBackendError: NCCL error: unhandled system error",
        confidence="likely",
    ),
    Case(
        "lora-profile",
        None,
        "the image has no profile for adapters (LoRA) that fits the node's GPUs, and NIM_PEFT_SOURCE asks for one.",
        "take NIM_PEFT_SOURCE out of env, or a GPU for which the image has a profile with -lora in its name",
        "Could not match a profile in manifest, with NIM_PEFT_SOURCE set",
    ),
    Case(
        "profile",
        (
            r"could not find a profile that is currently runnable|could not match a profile in manifest"
            r"|unknown profiles? provided|no (compatible|runnable|matching) profiles?|invalid profile"
        ),
        "no profile of this model fits the node's GPUs.",
        "take another GPU or number of gpus, end what else uses the GPU, or unset NIM_MODEL_PROFILE",
        "Could not find a profile that is currently runnable with the detected hardware.",
    ),
)

PROGRAM = (
    Case(
        "architecture",
        r"exec format error",
        "the image is built for another processor than the node's.",
        (
            "use an image with a build for it, or a node of another architecture through node_selector "
            "(kubernetes.io/arch)"
        ),
        "exec /opt/nim/start-server.sh: exec format error",
    ),
    Case(
        "port",
        r"address already in use|errno 98\b|bind\(\) to .{0,60}failed",
        "a port that NIM wants is taken.",
        (
            "take hostNetwork out of pod_patch, or set NIM_SERVER_PORT to a free one, and port with it (NIM 2.x also "
            "uses 8001)"
        ),
        "[Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use",
    ),
    Case(
        "host-memory",
        r"\bmemoryerror\b|cannot allocate memory|errno 12\b|bad_alloc",
        "the container's memory is too small for the model.",
        "set memory higher; as a rule 10 GB, plus share_memory, plus 2 GB for each billion of the model's parameters",
        "OSError: [Errno 12] Cannot allocate memory",
        confidence="likely",
    ),
    Case(
        "arguments",
        r"unrecognized arguments|error: argument |invalid choice: |no such option",
        "the server does not know an argument that it was given.",
        "check args, and NIM_PASSTHROUGH_ARGS in env, against this release of the image",
        "start_server: error: unrecognized arguments: --max-loras-gpu 8",
    ),
    Case(
        "command",
        r"executable file not found|exec: .{0,120}(no such file or directory|permission denied)",
        "the command that the container is told to run is not in the image.",
        "take command out of pod_patch, or write it as the image has it",
        'unable to start container process: exec: "nim-serve": executable file not found in $PATH: unknown',
    ),
)

CASES = (*PROGRAM[-1:], *PROGRAM[:1], *DOWNLOAD, *DISK, *GPU, *PROGRAM[1:-1])
