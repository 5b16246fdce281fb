# Checks of client libraries: programs beside this file, which report checks of their own.

checks_of_client_go() {
    client client-go "$(sed -n 's/^\tk8s.io\/client-go \(v[0-9.]*\).*/\1/p' "$here/client-go/go.mod")"
    checks_of 'the program' "$cache/client-go-checks" "$west" ${only:+"${only#client-go: }"}
}

checks_of_python() {
    client python "kubernetes $KUBERNETES_PYTHON"
    checks_of 'the program' "$cache/python-kubernetes-$KUBERNETES_PYTHON/bin/python" "$here/python_checks.py" "$west" ${only:+"${only#python: }"}
}
