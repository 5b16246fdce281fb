# Checks of kubectl: everyday commands, in a namespace of their own.

k() { kubectl --kubeconfig "$west" --namespace kubectl-checks "$@"; }
field() { k get "$1" -o "jsonpath={$2}"; }
web_is_rolled_out() { k rollout status deployment/web --timeout=60s | has 'successfully rolled out'; }

begin() {
    k create namespace kubectl-checks | has 'namespace/kubectl-checks created'
    k get serviceaccount default
}

versions() {
    k version | has 'Server Version: v1.'
    k cluster-info | has 'Kubernetes control plane' 'is running at'
    k get --raw /readyz | has ok
    k get --raw /livez?verbose | has ok
    k get --raw /version | has gitVersion
}

discovers() {
    k api-resources -o wide | has deployments apps/v1 'create,delete' virtualservices customresourcedefinitions
    k api-resources --namespaced=false -o name | has nodes clusterroles.rbac.authorization.k8s.io
    k api-versions | has v1 apps/v1 networking.istio.io/v1
}

explains() {
    k explain deployment.spec.strategy | has 'KIND:' 'rollingUpdate' 'FIELDS:'
    k explain pod --recursive | has containers imagePullPolicy
    k explain virtualservice.spec.http | has 'GROUP:' match
    refused 'does not exist' k explain pod.spec.nothing
}

creates() {
    k create deployment other --image=isthmus/testapp --dry-run=server | has 'deployment.apps/other created (server dry run)'
    refused NotFound k get deployment other
    k create configmap made --from-literal=a=b | has 'configmap/made created'
    refused 'already exists' k create configmap made
    k create secret generic hidden --from-literal=key=value | has created
    equal "$(k get secret hidden -o 'go-template={{.data.key | base64decode}}')" value
    k create job once --image=host -- true | has 'job.batch/once created'
    k wait --for=condition=complete job/once --timeout=60s | has 'condition met'
    k create quota most --hard=pods=100
    k create serviceaccount robot
    k create role reads --verb=get --resource=pods
    k create rolebinding reads --role=reads --serviceaccount=kubectl-checks:robot | has created
    k create ingress out --rule=example.com/=web:80 | has created
    k create priorityclass high --value=100 --dry-run=client -o yaml | has 'value: 100'
}

applies() {
    k apply -f "$here/kubectl/web.yaml" | has 'deployment.apps/web created' 'service/web created'
    web_is_rolled_out
    k apply -f "$here/kubectl/web.yaml" | has 'deployment.apps/web unchanged' 'configmap/settings unchanged'
    sed 's/colour: blue/colour: red/; s/, size: "1"//' "$here/kubectl/web.yaml" | k apply -f - | has 'configmap/settings configured'
    equal "$(field configmap/settings .data)" '{"colour":"red"}'
    k apply view-last-applied configmap/settings | has 'colour: red'
    k apply -k "$here/kubectl" | has 'configmap/kustomized-generated-'
    sed 's/replicas:/replicass:/' "$here/kubectl/web.yaml" >"$scratch/typing-error.yaml"
    refused 'unknown field "spec.replicass"' k apply -f "$scratch/typing-error.yaml"
    printf '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings"},"data":{"size":"2"}}' | k replace -f - | has replaced
    equal "$(field configmap/settings .data)" '{"size":"2"}'
    k apply -f "$here/kubectl/web.yaml" | has 'configmap/settings configured'
}

prunes() {
    printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, labels: {set: pruned}}\n---\n' one two >"$scratch/prune.yaml"
    k apply -f "$scratch/prune.yaml" | has configmap/one configmap/two
    printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, labels: {set: pruned}}\n' |
        k apply --prune -l set=pruned -f - | has 'configmap/two pruned'
}

applies_on_the_server() {
    local settings='{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned"}, "data": {"colour": "%s"}}'
    printf "$settings" blue | k apply --server-side -f - | has 'configmap/owned serverside-applied'
    printf "$settings" red >"$scratch/owned.json"
    refused 'conflict with "kubectl"' k apply --server-side --field-manager=other -f "$scratch/owned.json"
    equal "$(field configmap/owned .data.colour)" blue
    k apply --server-side --field-manager=other --force-conflicts -f "$scratch/owned.json"
    equal "$(field configmap/owned .data.colour)" red
    k get configmap owned --show-managed-fields -o yaml | has 'manager: other' 'operation: Apply' 'f:colour'
}

differs() {
    k diff -f "$here/kubectl/web.yaml"
    sed 's/value: v1/value: v2/' "$here/kubectl/web.yaml" >"$scratch/changed.yaml"
    local text code=0
    text=$(k diff -f "$scratch/changed.yaml") || code=$?
    equal "$code" 1
    printf '%s' "$text" | has '+          value: v2'
    k diff --server-side --force-conflicts -f "$here/kubectl/web.yaml"
}

patches() {
    k patch deployment web --type strategic -p '{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"a"}]}]}}}}'
    equal "$(field deployment/web '.spec.template.spec.containers[0].env[*].name')" 'VERSION A'
    k patch deployment web --type merge -p '{"spec":{"replicas":3},"metadata":{"annotations":{"note":"x"}}}' | has patched
    k patch deployment web --type json -p '[{"op":"test","path":"/spec/replicas","value":3},{"op":"replace","path":"/spec/replicas","value":2}]'
    equal "$(field deployment/web .spec.replicas)" 2
    refused '/spec/replicas' k patch deployment web --type json -p '[{"op":"test","path":"/spec/replicas","value":9}]'
    k patch deployment web --subresource=scale --type merge -p '{"spec":{"replicas":2}}' | has 'patched'
    k patch deployment web -p '{"spec":{"replicas":2}}' | has 'no change'
    web_is_rolled_out
}

edits() {
    printf '#!/bin/sh\nsed -i "s/colour: blue/colour: grey/" "$1"\n' >"$scratch/editor"
    chmod +x "$scratch/editor"
    KUBE_EDITOR=$scratch/editor k edit configmap settings | has 'configmap/settings edited'
    equal "$(field configmap/settings .data.colour)" grey
}

labels_and_annotates() {
    k label service web tier=front | has labeled
    refused '--overwrite' k label service web tier=back
    k label service web tier=back --overwrite
    equal "$(k get services -l 'tier in (back,middle),!absent' -o name)" service/web
    k label service web tier-
    k annotate service web note=hello | has annotated
    k annotate pods --all note=hello --resource-version= | has annotated
    equal "$(field service/web .metadata.annotations.note)" hello
}

gets() {
    k get deployments,services,pods -o wide | has 'UP-TO-DATE' 'CLUSTER-IP' 'NOMINATED NODE' '2/2'
    k get all | has pod/web- service/web deployment.apps/web replicaset.apps/web
    k get pods --sort-by=.metadata.name --chunk-size=1 -o custom-columns=NAME:.metadata.name,NODE:.spec.nodeName | has NAME clock west-us-west-1
    k get pods --field-selector=status.phase=Running,metadata.name=clock -o name | has pod/clock
    k get events --field-selector=reason=Scheduled | has 'Successfully assigned'
    k events --for pod/clock | has Scheduled
    k get pods -A | has isthmus-system kubectl-checks
    k get deployment web -o yaml | has 'apiVersion: apps/v1'
    k describe deployment web | has 'RollingUpdateStrategy' 'NewReplicaSet:'
    k describe pod clock | has 'Conditions:' 'Started container clock'
    k describe node west-us-west-1a | has 'Allocated resources:' 'Non-terminated Pods:'
    k get --raw '/api/v1/namespaces/kubectl-checks/pods?limit=1' | has '"continue":"'
}

watches() {
    k get configmaps -w --output-watch-events -o 'custom-columns=TYPE:.type,NAME:.object.metadata.name' >"$scratch/watched" 2>&1 &
    eventually 20 contains "$scratch/watched" settings
    k create configmap seen
    k label configmap seen a=b
    k delete configmap seen
    eventually 20 grep -q '^ADDED  *seen' "$scratch/watched"
    eventually 20 grep -q '^MODIFIED  *seen' "$scratch/watched"
    eventually 20 grep -q '^DELETED  *seen' "$scratch/watched"
    stop_all
}

waits() {
    k wait deployment/web --for=condition=Available --timeout=30s | has 'condition met'
    k wait pod -l app=web --for=condition=Ready --timeout=30s
    k wait deployment/web --for=jsonpath='{.status.readyReplicas}=2' --timeout=30s
    k run short --image=isthmus/testapp
    k wait pod/short --for=create --timeout=10s
    k delete pod short --wait=false
    k wait pod/short --for=delete --timeout=60s
    refused 'timed out' k wait pod/clock --for=condition=Never --timeout=1s
}

scales() {
    k scale deployment/web --replicas=3 | has scaled
    k wait deployment/web --for=jsonpath='{.status.availableReplicas}=3' --timeout=60s
    refused 'Expected replicas to be 1' k scale deployment/web --current-replicas=1 --replicas=5
    k scale deployment/web --current-replicas=3 --replicas=2
    k wait deployment/web --for=jsonpath='{.status.replicas}=2' --timeout=60s
    k autoscale deployment/web --min=1 --max=3 | has autoscaled
    k get hpa web | has 'Deployment/web'
    k delete hpa web
}

rolls_out() {
    local before
    before=$(field deployment/web '.metadata.annotations.deployment\.kubernetes\.io/revision')
    k rollout restart deployment/web | has restarted
    web_is_rolled_out
    k set env deployment/web VERSION=other
    k set resources deployment/web --limits=cpu=1
    k set image deployment/web web=isthmus/testapp
    web_is_rolled_out
    k rollout history deployment/web | has REVISION
    k rollout history deployment/web --revision="$before" | has 'Pod Template:'
    k rollout pause deployment/web | has paused
    k set env deployment/web VERSION=paused
    k rollout resume deployment/web | has resumed
    web_is_rolled_out
    k rollout undo deployment/web | has 'rolled back'
    web_is_rolled_out
    k rollout undo deployment/web --to-revision="$before"
    web_is_rolled_out
    equal "$(field deployment/web '.spec.template.spec.containers[0].env[?(@.name=="VERSION")].value')" v1
}

exposes() {
    k expose deployment web --name=exposed --port=8080 --target-port=9080 --type=NodePort | has exposed
    k get service exposed | has NodePort 8080:
    k set selector service exposed app=other
    k delete service exposed
}

logs() {
    k logs -f clock >"$scratch/followed" 2>&1 &
    eventually 20 contains "$scratch/followed" tick
    stop_all
    equal "$(k logs clock --tail=2 | wc -l)" 2
    k logs clock --tail=1 --timestamps | has Z
    k logs -l app=web --prefix --all-containers --tail=-1 | has '[pod/web-' 'listens on'
    k logs clock --since=1s --limit-bytes=4 | has tick
    refused 'is not valid for pod' k logs clock -c missing
}

executes() {
    local code=0
    equal "$(k exec clock -- hostname)" clock
    k exec clock -- sh -c 'echo out; echo err >&2; exit 7' >"$scratch/out" 2>"$scratch/err" || code=$?
    equal "$code" 7
    equal "$(cat "$scratch/out")" out
    contains "$scratch/err" err 'exit code 7'
    head -c 300000 /dev/urandom >"$scratch/random"
    k exec -i clock -- cat <"$scratch/random" | cmp - "$scratch/random"
    KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false k exec -i clock -- cat <"$scratch/random" | cmp - "$scratch/random"
    script -qec "kubectl --kubeconfig $west -n kubectl-checks exec -it clock -- sh -c 'tty; stty size'" /dev/null | has /dev/
    k exec deployment/web -- true
}

attaches() {
    { sleep 2; echo hello; sleep 2; } | timeout 15 kubectl --kubeconfig "$west" -n kubectl-checks attach -i clock >"$scratch/attached" 2>&1 || true
    contains "$scratch/attached" tick 'read hello'
    k run answer -i --rm --restart=Never --image=host --command -- sh -c 'echo given' | has given
}

copies() {
    mkdir -p "$scratch/tree/sub"
    head -c 100000 /dev/urandom >"$scratch/tree/sub/file"
    k exec clock -- rm -rf "/tmp/isthmus-clients-$$"
    k cp "$scratch/tree" "clock:/tmp/isthmus-clients-$$"
    k cp "clock:/tmp/isthmus-clients-$$/sub/file" "$scratch/back"
    k exec clock -- rm -rf "/tmp/isthmus-clients-$$"
    cmp "$scratch/back" "$scratch/tree/sub/file"
}

forwards_to() {
    rm -f "$scratch/forward"
    k port-forward "$1" ":$2" >"$scratch/forward" 2>&1 &
    local forward=$! port
    eventually 20 contains "$scratch/forward" 'Forwarding from 127.0.0.1:'
    port=$(sed -n 's/.*127.0.0.1:\([0-9]*\).*/\1/p' "$scratch/forward")
    curl -sf -m 10 "http://127.0.0.1:$port/" | has GET
    equal "$(curl -s -m 10 -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/status/404")" 404
    stop "$forward"
}
forwards() {
    forwards_to service/web 80
    KUBECTL_PORT_FORWARD_WEBSOCKETS=true forwards_to deployment/web 9080
    KUBECTL_PORT_FORWARD_WEBSOCKETS=false forwards_to deployment/web 9080
}

proxies() {
    rm -f "$scratch/proxy"
    k proxy --port=0 >"$scratch/proxy" 2>&1 &
    local proxy=$! at
    eventually 20 contains "$scratch/proxy" 'Starting to serve on'
    at=$(sed -n 's/.*serve on //p' "$scratch/proxy")
    curl -sf "http://$at/api/v1/namespaces/kubectl-checks/pods/clock" | has '"kind"'
    curl -sf "http://$at/api/v1/namespaces/kubectl-checks/services/web:http/proxy/" | has GET
    stop "$proxy"
}

reviews_access() {
    equal "$(k auth can-i get pods --as=system:serviceaccount:kubectl-checks:robot)" yes
    refused no k auth can-i delete pods --as=system:serviceaccount:kubectl-checks:robot
    k auth can-i --list --as=system:serviceaccount:kubectl-checks:robot | has pods '[get]' selfsubjectreviews
    k auth whoami | has Username
    k auth reconcile -f - --dry-run=client <<<'{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"reads"},"rules":[]}' | has 'reconciled'
    refused 'Forbidden' k delete pod clock --as=system:serviceaccount:kubectl-checks:robot
    local token server
    refused 'different serviceaccount' k create token robot --bound-object-kind=Pod --bound-object-name=clock
    token=$(k create token default --duration=10m --audience=isthmus-checks --bound-object-kind=Pod --bound-object-name=clock)
    equal "$(tr -cd . <<<"$token" | wc -c)" 2
    token=$(k create token robot)
    server=$(kubectl config view --kubeconfig "$west" --raw --minify -o 'jsonpath={.clusters[0].cluster.server}')
    kubectl --server "$server" --insecure-skip-tls-verify --token "$token" --kubeconfig /dev/null auth whoami | has kubectl-checks:robot
}

drains() {
    k apply -f "$here/kubectl/budget.yaml"
    k cordon west-us-west-1b | has cordoned
    k get node west-us-west-1b | has SchedulingDisabled
    k taint node west-us-west-1b checks=yes:NoExecute --dry-run=server | has tainted
    k drain west-us-west-1b --pod-selector=app=web --delete-emptydir-data --ignore-daemonsets --timeout=60s | has 'drained'
    web_is_rolled_out
    equal "$(k get pods -l app=web --field-selector=spec.nodeName=west-us-west-1b -o name)" ''
    k uncordon west-us-west-1b | has uncordoned
    k delete pdb web
}

debugs() {
    # A lab runs no ephemeral containers, and says so by an Event; a copy of a pod is a pod as any.
    k debug clock --image=host --container=looks -- true
    eventually 20 says_no_effect
    k debug clock --copy-to=copied --container=clock --image=host -- sleep 60
    k wait pod/copied --for=condition=Ready --timeout=60s
    k delete pod copied --grace-period=1
}
says_no_effect() { k get events --field-selector reason=NoEffectInLab | has spec.ephemeralContainers; }

tops() {
    eventually 60 tops_pods
    k top nodes | has 'CPU(' west-us-west-1a
    k top pods --containers | has clock
}
tops_pods() { k top pods | has clock; }

deletes() {
    k create -f "$here/kubectl/held.yaml"
    refused 'timed out' k delete configmap held --timeout=1s
    k get configmap held -o yaml | has deletionTimestamp example.com/hold
    k delete configmap held --wait >"$scratch/deleted" 2>&1 &
    local deletion=$!
    sleep 1
    kill -0 "$deletion"
    k patch configmap held --type merge -p '{"metadata":{"finalizers":null}}'
    wait "$deletion"
    contains "$scratch/deleted" 'configmap "held" deleted'
    k delete deployment web --cascade=foreground | has deleted
    equal "$(k get replicasets -l app=web -o name)" ''
    k delete pod clock --grace-period=0 --force | has 'force deleted'
    k delete configmaps --all | has settings
    refused NotFound k delete configmap settings
    k delete configmap settings --ignore-not-found
}

custom_resources() {
    k apply -f "$here/kubectl/crd.yaml" | has created
    k wait crd/widgets.checks.isthmus.dev --for=condition=Established --timeout=20s
    printf '{"apiVersion":"checks.isthmus.dev/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"size":3}}' | k apply -f - | has 'widget.checks.isthmus.dev/w created'
    k get widgets | has SIZE 3
    k explain widget.spec.size | has integer
    refused 'Invalid value' k patch widget w --type merge -p '{"spec":{"size":"large"}}'
    k patch widget w --subresource=status --type merge -p '{"status":{"ready":2}}'
    k scale widget/w --replicas=5 | has scaled
    equal "$(field widget/w .spec.size)" 5
    k delete crd widgets.checks.isthmus.dev
    refused 'could not find' k get widgets
}

deletes_namespace() {
    k delete namespace kubectl-checks --timeout=90s | has 'namespace "kubectl-checks" deleted'
    refused NotFound k get namespace kubectl-checks
}

checks_of_kubectl() {
    client kubectl "$(kubectl version --client -o yaml | sed -n 's/ *gitVersion: //p')"
    check 'create namespace' begin
    check 'version, cluster-info, health' versions
    check 'api-resources, api-versions' discovers
    check 'explain' explains
    check 'apply, replace, kustomize' applies
    check 'create, dry run' creates
    check 'apply --prune' prunes
    check 'apply --server-side, conflicts' applies_on_the_server
    check 'diff' differs
    check 'patch: strategic, merge, json, subresource' patches
    check 'edit' edits
    check 'label, annotate' labels_and_annotates
    check 'get, describe, events' gets
    check 'get --watch' watches
    check 'wait' waits
    check 'scale, autoscale' scales
    check 'rollout: status, restart, history, pause, undo' rolls_out
    check 'expose, set selector' exposes
    check 'logs, logs -f' logs
    check 'exec: WebSocket, SPDY, terminal' executes
    check 'attach, run -i' attaches
    check 'cp' copies
    check 'port-forward: WebSocket, SPDY' forwards
    check 'proxy' proxies
    check 'auth can-i, whoami, reconcile; create token' reviews_access
    check 'cordon, drain with a budget, taint' drains
    check 'debug' debugs
    check 'custom resources: apply, explain, scale' custom_resources
    check 'top' tops
    check 'delete: finalizers, cascade, force' deletes
    check 'delete namespace' deletes_namespace
}
