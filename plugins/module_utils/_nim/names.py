# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Names that KServe or Kubernetes know, and those that we gave."""

from __future__ import annotations

CONTAINER = "kserve-container"
CACHE_VOLUME = "nim-cache"
SHM_VOLUME = "dshm"
FILES_VOLUME = "nim-files"
CA_VOLUME = "nim-ca"  # the private CA as given
TRUST_VOLUME = "nim-trust"  # the image's CAs and the private one
TRUST_CONTAINER = "nim-trust"
PREFIX = "gpuops.nim/"
FILES_ANNOTATION = PREFIX + "files"
ASIDE_ANNOTATION = PREFIX + "set-aside"  # the labels that were taken from a pod that a rotation is replacing

MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
SCALER_ANNOTATION = "serving.kserve.io/autoscalerClass"
STOP_ANNOTATION = "serving.kserve.io/stop"
READONLY_ANNOTATION = "storage.kserve.io/readonly"
VISIBILITY_LABEL = "networking.kserve.io/visibility"
