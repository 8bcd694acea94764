# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
# Sourced by plugin.sh, while pods share the card: three of them compute on it, and systemd reads its units again.
#   cdi      has it by CDI
#   handler  has it by the runtime of the RuntimeClass nvidia, too
#   untold   like cdi, but systemd is made to forget the device: so the toolkit's old hook leaves a container
pods=(cdi handler untold)
scope() { kubectl get pod "$1" -o 'jsonpath={.status.containerStatuses[0].containerID}' | sed 's,containerd://\(.*\),cri-containerd-\1.scope,'; }
said() { kubectl logs "$1" --tail=1; }
allowed() { host systemctl show --property=DeviceAllow --value "$(scope "$1")" | tr '\n' ' '; }

echo "== pods and daemon-reload"
for pod in "${pods[@]}"; do
  kubectl apply -f - > /dev/null <<END
apiVersion: v1
kind: Pod
metadata: {name: $pod}
spec:
  $([ $pod != handler ] || echo 'runtimeClassName: nvidia')
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: nvcr.io/nvidia/k8s-device-plugin:v0.20.0
      command: [/usr/bin/python3, /opt/hold/hold.py, forever]
      resources: {limits: {nvidia.com/gpu: 1}}
      volumeMounts: [{name: hold, mountPath: /opt/hold}]
  volumes: [{name: hold, configMap: {name: hold}}]
END
done
for pod in "${pods[@]}"; do
  kubectl wait --for=condition=Ready "pod/$pod" --timeout=60s > /dev/null
  until said $pod | grep -q 'was right'; do sleep 0.5; done
  echo "$pod: $(said $pod); DeviceAllow=$(allowed $pod)"
done
# the devices of major number 195 are /dev/nvidia0 and /dev/nvidiactl
host "find /run/systemd/transient -path '*$(scope untold)*' -type f -exec sed -i '\\,^DeviceAllow=/dev/char/195:,d' {} +"
echo "-- systemctl daemon-reload"
host systemctl daemon-reload
sleep 2
for pod in "${pods[@]}"; do echo "$pod after it alone: $(said $pod)"; done
# whether systemd sets a scope's rules anew at once depends on its release; a property of them makes it do so
for pod in "${pods[@]}"; do
  host systemctl set-property --runtime "$(scope $pod)" "DeviceAllow='/dev/null rwm'"
done
for pod in cdi handler; do
  before=$(said $pod)
  sleep 2
  echo "$pod: $before before, now $(said $pod)"
  [ "$before" != "$(said $pod)" ]
  echo "$pod: a new process: $(kubectl exec $pod -- python3 /opt/hold/hold.py)"
done
for _ in $(seq 20); do
  ! said untold | grep -q 'Operation not permitted' || break
  sleep 0.5
done
echo "untold: $(said untold)"
said untold | grep -q 'Operation not permitted' || { echo "the control keeps the GPU: this shows nothing"; exit 1; }
kubectl get pods "${pods[@]}"
kubectl delete pod "${pods[@]}" --now > /dev/null 2>&1
