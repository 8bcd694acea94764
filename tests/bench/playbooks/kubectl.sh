#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# kubectl.sh FOLDER: applies what is in FOLDER, waits, and asks each service. Needs KUBECTL, NAMESPACE, ADDRESS, PATIENCE.
set -e
$KUBECTL apply -f "$1/manifests.yaml"
$KUBECTL wait --for=condition=Ready --timeout="${PATIENCE}s" --namespace "$NAMESPACE" inferenceservice --all
echo "{\"task\": \"Wait\", \"ended\": $(date +%s.%N), \"changed\": false, \"failed\": false, \"msg\": \"\"}"
while read -r host; do
    curl --silent --show-error --fail --retry 5 --retry-all-errors --retry-delay 1 "http://$ADDRESS/v1/chat/completions" \
        -H "Host: $host" -H 'Content-Type: application/json' -d "@$1/question.json"
    echo
done < "$1/hosts"
