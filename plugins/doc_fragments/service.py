# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class ModuleDocFragment:
    """What one service is: the options of every module that takes services as nim_kserve does."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - Name of the service. The host name that KServe derives from it, C(NAME-predictor-NAMESPACE), may have 63
        characters.
      - Needed for each service.
    type: str
  namespace:
    description: Its namespace.
    type: str
    default: default
  create_namespace:
    description: Make the namespace if it does not exist. One that exists is left as it is.
    type: bool
    default: false
  image:
    description:
      - The NIM image with its tag, for example V(nvcr.io/nim/meta/llama3-8b-instruct:1.0.0). Needed for
        O(gpuops.nim.nim_kserve#module:state=present), but not beside O(model_format).
      - The tag also says which release line's paths and probes apply; without a version in it the newest are taken.
    type: str
  image_pull_policy:
    description: When the image is pulled. Kubernetes decides by the tag if not set.
    type: str
    choices: [Always, IfNotPresent, Never]
  image_pull_secrets:
    description: Pull secrets in the same namespace; M(gpuops.nim.nim_secret) makes the default one.
    type: list
    elements: str
    aliases: [image_pull_secret]
    default: [ngc-secret]
  gpus:
    description:
      - GPUs for each replica. NIM wants exactly as many as its profile says (tensor times pipeline parallelism).
      - V(1) if not set, or V(0) where O(devices), O(gpu_memory) or O(gpu_core) give the GPU.
    type: int
  gpu_resource:
    description: The extended resource that O(gpus) counts, for example V(nvidia.com/mig-1g.10gb) for MIG.
    type: str
    default: nvidia.com/gpu
  gpu_memory:
    description: GiB of a GPU that is shared by Alibaba Cloud's scheduler, C(aliyun.com/gpu-mem).
    type: int
    aliases: [gpumemory]
  gpu_core:
    description: Percent of its compute power, in steps of 5, C(aliyun.com/gpu-core.percentage).
    type: int
    aliases: [gpucore]
  devices:
    description:
      - Other extended resources and how many of each, for example one C(rdma/hca). As request and as limit.
    type: dict
    aliases: [device]
  cpu:
    description:
      - CPU for each replica, as request and as limit. NVIDIA's support matrix names 8 cores as the least.
      - KServe would set 1 CPU for what is left out.
    type: str
    default: "8"
  memory:
    description:
      - Memory for each replica, as request and as limit; O(share_memory) counts inside it.
      - The default is that of NVIDIA's KServe runtimes for 8B models. As a rule 10 GB, plus O(share_memory), plus 2
        GB for
        each billion of parameters. KServe would set 2Gi for what is left out, which no NIM survives.
    type: str
    default: 32Gi
  share_memory:
    description:
      - Size of V(/dev/shm), as NVIDIA's KServe runtimes set it. Needed for several GPUs without NVLink. Empty for
        none.
    type: str
    aliases: [shared_memory]
    default: 16Gi
  port:
    description: The port that NIM listens on. Another than 8000 is passed to NIM as E(NIM_SERVER_PORT), too.
    type: int
    default: 8000
  command:
    description:
      - Runs in place of what the image starts. A text is run by O(shell), as C(sh -c TEXT), a list word by word.
      - NIM's own start is most often better changed by O(env) and O(arguments).
    type: raw
  shell:
    description: The shell of a O(command) that is a text.
    type: str
    default: sh
  arguments:
    description: Arguments for what the image, or O(command), starts.
    type: list
    elements: str
  security_context:
    description:
      - Security context of the pod. NIM runs as user 1000; the default group makes a fresh volume writable for it.
      - An NFS export (Alibaba Cloud NAS) that maps groups away needs C(runAsUser=0) in here, or another owner.
    type: dict
    default: {fsGroup: 1000}
  annotations:
    description: Annotations of the InferenceService. KServe copies them to the pods, so a change restarts the model.
    type: dict
    aliases: [annotation]
  labels:
    description: Labels of the InferenceService. KServe copies them to the pods, so a change restarts the model.
    type: dict
    aliases: [label]
  model_name:
    description: A label C(modelName) with this value, as arena sets it.
    type: str
  model_version:
    description: A label C(modelVersion) with this value, as arena sets it.
    type: str
  env:
    description:
      - Environment variables of NIM. E(NIM_CACHE_PATH) and E(NIM_SERVER_PORT) follow from O(cache) and O(port).
      - Set in the order of their names, after those of O(env_from_secret).
    type: dict
  env_from_secret:
    description:
      - Variables whose values are in a Secret. The value is the Secret's name, if its key is called like the
        variable, or a dictionary with C(secret) and C(key).
    type: dict
    default: {NGC_API_KEY: nvidia-nim-secrets}
  model_profile:
    description:
      - The profile that NIM is to run, its id or its name, as E(NIM_MODEL_PROFILE). C(list-model-profiles) in the image
        shows them. NIM chooses by the GPUs it finds if not set.
    type: str
  repository_override:
    description:
      - A mirror of NGC for the model files, such as V(https://mirror.example.com/), V(s3://bucket/) or
        V(jfrog://host:8443/), as E(NIM_REPOSITORY_OVERRIDE).
      - NIM 1.0 and 1.1 do not know it and would download from NGC all the same, so it is an error with such an image.
    type: str
  pod_proxy:
    description:
      - The way out of the cluster for downloads, as E(HTTP_PROXY), E(HTTPS_PROXY) and E(NO_PROXY) in both cases, for
        programs read one or the other.
      - O(proxy) is the way to the API server, and another thing.
    type: dict
    suboptions:
      http:
        description: The proxy for plain HTTP, for example V(http://proxy.example.com:3128).
        type: str
      https:
        description:
          - The proxy for HTTPS, which is what NGC is asked by.
          - One that wants a password belongs into a Secret as a whole, see O(env_from_secret).
        type: str
      no_proxy:
        description:
          - Names that are reached without it. C(localhost), C(127.0.0.1), C(.svc) and C(.cluster.local) always are.
        type: list
        elements: str
  ca_bundle:
    description:
      - A private CA that NIM is to trust beside those in its image, for a proxy or mirror with certificates of your
        own.
      - A first container of the same image and user, not root, puts both into one file. E(SSL_CERT_FILE),
        E(REQUESTS_CA_BUNDLE) and E(NIM_SDK_USE_NATIVE_TLS) lead NIM there. A changed CA is read when a pod starts.
    type: dict
    suboptions:
      config_map:
        description: The ConfigMap with the certificates, in the service's namespace. This or O(ca_bundle.secret).
        type: str
      secret:
        description: The Secret with the certificates.
        type: str
      key:
        description: The key that holds them, in the PEM form.
        type: str
        default: ca.crt
  cache:
    description:
      - A PersistentVolumeClaim for the model files, so that a restart need not download them again.
      - Mounted writable as an ordinary volume. KServe's own way (C(storageUri)) mounts it read-only, which NIM can't
        use.
    type: dict
    suboptions:
      claim:
        description: Name of the claim. Several services may share one.
        type: str
        required: true
      path:
        description: Where it is mounted; also the value of E(NIM_CACHE_PATH).
        type: str
        default: /mnt/models
      sub_path:
        description: Mount only this folder of the claim, so that several services share it without a word.
        type: str
      size:
        description:
          - With a size the claim is made when it is missing; without, it must exist. One that exists is left as it
            is.
        type: str
      storage_class:
        description: Storage class of a claim that is made; the cluster's default if not set.
        type: str
      access_modes:
        description:
          - Access modes of a claim that is made. Replicas on several nodes need V(ReadWriteMany).
        type: list
        elements: str
        choices: [ReadWriteOnce, ReadWriteMany, ReadWriteOncePod]
        default: [ReadWriteOnce]
  data:
    description:
      - Other claims to mount. They must exist. Each is C(CLAIM:/PATH), or a dictionary of C(claim), C(path),
        C(sub_path), C(sub_path_expr) (a C(sub_path) with variables in it) and C(read_only).
      - The volume is called like the claim. One claim may stand several times, with different paths.
      - For the model files take O(cache), which also tells NIM about it.
    type: list
    elements: raw
  temp_dirs:
    description:
      - Empty folders that live as long as the pod. Each is C(NAME:/PATH), or a dictionary of C(name), C(path), C(size)
        and C(medium) (C(Memory), or the node's disk if not set).
    type: list
    elements: raw
    aliases: [temp_dir]
  config_files:
    description:
      - Files for the container, each a dictionary of C(path) (there) and C(content). They are kept in a ConfigMap
        called C(NAME-files), which goes when none is given any more.
      - A new content starts new pods, and nothing else does.
      - arena's C(--config-file) never makes the ConfigMap that it mounts, so its pods wait for ever.
    type: list
    elements: raw
    aliases: [config_file]
  min_replicas:
    description: The least number of replicas, and the number with O(autoscaler_class=none).
    type: int
    aliases: [replicas]
    default: 1
  max_replicas:
    description: The greatest number of replicas, for the autoscalers.
    type: int
  scale_metric:
    description:
      - What the number of replicas follows. V(cpu) and V(memory) are left to KServe's own HorizontalPodAutoscaler,
        which says little about a GPU. Any other name is a metric of the pods, such as V(num_requests_waiting), for a
        HorizontalPodAutoscaler C(NAME-hpa) of ours.
      - The cluster needs an adapter that serves that metric, such as prometheus-adapter.
    type: str
  scale_target:
    description:
      - How much of O(scale_metric) a replica should have on the average. For V(cpu) and V(memory) percent of the
        request.
    type: float
  autoscaling:
    description:
      - For several metrics, or a pace of their own. A HorizontalPodAutoscaler C(NAME-hpa) of ours then decides between
        O(min_replicas) and O(max_replicas). A O(scale_metric) that is not V(cpu) or V(memory) is its first metric.
    type: dict
    suboptions:
      metrics:
        description: Metrics in the form of C(autoscaling/v2).
        type: list
        elements: dict
      behavior:
        description: How fast it goes up and down, in the form of C(autoscaling/v2).
        type: dict
  autoscaler_class:
    description:
      - Who decides the number of replicas. V(none) keeps O(min_replicas), V(hpa) is KServe's own
        HorizontalPodAutoscaler, V(external) leaves it to another one, V(keda) to a ScaledObject of yours.
      - If not set, V(external) with O(autoscaling) or a metric of the pods in O(scale_metric), V(hpa) with another
        O(scale_metric), else V(none).
    type: str
    choices: [none, hpa, external, keda]
  timeout:
    description:
      - Seconds that a request may take, C(predictor.timeout). Only a Gateway API route has such a limit (60 if not
        set); an Ingress has those of its controller.
    type: int
  model_format:
    description:
      - C(NAME) or C(NAME:VERSION) of a model format, for a serving runtime in the cluster, such as those that NVIDIA
        publishes for NIM. NIM's container then is the runtime's, and what the options here say is laid over it.
      - Arguments of both are joined, variables and mounts merged by name. O(port) must be the runtime's.
    type: str
  runtime:
    description: The serving runtime; KServe looks for one by O(model_format) if not set.
    type: str
  runtime_version:
    description: The image tag in place of the runtime's.
    type: str
  storage_uri:
    description:
      - Where KServe takes model files from, mounted at C(/mnt/models), for example V(pvc://nim-model/).
      - A claim is made writable for NIM by the annotation C(storage.kserve.io/readonly).
      - Without it KServe adds a container of its own to the pod, C(agent), whose image the nodes must be able to pull.
    type: str
  protocol_version:
    description: The protocol that the runtime must speak.
    type: str
  enable_prometheus:
    description:
      - Make what O(monitor) says for the metrics of NIM, at the path of its release line. KServe's own annotation for
        this names a port that only Knative has.
      - A cluster without the Prometheus operator gets no monitor, but a warning.
      - If this is turned off again, it is removed.
    type: bool
    default: false
  metrics_port:
    description: The port of the metrics; O(port) if not set.
    type: int
  monitor:
    description:
      - V(service) makes a Service C(NAME-metric-svc) and a ServiceMonitor C(NAME-svcmonitor), as arena calls them,
        V(pod) a PodMonitor C(NAME-podmonitor) alone.
    type: str
    choices: [service, pod]
    default: service
  monitor_labels:
    description:
      - Labels of the monitor, by which a Prometheus chooses. That of kube-prometheus-stack wants C(release) with the
        name of its Helm release.
    type: dict
  update_strategy:
    description:
      - V(in_place) ends an old pod first, so that the new one gets its GPU, with a gap while the model loads.
        V(surge) starts the new one first, without a gap, and needs a free GPU for it.
      - V(auto) takes V(surge) if a node has room for a second pod at the moment of the change, with selectors, taints
        and the access mode of the claims applied, and the quotas of its namespace have room for it, too; else
        V(in_place). It needs the right to list nodes and pods of the cluster, without it the answer is V(in_place).
        Quotas that may not be listed are passed over. An unchanged service keeps its strategy.
    type: str
    choices: [auto, in_place, surge]
    default: auto
  startup_timeout:
    description:
      - Seconds in which a container must have downloaded and loaded its model before Kubernetes restarts it.
      - By release line if not set; so far 1800 for all, as in NVIDIA's nim-llm chart (180 probes, 10 seconds apart).
    type: int
  termination_grace_period:
    description:
      - Seconds in which a pod that is to end may answer what it has begun. By release line if not set; so far 60 for
        all, as in NVIDIA's nim-llm chart.
    type: int
  pre_stop_sleep:
    description:
      - Seconds that a pod which is to end goes on answering before it is told to. Ingress controllers and load
        balancers hear of its end no sooner than the pod itself does, and send it requests until then, which would fail.
        It is part of O(termination_grace_period) and can't be more. V(0) leaves it out, which Kubernetes older than
        1.30 needs.
      - If not set, 5, or O(termination_grace_period) if that is less. An Envoy behind Contour was seen to take up to
        a second, and load balancers in the cloud take several.
    type: int
  node_selector:
    description: Labels that the node must have, for example C(nvidia.com/gpu.product).
    type: dict
    aliases: [selector]
  tolerations:
    description:
      - Taints that the pod tolerates, each a dictionary as in a pod, or arena's short form, V(all) or
        C(KEY=VALUE:EFFECT,OPERATOR).
    type: list
    elements: raw
    aliases: [toleration]
  affinity:
    description: The pod's affinity, as in a pod.
    type: dict
  affinity_policy:
    description: V(spread) puts the replicas on different nodes, V(binpack) on the same one.
    type: str
    choices: [none, spread, binpack]
    default: none
  affinity_constraint:
    description: Whether O(affinity_policy) is a wish or a must.
    type: str
    choices: [preferred, required]
    default: preferred
  topology_spread_constraints:
    description:
      - How replicas are spread over zones or nodes, as in a pod. C(maxSkew) is 1, C(whenUnsatisfiable) ScheduleAnyway
        and C(labelSelector) this service's pods where left out.
    type: list
    elements: dict
  service_account_name:
    description: The pod's service account.
    type: str
  priority_class_name:
    description: The pod's priority class.
    type: str
  runtime_class_name:
    description: The pod's runtime class, for example V(nvidia) where that is not the nodes' default.
    type: str
  scheduler_name:
    description: The scheduler that places the pod.
    type: str
  deployment_mode:
    description:
      - KServe's word for the mode without Knative. V(auto) keeps that of a live service and else asks KServe's
        ConfigMap
        in O(kserve_namespace) and, where that is in doubt, the version of its controller.
    type: str
    choices: [auto, Standard, RawDeployment]
    default: auto
  pod_patch:
    description:
      - Laid over the predictor's pod at the very end, for fields that have no option of their own.
      - Has the form of a pod's C(spec), and the rules of a strategic merge patch. Containers, volumes and variables
        are merged by name, ports by C(containerPort), mounts by C(mountPath). V(null) removes a field,
        C($patch=delete) an item. Of probes and C(lifecycle) another handler takes the place of ours.
      - NIM's container is called C(kserve-container).
    type: dict
  endpoint_host:
    description:
      - A DNS name of your own for the service, such as V(llama.example.com), beside the one that KServe makes.
      - An Ingress called C(NAME-endpoint) serves it, of the class that KServe's ConfigMap in O(kserve_namespace) names.
        It goes when this is no longer given.
      - KServe's own host stays reachable by plain HTTP. The label
        C(networking.kserve.io/visibility=cluster-local) in O(labels) takes it away, from the first deployment on. A
        label that comes later leaves the Ingress that KServe has made; a warning then says how to remove it.
    type: str
  tls_secret:
    description:
      - Serve O(endpoint_host) by HTTPS, with the certificate and key of this Secret of the type C(kubernetes.io/tls)
        in the service's namespace. It must exist. Plain HTTP is then sent on to HTTPS, by Contour and nginx at least.
      - TLS is no login. Everyone who reaches the ingress may still ask.
    type: str
  ingress_address:
    description:
      - Where the ingress is reached, as C(host:port) or URL, for the result alone.
      - Without a scheme, that of the service's URL. With O(tls_secret) the port is the one for HTTPS, for example
        V(https://127.0.0.1:18443).
      - Taken from the status of the service's Ingress, or of the Gateway of its HTTPRoute, if not set.
    type: str
  adopt:
    description:
      - Take over, stop or remove objects of these names that somebody else made, by hand, with C(kubectl) or arena.
      - What they had set and these options don't say goes, in the same change, so the pods restart once at most. What
        controllers hold (finalizers, owners) stays. The diff lists the fields that others held.
      - What arena keeps beside a service (its ConfigMap C(NAME-kserve), an autoscaler, metrics objects) goes too, as
        far as it isn't wanted here.
    type: bool
    default: false
  keep_cache:
    description:
      - Leave the cache claim when O(gpuops.nim.nim_kserve#module:state=absent). Otherwise a claim that this module made
        goes too, unless another service uses it.
    type: bool
    default: true
  version:
    description: Only says what to use instead, as it has no effect in arena either. That is the tag of O(image).
    type: str
  data_dir:
    description: Only says what to use instead, as it has no effect in arena either. That is O(cache) or O(data).
    type: list
    elements: raw
  data_subpath_expr:
    description:
      - Only says what to use instead, as it has no effect in arena either. That is C(sub_path_expr) in O(data).
    type: list
    elements: raw
  temp_dir_subpath_expr:
    description: Only says that it has no use, as it has no effect in arena either.
    type: list
    elements: raw
  enable_istio:
    description:
      - Only says that it has no use, as it has no effect in arena either. Istio belongs to the cluster's KServe.
    type: bool
  expose_service:
    description: Only says what to use instead, as it has no effect in arena either. That is O(endpoint_host).
    type: bool
  container_concurrency:
    description: Only says what to use instead, as it needs Knative. That is O(scale_metric).
    type: int
  canary_traffic_percent:
    description: Only says what to use instead, as it needs Knative. That is a second service.
    type: int
"""
