# Checks of Envoy's rate-limit service: sidecars ask it over mutual TLS, and as many requests pass as its limits grant.

# redis_program: Debian's Redis without a service: the server is the program that checks its files, under another name.
redis_program=$cache/redis/redis-server
redis_program() {
    debian_program redis-check-rdb redis-tools || return 1
    mkdir -p "${redis_program%/*}"
    ln -sf "$(command -v redis-check-rdb)" "$redis_program"
}

kr() { kubectl --kubeconfig "$west" --namespace ratelimit-checks "$@"; }
# statuses USER COUNT SERVICE: the number of answers with each status, of requests on 16 connections.
statuses() {
    kr exec deployment/visitor -c visitor -- curl -sS -Z --parallel-max 16 --parallel-immediate -m 60 \
        -H "x-user: $1" -o /dev/null -w '%{http_code}\n' "http://$3/?[1-$2]" | sort | uniq -c | awk '{printf "%s%s %s", separator, $2, $1; separator = ", "}'
}
# The limit of one request a day: the second request shows that it is in force.
is_limited() { statuses probe 2 "$1" | has '429 '; }

ratelimit_starts() {
    sed "s|\[REDIS,|[$redis_program,|; s|\[RATELIMIT]|[$cache/ratelimit-$RATELIMIT/service_cmd]|" "$here/ratelimit/ratelimit.yaml" |
        kubectl --kubeconfig "$west" apply -f -
    local name
    for name in ratelimit shop api visitor; do kr rollout status "deployment/$name" --timeout=60s; done
    eventually 30 shop_answers
}
shop_answers() { equal "$(statuses nobody 1 shop)" '200 1'; }
limits_are_accepted() {
    kubectl --kubeconfig "$west" apply -f "$here/ratelimit/limits.yaml" 2>&1 | tee "$scratch/limits"
    lacks "$scratch/limits" Warning
    eventually 30 is_limited shop
    eventually 30 is_limited api
}
filter_is_exact() {
    equal "$(statuses alice 400 shop)" '200 100, 429 300'
    equal "$(statuses bob 150 shop)" '200 100, 429 50'
}
resource_is_exact() { equal "$(statuses alice 200 api)" '200 50, 429 150'; }
answer_is_envoys() {
    kr exec deployment/visitor -c visitor -- curl -sS -i -H 'x-user: probe' http://shop/ | has ' 429 ' 'x-envoy-ratelimited: true'
}
# The filter fails closed, and the resource open.
ratelimit_fails() {
    kr scale deployment ratelimit --replicas=0
    eventually 30 answers_without_service
}
answers_without_service() {
    equal "$(statuses carol 5 shop)" '500 5'
    equal "$(statuses carol 5 api)" '200 5'
}
ratelimit_ends() { kubectl --kubeconfig "$west" delete namespace ratelimit-checks --timeout=90s; }

checks_of_ratelimit() {
    client ratelimit "$RATELIMIT, Redis $("$redis_program" --version | sed -n 's/.*v=\([^ ]*\).*/\1/p')"
    check 'the service starts' ratelimit_starts
    check "Istio's EnvoyFilter and a RateLimit take effect" limits_are_accepted
    check 'the limit of a filter is exact on 16 connections' filter_is_exact
    check 'the limit of a RateLimit is exact on 16 connections' resource_is_exact
    check "the answer is Envoy's" answer_is_envoys
    check 'without the service, limits fail as they say' ratelimit_fails
    check 'everything is deleted' ratelimit_ends
}
