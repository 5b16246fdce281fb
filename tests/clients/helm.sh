# Checks of helm, of both major versions in use, with the chart beside this file.

kh() { kubectl --kubeconfig "$west" --namespace helm-checks "$@"; }
helm() { "$helm_program" --kubeconfig "$west" --namespace helm-checks "$@"; }
release() { helm get values web --all -o json | has "\"version\":\"$1\""; }
rolled_out_as() { equal "$(kh get deployment web -o 'jsonpath={.spec.template.spec.containers[0].env[0].value}')" "$1"; }

helm_renders() {
    helm template web "$here/helm/chart" | has 'kind: Deployment' 'helm.sh/hook-weight'
    helm lint "$here/helm/chart" | has '0 chart(s) failed'
}
helm_installs() {
    # CRDs come before everything else, hooks in the order of their weights.
    helm install web "$here/helm/chart" --create-namespace --wait --timeout 90s | has 'STATUS: deployed'
    kubectl --kubeconfig "$west" get crd gadgets.checks.isthmus.dev
    kh get gadget web -o 'jsonpath={.spec.size}' | has 1
    kh get deployment web | has 1/1
    helm list | has web deployed checks-0.1.0
    helm status web | has 'STATUS: deployed'
}
helm_runs_hooks() {
    # Succeeded ones are deleted, where their policy says so.
    kh get jobs -o name | sort >"$scratch/jobs"
    equal "$(cat "$scratch/jobs")" "$(printf 'job.batch/web-hook-1-2\njob.batch/web-hook-1-first1')"
    local first second
    first=$(kh get job web-hook-1-first1 -o 'jsonpath={.status.completionTime}')
    second=$(kh get job web-hook-1-2 -o 'jsonpath={.metadata.creationTimestamp}')
    [[ $first < $second || $first == "$second" ]]
}
helm_tests() { helm test web --logs --timeout 60s | has 'Phase:          Succeeded' GET; }
helm_upgrades() {
    helm upgrade web "$here/helm/chart" --set version=dry --dry-run=server | has 'kind: Gadget' 'value: dry'
    rolled_out_as v1
    helm upgrade web "$here/helm/chart" --set version=v2,replicas=2 --wait --timeout 90s | has 'STATUS: deployed' 'REVISION: 2'
    rolled_out_as v2
    kh get gadget web -o 'jsonpath={.spec.size}' | has 2
    helm upgrade --install web "$here/helm/chart" --reuse-values --set version=v3 --wait --timeout 90s | has 'REVISION: 3'
    rolled_out_as v3
}
helm_rolls_failures_back() {
    # An image that no lab has never becomes ready.
    refused 'rolled back' helm upgrade web "$here/helm/chart" --set version=broken,image=none/such "$helm_atomic" --timeout 8s
    rolled_out_as v3
    helm list | has deployed
}
helm_rolls_back() {
    helm rollback web 2 --wait --timeout 90s | has 'Rollback was a success'
    rolled_out_as v2
    helm history web | has superseded failed 'Rollback to 2'
    release v2
    helm get manifest web | has 'kind: Service'
    helm get hooks web | has post-install
}
helm_corrects_drift() {
    kh scale deployment web --replicas=5
    helm upgrade web "$here/helm/chart" --set version=v4 $helm_force --wait --timeout 90s | has deployed
    rolled_out_as v4
    equal "$(kh get deployment web -o 'jsonpath={.spec.replicas}')" 1
}
helm_uninstalls() {
    helm uninstall web --wait --timeout 90s | has 'uninstalled'
    equal "$(kh get deployments,services,gadgets -o name)" ''
    equal "$(helm list -q)" ''
    # Definitions are kept, as helm does.
    kubectl --kubeconfig "$west" delete crd gadgets.checks.isthmus.dev
    kh delete namespace helm-checks --timeout=60s
}

checks_of_helm() {
    local version
    for version in "$HELM3" "$HELM4"; do
        client "helm ${version%%.*}" "$version"
        # Version 4 renamed the option, and takes fields of other managers only by force.
        case $version in
            v3.*) helm_atomic=--atomic helm_force= ;;
            *) helm_atomic=--rollback-on-failure helm_force=--force-conflicts ;;
        esac
        helm_program=$cache/helm-$version/helm
        export helm_program helm_atomic helm_force
        check 'template, lint' helm_renders
        check 'install: CRDs, --wait' helm_installs
        check 'hooks: weights, delete policies' helm_runs_hooks
        check 'test' helm_tests
        check 'upgrade, upgrade --install, server dry run' helm_upgrades
        check "upgrade $helm_atomic that fails" helm_rolls_failures_back
        check 'rollback, history, get' helm_rolls_back
        check 'upgrade of a changed object' helm_corrects_drift
        check 'uninstall' helm_uninstalls
    done
}
