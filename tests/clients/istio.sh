# Checks of Istio's own programs: its control plane, istiod, as a client of a cluster's API server, and istioctl.

istio_programs=$cache/istio-$ISTIO
ki() { kubectl --kubeconfig "$west" --namespace istiod-checks "$@"; }

# --- istiod

istiod_joins() {
    # The account and the secret that Istio's users make: istiod reads more than the account of `isthmus join` may.
    kubectl --kubeconfig "$east" apply -f "$here/istio/reader.yaml" | has 'serviceaccount/istio-reader-service-account'
    "$istio_programs/istioctl" create-remote-secret --kubeconfig "$east" --name east --server https://203.0.113.2:6443 >"$scratch/remote-secret.yaml"
    contains "$scratch/remote-secret.yaml" 'istio/multiCluster: "true"' 'token:'
}

istiod_starts() {
    sed "s|PILOT_DISCOVERY|$istio_programs/pilot-discovery|" "$here/istio/istiod.yaml" | ki apply -f - | has 'deployment.apps/istiod'
    sed 's/namespace: istio-system/namespace: istiod-checks/' "$scratch/remote-secret.yaml" | ki apply -f -
    ki rollout status deployment/istiod --timeout=90s | has 'successfully rolled out'
    equal "$(in_istiod ready -o /dev/null -w '%{http_code}')" 200
}
in_istiod() { ki exec deployment/istiod -- curl -sS -m 20 "http://127.0.0.1:8080/$1" "${@:2}"; }

istiod_is_in_sync() {
    ki logs deployment/istiod --tail=-1 >"$scratch/istiod.log"
    contains "$scratch/istiod.log" 'All caches have been synced up' 'ingressControllerMode: STRICT'
    lacks "$scratch/istiod.log" 'failed to (list|watch|sync)|watch error|timed out'
    # What is not in sync repeats that it waits, every five seconds.
    sleep 6
    ki logs deployment/istiod --since=5s >"$scratch/istiod.log"
    lacks "$scratch/istiod.log" 'waiting for sync|is syncing'
    in_istiod debug/clusterz | has '"id":"west","secretName":"","syncStatus":"synced"' \
        '"id":"east","secretName":"istiod-checks/istio-remote-secret-east","syncStatus":"synced"'
}

istiod_has_the_services() {
    eventually 20 istiod_has_endpoints
    ki apply -n default -f "$here/istio/configuration.yaml" | has created
    eventually 20 istiod_has_configuration
    ki delete -n default -f "$here/istio/configuration.yaml"
}
istiod_has_endpoints() { in_istiod debug/endpointz | has reviews.default.svc.cluster.local Kubernetes/west Kubernetes/east; }
istiod_has_configuration() { in_istiod debug/configz | has istiod-checks-reviews; }

istiod_leads() {
    # Leaders are elected by ConfigMaps and Leases; they write what only leaders write.
    eventually 60 istiod_is_leader
}
istiod_is_leader() {
    ki get configmaps,leases -o yaml | has istio-leader "$(ki get pods -l app=istiod -o 'jsonpath={.items[0].metadata.name}')"
}

# In a lab of its own: a mesh of istiod and Envoy uses a service of a mesh of Isthmus.
istiod_uses_an_export() {
    local envoy
    envoy=$(find "$envoy_directory" -path '*/envoy/_bin/envoy' | head -1)
    "${isthmus%/*}/isthmus-conformance" export --isthmus "$isthmus" --pilot-discovery "$istio_programs/pilot-discovery" --envoy "$envoy" >"$scratch/export" 2>&1 ||
        { tail -5 "$scratch/export"; return 1; }
    contains "$scratch/export" 'ok  the whole service' 'ok  subset v2' 'ok  a server of another identity is refused' 'ok  --check fails'
}

checks_of_istiod() {
    client istiod "$ISTIO"
    check 'remote secret of istioctl create-remote-secret' istiod_joins
    check 'becomes ready, with the default ingress mode' istiod_starts
    check 'every informer is in sync, in both clusters' istiod_is_in_sync
    check 'has the services, endpoints and configuration of the clusters' istiod_has_the_services
    check 'leader election' istiod_leads
    check 'a service that isthmus export gives it' istiod_uses_an_export
}

# --- istioctl

# ends CODES TEXT ARGUMENTS...: an istioctl that ends by itself, with one of the exit codes, and prints the text. It has the
# contexts of both clusters, west first.
ends() {
    local codes=$1 expected=$2 text code=0
    shift 2
    text=$(KUBECONFIG=$west:$east timeout 60 "$istio_programs/istioctl" "$@" 2>&1) || code=$?
    printf '%s\n' "$text" | has "$expected" || return 1
    [[ " $codes " == *" $code "* ]] || { echo "exit code $code, expected one of: $codes"; return 1; }
}

istioctl_analyzes() {
    ends 0 cluster-east analyze -A --remote-contexts east
    # A broken reference is an error, in the exit code as well.
    kubectl --kubeconfig "$west" apply -f "$here/istio/configuration.yaml"
    local code=0
    ends 79 IST0101 analyze --remote-contexts east || code=$?
    kubectl --kubeconfig "$west" delete -f "$here/istio/configuration.yaml"
    return "$code"
}
# Within the clusters' network, by the remote secret of istioctl, as in a mesh of Istio.
istioctl_analyzes_by_secret() {
    local code=0
    ki exec deployment/istiod -- timeout 60 "$istio_programs/istioctl" analyze -A -i istiod-checks >"$scratch/analysis" 2>&1 || code=$?
    contains "$scratch/analysis" cluster-east
    equal "$code" 0
}
istioctl_analyzes_files() { ends 79 IST0101 analyze --use-kube=false "$here/istio/configuration.yaml"; }
istioctl_validates() { ends 0 'is valid' validate -f "$here/istio/configuration.yaml"; }

frontend() { kubectl --kubeconfig "$west" -n default get pods -l app=frontend -o 'jsonpath={.items[0].metadata.name}'; }

# Without istiod there is nothing to report, and istioctl says so.
istioctl_without_istiod() {
    ends '0 1' 'no running Istio pods' version
    ends '1' 'no running Istio pods' proxy-status
}
# Routes to a subset of reviews, which a rule limits, and their use by frontend, so that its sidecar holds them.
istioctl_has_routes() {
    kubectl --kubeconfig "$west" apply -f "$here/istio/routes.yaml"
    eventually 20 uses_routes
}
uses_routes() { in_frontend -sS -o /dev/null -w '%{http_code}' http://reviews:9080/teapot | has 418 && in_frontend -sSf -o /dev/null http://reviews:9080/; }
in_frontend() { kubectl --kubeconfig "$west" -n default exec "$(frontend)" -c frontend -- curl -m 5 "$@"; }
in_sidecar() { kubectl --kubeconfig "$west" -n default exec "$(frontend)" -c isthmus-proxy -- curl -sSf "http://127.0.0.1:15000/$1"; }
readonly REVIEWS=reviews.default.svc.cluster.local

# reads LINE PART ARGUMENTS...: an istioctl that shows a line, whose columns any number of spaces separates.
reads() {
    local line=$1 text
    shift
    text=$(KUBECONFIG=$west timeout 60 "$istio_programs/istioctl" proxy-config "$@" 2>&1) || { printf '%s\n' "$text"; return 1; }
    printf '%s\n' "$text" | sed 's/  */ /g; s/ $//' | tee "$scratch/read" | grep -qxF -- "$line" || { cat "$scratch/read"; echo "no line: $line"; return 1; }
}
# The tables, of a proxy and of a file with its dump.
istioctl_reads_clusters() {
    reads "$REVIEWS 9080 v1 outbound EDS istioctl-checks-reviews.default" clusters "$@"
    reads "$REVIEWS 9080 - outbound EDS istioctl-checks-reviews.default" clusters "$@" --fqdn "$REVIEWS" --port 9080
    reads ' 9080 - inbound ORIGINAL_DST' clusters "$@" --direction inbound
    reads 'PassthroughCluster - - - ORIGINAL_DST' clusters "$@"
}
istioctl_reads_routes() {
    local name=$REVIEWS:9080 domains='reviews, reviews.default'
    reads "$name $name $domains /teapot istioctl-checks-reviews.default" routes "$@"
    reads "$name $name $domains regex /v[0-9]+/.* istioctl-checks-reviews.default" routes "$@" --name "$name"
    reads "$name $name $domains /* istioctl-checks-reviews.default" routes "$@"
}
istioctl_reads_listeners() {
    local address
    address=$(kubectl --kubeconfig "$west" -n default get service reviews -o 'jsonpath={.spec.clusterIP}')
    reads "$address 9080 ALL Route: $REVIEWS:9080" listeners "$@"
    reads '0.0.0.0 15001 ALL PassthroughCluster' listeners "$@"
    reads '0.0.0.0 15006 Addr: *:9080 Cluster: inbound|9080||' listeners "$@" --port 15006
}
istioctl_reads_secret() {
    local text
    text=$("$istio_programs/istioctl" --kubeconfig "$west" proxy-config secret "$@" 2>&1)
    printf '%s\n' "$text" | has ROOTCA 'Cert Chain' ACTIVE true
}
istioctl_reads_endpoints() {
    local pod
    pod=$(kubectl --kubeconfig "$west" -n default get pods -l app=reviews -o 'jsonpath={.items[0].status.podIP}')
    reads "$pod:9080 HEALTHY OK outbound|9080||$REVIEWS" endpoints "$@"
    # Those of east are behind its gateway.
    reads "203.0.113.20:15443 HEALTHY OK outbound|9080||$REVIEWS" endpoints "$@" --cluster "outbound|9080||$REVIEWS" --status healthy
}
# Each of them, in the other formats as well.
istioctl_reads_all() {
    for part in clusters routes listeners secret; do
        "istioctl_reads_$part" "$@"
        for format in json yaml; do
            KUBECONFIG=$west timeout 60 "$istio_programs/istioctl" proxy-config "$part" "$@" -o "$format" >"$scratch/formatted"
            [[ -s $scratch/formatted ]] || { echo "no $format of $part"; return 1; }
        done
    done
}
istioctl_reads_proxies() {
    local pod
    pod=$(frontend)
    istioctl_reads_all "$pod.default"
    istioctl_reads_endpoints "$pod.default"
    for part in bootstrap ecds all; do ends 0 '' proxy-config "$part" "$pod.default"; done
    ends 0 debug proxy-config log "$pod.default" --level debug
    ends 0 '' proxy-config log "$pod.default" --reset
    ends 0 warn proxy-config log "$pod.default"
    ends 0 info proxy-config log "$pod.default" --level info
}
istioctl_reads_files() {
    in_sidecar config_dump >"$scratch/dump.json"
    in_sidecar 'clusters?format=json' >"$scratch/endpoints.json"
    istioctl_reads_all --file "$scratch/dump.json"
    istioctl_reads_endpoints --file "$scratch/endpoints.json"
    kubectl --kubeconfig "$west" delete -f "$here/istio/routes.yaml"
}
istioctl_describes() {
    ends '0 1' 'frontend' experimental describe pod "$(frontend)"
    ends '0 1' 'reviews' experimental describe service reviews
}
istioctl_prechecks() { ends '0 1' 'cluster' experimental precheck; }
istioctl_asks_istiod() {
    ends 0 'control plane version' -i istiod-checks version
    ends 0 'istiod-checks/istio-remote-secret-east' -i istiod-checks remote-clusters
    # Without a certificate authority istiod has no port for it.
    ends 1 'could not get XDS' proxy-status -i istiod-checks
    ends 0 'ACTIVE SCOPE' -i istiod-checks admin log
}

checks_of_istioctl() {
    client istioctl "$ISTIO"
    check 'analyze, of both clusters' istioctl_analyzes
    check 'analyze, of files' istioctl_analyzes_files
    check 'validate' istioctl_validates
    check 'version and proxy-status end without istiod' istioctl_without_istiod
    check 'proxy-config has a proxy to read' istioctl_has_routes
    check 'proxy-config of a pod' istioctl_reads_proxies
    check 'proxy-config of a file' istioctl_reads_files
    check 'describe' istioctl_describes
    check 'precheck' istioctl_prechecks
    # With the istiod of the checks before.
    if ki get deployment istiod >/dev/null 2>&1; then
        check 'analyze, by a remote secret' istioctl_analyzes_by_secret
        check 'version, remote-clusters, proxy-status of istiod' istioctl_asks_istiod
    fi
}
