# Checks of Flagger, with the mesh as Istio: a canary without traffic is not promoted, whatever the kubelet's probes do.

flagger_crds() { echo "$(go_module_files github.com/fluxcd/flagger "$FLAGGER")/artifacts/flagger/crd.yaml"; }
kf() { kubectl --kubeconfig "$west" --namespace canary-checks "$@"; }
canary_is() { equal "$(kf get canary shop -o 'jsonpath={.status.phase}')" "$1"; }
events_of_canary() { kf get events --field-selector "involvedObject.kind=Canary" -o 'jsonpath={range .items[*]}{.message}{"\n"}{end}'; }
version_of() { kf get deployment "$1" -o 'jsonpath={.spec.template.spec.containers[0].env[0].value}'; }
# asks EXPRESSION: a query of Prometheus.
asks() {
    kubectl --kubeconfig "$west" -n flagger-checks exec deployment/prometheus -- \
        curl -sS -m 10 --data-urlencode "query=$1" http://127.0.0.1:9090/api/v1/query
}

flagger_starts() {
    kubectl --kubeconfig "$west" apply -f "$(flagger_crds)" | has canaries.flagger.app
    sed "s|PROMETHEUS|$prometheus_program|; s|FLAGGER|$cache/flagger-$FLAGGER/flagger|" "$here/flagger/flagger.yaml" |
        kubectl --kubeconfig "$west" apply -f -
    kubectl --kubeconfig "$west" -n flagger-checks rollout status deployment/prometheus --timeout=60s
    kubectl --kubeconfig "$west" -n flagger-checks rollout status deployment/flagger --timeout=60s
}
flagger_initializes() {
    kf apply -f "$here/flagger/canary.yaml"
    eventually 90 canary_is Initialized
    kf get virtualservices,destinationrules,services -o name | has virtualservice.networking.istio.io/shop service/shop-canary service/shop-primary
    kf rollout status deployment/visitor --timeout=60s
}
prometheus_scrapes() {
    eventually 30 scrapes_sidecars
}
scrapes_sidecars() { asks 'up{job="sidecars"} == 1' | has '"value"'; }

# Probes are requests of HTTP to the pod, once a second. They count nowhere.
probes_do_not_count() {
    sleep 5
    asks 'sum(istio_requests_total{destination_workload=~"shop.*"})' | has '"result":[]'
}
is_not_promoted_without_traffic() {
    kf set env deployment/shop VERSION=v2
    eventually 90 canary_is Failed
    events_of_canary >"$scratch/canary-events"
    contains "$scratch/canary-events" 'no values found for istio metric request-success-rate' 'Rolling back shop.canary-checks'
    equal "$(version_of shop-primary)" v1
    asks 'sum(istio_requests_total{destination_workload=~"shop.*"})' | has '"result":[]'
}
# The metric has values when there are requests: the same analysis then promotes the next version.
is_promoted_with_traffic() {
    kf exec deployment/visitor -c visitor -- sh -c 'while :; do curl -s -o /dev/null -m 2 http://shop-canary/; sleep 0.1; done' >/dev/null 2>&1 &
    local traffic=$!
    kf set env deployment/shop VERSION=v3
    local code=0
    eventually 100 canary_is Succeeded || code=$?
    stop "$traffic"
    events_of_canary
    ((code == 0))
    equal "$(version_of shop-primary)" v3
    # The canary's pods have ended meanwhile.
    asks 'sum(max_over_time(istio_requests_total{reporter="destination", destination_workload="shop", response_code="200"}[5m])) > 20' |
        has '"value"'
}
# The next version answers every second request with 500: the analysis halts, and users return to the version before. If all
# failed, Flagger's query would have no value. It writes few of its Events about one object; its log has all of them.
# A pod of the version before may still end.
canary_fails() {
    kf exec deployment/shop -c shop -- curl -sSf http://127.0.0.1:9080/ | grep -qF '"version": "v4"' &&
        kf exec deployment/shop -c shop -- curl -sSf -X POST 'http://127.0.0.1:9080/fail?percent=50&status=500'
}
is_rolled_back_by_failing_requests() {
    kf set env deployment/shop VERSION=v4
    eventually 60 canary_fails
    kf exec deployment/visitor -c visitor -- sh -c 'while :; do curl -s -o /dev/null -m 2 http://shop-canary/; sleep 0.1; done' >/dev/null 2>&1 &
    local traffic=$! code=0
    eventually 60 canary_is Failed || code=$?
    stop "$traffic"
    kubectl --kubeconfig "$west" -n flagger-checks logs deployment/flagger --since=70s | grep -F shop.canary-checks >"$scratch/flagger.log"
    contains "$scratch/flagger.log" 'advancement success rate' '% < 99%' 'Rolling back shop.canary-checks failed checks threshold reached'
    ((code == 0))
    equal "$(version_of shop-primary)" v3
    asks 'sum(max_over_time(istio_requests_total{reporter="destination", destination_workload="shop", response_code="500"}[5m])) > 20' |
        has '"value"'
    kf exec deployment/visitor -c visitor -- curl -sSf 'http://shop/?[1-50]' >"$scratch/answers"
    equal "$(grep -c '"version": "v3"' "$scratch/answers")" 50
}
flagger_ends() {
    kf delete canary shop --timeout=60s
    kubectl --kubeconfig "$west" delete namespace canary-checks flagger-checks --timeout=90s
    kubectl --kubeconfig "$west" delete -f "$(flagger_crds)" --timeout=60s
}

checks_of_flagger() {
    client flagger "$FLAGGER, Prometheus $("$prometheus_program" --version 2>&1 | sed -n 's/^prometheus, version \([^ ]*\).*/\1/p')"
    check 'Flagger and Prometheus start' flagger_starts
    check 'a canary is initialized' flagger_initializes
    check 'Prometheus scrapes the sidecars' prometheus_scrapes
    check 'probes of the kubelet do not count in istio_requests_total' probes_do_not_count
    check 'a canary without traffic is not promoted' is_not_promoted_without_traffic
    check 'a canary with successful requests is promoted' is_promoted_with_traffic
    check 'a canary with failing requests is rolled back' is_rolled_back_by_failing_requests
    check 'everything is deleted' flagger_ends
}
