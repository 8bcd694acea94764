# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
# Sourced by path.sh: what the settings of the role device_plugin come to with NVIDIA's plugin and a card.

# the role with settings, as JSON
role() {
  play tests/gpu/plugin.yml -e "{\"device_plugin_expected\": {\"$node\": $cards}}" -e "$1" > /tmp/role 2>&1
}
trap 'tail -n 20 /tmp/role' ERR

# a pod that asks for a GPU and computes on it: its RuntimeClass, the resource
computes() {
  kubectl delete pod computes --ignore-not-found --now > /dev/null 2>&1
  kubectl apply -f - > /dev/null <<END
apiVersion: v1
kind: Pod
metadata: {name: computes}
spec:
  ${1:+runtimeClassName: $1}
  restartPolicy: Never
  containers:
    - name: main
      image: nvcr.io/nvidia/k8s-device-plugin:v0.20.0
      command: [/usr/bin/python3, /opt/hold/hold.py]
      resources: {limits: {${2:-nvidia.com/gpu}: 1}}
      volumeMounts: [{name: hold, mountPath: /opt/hold}]
  volumes: [{name: hold, configMap: {name: hold}}]
END
  local phase
  for _ in $(seq 120); do
    phase=$(kubectl get pod computes -o 'jsonpath={.status.phase}')
    case $phase in Succeeded | Failed) break ;; esac
    sleep 0.5
  done
  echo "RuntimeClass ${1:-(none)}: $(kubectl logs computes | tail -1)"
  [ "$phase" = Succeeded ]
}

offered() { kubectl get node $node -o 'jsonpath={.status.allocatable}' | grep -o '"nvidia.com[^,}]*' | xargs; }

echo "== how containers get the GPU"
kubectl create configmap hold --from-file=tests/gpu/hold.py --dry-run=client -o yaml | kubectl apply -f - > /dev/null
computes
computes nvidia
for strategy in envvar cdi-cri cdi-annotations; do
  echo "-- $strategy"
  role "{\"device_plugin_device_list_strategy\": [\"$strategy\"]}"
  case $strategy in envvar) fails computes ;; *) computes ;; esac
  computes nvidia
done
echo "== shared by turns"
role '{"device_plugin_time_slicing_replicas": 4}'
offered
computes
. tests/gpu/reload.sh
role '{"device_plugin_time_slicing_replicas": 4, "device_plugin_time_slicing_rename": true}'
offered
computes "" nvidia.com/gpu.shared
echo "== MIG asked for on a card without partitions"
for strategy in single mixed; do
  role "{\"device_plugin_mig_strategy\": \"$strategy\"}"
  offered
done
echo "== a plugin without NVIDIA's runtime, while the node still offers what it did"
offered
fails role '{"device_plugin_runtime_class": "", "device_plugin_wait_timeout": 30}'
grep -m1 -A1 'Not as expected' /tmp/role
echo "== gone, and its labels with it"
role '{}'
role '{"device_plugin_state": "absent"}'
for _ in $(seq 60); do
  left=$(kubectl get nodefeature -n nvidia-device-plugin -o name; kubectl get node $node -o yaml | grep 'nvidia.com/gpu.product') || break
  sleep 1
done
echo "left: ${left:-nothing}"
[ -z "$left" ]
