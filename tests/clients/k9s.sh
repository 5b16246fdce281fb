# Checks of k9s, on a terminal of tmux: its screen is what a user sees.

kk() { kubectl --kubeconfig "$west" --namespace k9s-checks "$@"; }
terminal() { env -u TMUX tmux -S "$scratch/tmux" "$@"; }
keys() { terminal send-keys -t k9s "$@"; }
screen() { terminal capture-pane -p -t k9s; }
screen_has() { screen | has "$@"; }
shows() { eventually 30 screen_has "$@"; }
# goes_to VIEW: what a user types to open a view.
goes_to() {
    keys -l ":$1"
    shows "> $1"
    keys Enter
}

k9s_starts() {
    kk apply -f "$here/k9s/pods.yaml"
    kk wait pod/clock --for=condition=Ready --timeout=60s
    kk rollout status deployment/web --timeout=60s
    mkdir -p "$scratch/k9s"
    # Its files are not the user's.
    terminal -f /dev/null new-session -d -s k9s -x 180 -y 45 env "XDG_CONFIG_HOME=$scratch/k9s" "XDG_DATA_HOME=$scratch/k9s" \
        "XDG_STATE_HOME=$scratch/k9s" "XDG_CACHE_HOME=$scratch/k9s" "$cache/k9s-$K9S/k9s" --kubeconfig "$west" \
        --namespace k9s-checks --command pods --logoless --splashless --refresh 1
    shows 'ods(k9s-checks)[2]' clock web- Running
}
k9s_opens_views() {
    goes_to deployments
    shows 'eployments(k9s-checks)[1]' 1/1
    goes_to nodes
    shows odes west-us-west-1a
    goes_to virtualservices
    shows 'irtual'
    goes_to 'pods k9s-checks'
    shows 'ods(k9s-checks)[2]'
}
k9s_describes() {
    keys Home
    keys d
    shows 'Describe(k9s-checks/clock)' 'Namespace:'
    keys Escape
    shows 'ods(k9s-checks)[2]'
    keys y
    shows 'apiVersion: v1' 'kind: Pod'
    keys Escape
    shows 'ods(k9s-checks)[2]'
}
k9s_follows_logs() {
    keys Home
    keys l
    shows 'ogs(k9s-checks/clock' tick
    keys Escape
    shows 'ods(k9s-checks)[2]'
}
k9s_follows_changes() {
    kk scale deployment web --replicas=2
    shows 'ods(k9s-checks)[3]'
    kk scale deployment web --replicas=1
    shows 'ods(k9s-checks)[2]'
}
k9s_deletes() {
    keys Home
    keys C-d
    shows 'Delete pods k9s-checks/clock?'
    keys Tab
    keys Enter
    kk wait pod/clock --for=delete --timeout=30s
    shows 'ods(k9s-checks)[1]'
}
k9s_ends() {
    goes_to quit
    eventually 20 k9s_has_ended
    kk delete namespace k9s-checks --timeout=60s
}
k9s_has_ended() { ! terminal has-session -t k9s; }

checks_of_k9s() {
    client k9s "$K9S"
    check 'lists pods' k9s_starts
    check 'opens views of deployments, nodes, custom resources' k9s_opens_views
    check 'describes a pod, shows its YAML' k9s_describes
    check 'follows logs' k9s_follows_logs
    check 'follows changes' k9s_follows_changes
    check 'deletes a pod' k9s_deletes
    check 'ends' k9s_ends
    # Also if a check failed.
    terminal kill-server 2>/dev/null || true
}
