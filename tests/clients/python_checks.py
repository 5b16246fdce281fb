"""Drives the Kubernetes client of Python against a cluster of a lab: lists, watches, patches, streams, the dynamic client.

Prints a line for each check, `ok NAME` or `failed NAME: REASON`, and exits with 1 if one failed.

    python_checks.py KUBECONFIG [TEXT]     only the checks whose name has the text
"""

import sys
import time
import traceback

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from kubernetes.stream import portforward, stream

NAMESPACE = "python-checks"
CLOCK = {
    "metadata": {"name": "clock", "labels": {"app": "clock"}},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {"name": "clock", "image": "host", "command": ["sh", "-c", "while :; do echo tick; sleep 0.2; done"]},
            {"name": "web", "image": "isthmus/testapp"},
        ],
    },
}
CHECKS = []


def check(name):
    def register(function):
        CHECKS.append((name, function))
        return function

    return register


def eventually(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"never came: {condition}"
        time.sleep(0.1)


def refused(status, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except ApiException as error:
        assert error.status == status, error
        return error
    raise AssertionError(f"{function} was to be refused with {status}")


def config_map(name, **labels):
    return {"metadata": {"name": name, "labels": labels}, "data": {"a": "1"}}


@check("typed objects: create, read, replace, delete")
def typed(core):
    made = core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="typed"), data={"a": "1"}))
    made.data["a"] = "2"
    assert core.replace_namespaced_config_map("typed", NAMESPACE, made).data == {"a": "2"}
    made.data["a"] = "3"
    assert "Conflict" in refused(409, core.replace_namespaced_config_map, "typed", NAMESPACE, made).body
    refused(409, core.create_namespaced_config_map, NAMESPACE, config_map("typed"))
    core.delete_namespaced_config_map("typed", NAMESPACE)
    refused(404, core.read_namespaced_config_map, "typed", NAMESPACE)


@check("lists: selectors and pages")
def lists(core):
    for index in range(5):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"listed-{index}", set="listed", parity=["even", "odd"][index % 2]))
    assert len(core.list_namespaced_config_map(NAMESPACE, label_selector="set=listed,parity=odd").items) == 2
    assert len(core.list_namespaced_config_map(NAMESPACE, field_selector="metadata.name=listed-1").items) == 1
    names, token = [], None
    while token != "":
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="set=listed", limit=2, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue or ""
    assert names == [f"listed-{index}" for index in range(5)], names
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="set=listed")
    assert core.list_namespaced_config_map(NAMESPACE, label_selector="set=listed").items == []
    refused(400, core.list_namespaced_pod, NAMESPACE, field_selector="spec.nothing=1")


@check("patches: strategic, merge, JSON, server-side apply")
def patches(core):
    core.create_namespaced_config_map(NAMESPACE, config_map("patched"))
    assert core.patch_namespaced_config_map("patched", NAMESPACE, {"data": {"b": "2"}}).data == {"a": "1", "b": "2"}
    operations = [{"op": "replace", "path": "/data/a", "value": "9"}]
    assert core.patch_namespaced_config_map("patched", NAMESPACE, operations).data["a"] == "9"
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "patched"}, "data": {"c": "3"}}
    options = {"field_manager": "checks", "force": True, "_content_type": "application/apply-patch+yaml"}
    assert core.patch_namespaced_config_map("patched", NAMESPACE, applied, **options).data["c"] == "3"
    core.delete_namespaced_config_map("patched", NAMESPACE)


@check("watches")
def watches(core):
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    core.create_namespaced_config_map(NAMESPACE, config_map("watched", set="watched"))
    core.patch_namespaced_config_map("watched", NAMESPACE, {"data": {"b": "2"}})
    core.delete_namespaced_config_map("watched", NAMESPACE)
    watching = watch.Watch()
    options = {"label_selector": "set=watched", "resource_version": version, "timeout_seconds": 10}
    seen = []
    for event in watching.stream(core.list_namespaced_config_map, NAMESPACE, **options):
        seen.append(event["type"])
        if event["type"] == "DELETED":
            watching.stop()
    assert seen == ["ADDED", "MODIFIED", "DELETED"], seen
    started = time.monotonic()
    assert list(watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, label_selector="set=none", timeout_seconds=1)) == []
    assert time.monotonic() - started < 10, "a watch ends after its timeout"


@check("workloads: create from YAML, scale, status")
def workloads(core):
    apps = client.AppsV1Api()
    labels = {"app": "made"}
    container = {"name": "web", "image": "isthmus/testapp"}
    template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "made"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }
    utils.create_from_dict(client.ApiClient(), deployment, namespace=NAMESPACE)
    eventually(lambda: apps.read_namespaced_deployment_status("made", NAMESPACE).status.ready_replicas == 1)
    apps.patch_namespaced_deployment_scale("made", NAMESPACE, {"spec": {"replicas": 2}})
    eventually(lambda: apps.read_namespaced_deployment("made", NAMESPACE).status.ready_replicas == 2)
    assert apps.read_namespaced_deployment_scale("made", NAMESPACE).status.selector == "app=made"
    pod = core.list_namespaced_pod(NAMESPACE, label_selector="app=made").items[0].metadata.name
    eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name=pod, namespace=NAMESPACE))
    core.create_namespaced_pod_eviction(pod, NAMESPACE, eviction)
    apps.delete_namespaced_deployment("made", NAMESPACE, propagation_policy="Foreground")
    eventually(lambda: not core.list_namespaced_pod(NAMESPACE, label_selector="app=made").items)


@check("custom objects")
def custom(_):
    api = client.CustomObjectsApi()
    of = ("networking.istio.io", "v1", NAMESPACE, "virtualservices")
    service = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "custom"},
        "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]},
    }
    api.create_namespaced_custom_object(*of, service)
    api.patch_namespaced_custom_object(*of, "custom", {"spec": {"hosts": ["reviews", "ratings"]}})
    assert api.get_namespaced_custom_object(*of, "custom")["spec"]["hosts"] == ["reviews", "ratings"]
    assert len(api.list_namespaced_custom_object(*of)["items"]) == 1
    api.delete_namespaced_custom_object(*of, "custom")


@check("dynamic client: get, create, apply, patch, watch, delete")
def dynamics(_):
    api = dynamic.DynamicClient(client.ApiClient())
    maps = api.resources.get(api_version="v1", kind="ConfigMap")
    services = api.resources.get(api_version="networking.istio.io/v1", kind="VirtualService")
    assert services.namespaced and "vs" in services.short_names
    maps.create(body={"apiVersion": "v1", "kind": "ConfigMap", **config_map("dynamic", set="dynamic")}, namespace=NAMESPACE)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dynamic"}, "data": {"b": "2"}}
    applied = maps.server_side_apply(body=body, namespace=NAMESPACE, field_manager="checks", force_conflicts=True)
    assert applied.data.to_dict() == {"a": "1", "b": "2"}, applied
    body = {"metadata": {"name": "dynamic"}, "data": {"b": None}}
    assert maps.patch(body=body, namespace=NAMESPACE, content_type="application/merge-patch+json").data.to_dict() == {"a": "1"}
    for event in maps.watch(namespace=NAMESPACE, label_selector="set=dynamic", timeout=5):
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "dynamic")
        break
    assert len(maps.get(namespace=NAMESPACE, label_selector="set=dynamic").items) == 1
    maps.delete(name="dynamic", namespace=NAMESPACE)


@check("exec: output, input, exit code")
def executes(core):
    def run(command, **options):
        options = {"stderr": True, "stdin": False, "stdout": True, "tty": False, **options}
        return stream(core.connect_get_namespaced_pod_exec, "clock", NAMESPACE, container="clock", command=command, **options)

    assert run(["hostname"]) == "clock\n"
    session = run(["sh", "-c", "read -r line; echo read $line; echo err >&2; exit 3"], stdin=True, _preload_content=False)
    session.write_stdin("hello\n")
    session.run_forever(timeout=20)
    assert (session.read_stdout(), session.read_stderr(), session.returncode) == ("read hello\n", "err\n", 3)
    assert "tick" in eventually(lambda: core.read_namespaced_pod_log("clock", NAMESPACE, container="clock", tail_lines=1))


@check("port forwarding")
def forwards(core):
    forwarding = portforward(core.connect_get_namespaced_pod_portforward, "clock", NAMESPACE, ports="9080")
    connection = forwarding.socket(9080)
    connection.settimeout(10)
    connection.sendall(b"GET /status/418 HTTP/1.1\r\nhost: clock\r\nconnection: close\r\n\r\n")
    answer = b""
    while piece := connection.recv(4096):
        answer += piece
    assert answer.startswith(b"HTTP/1.1 418"), answer
    assert forwarding.error(9080) is None, forwarding.error(9080)


@check("logs, followed")
def logs(core):
    followed = watch.Watch()
    lines = []
    for line in followed.stream(core.read_namespaced_pod_log, "clock", NAMESPACE, container="clock"):
        lines.append(line)
        if len(lines) == 3:
            followed.stop()
    assert lines == ["tick"] * 3, lines


@check("tokens and access reviews")
def access(core):
    request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=["checks"], expiration_seconds=600))
    token = core.create_namespaced_service_account_token("default", NAMESPACE, request).status.token
    review = client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token, audiences=["checks"]))
    reviewed = client.AuthenticationV1Api().create_token_review(review).status
    assert reviewed.authenticated and reviewed.user.username == f"system:serviceaccount:{NAMESPACE}:default"
    attributes = client.V1ResourceAttributes(namespace=NAMESPACE, verb="get", resource="secrets")
    spec = client.V1SubjectAccessReviewSpec(user=reviewed.user.username, resource_attributes=attributes)
    allowed = client.AuthorizationV1Api().create_subject_access_review(client.V1SubjectAccessReview(spec=spec)).status.allowed
    assert not allowed


@check("leader election by Lease")
def elects(_):
    led = []

    def leads():
        led.append(time.monotonic())
        raise SystemExit

    lock = LeaseLock("python-leader", NAMESPACE, "checks")
    election = electionconfig.Config(lock, lease_duration=4, renew_deadline=3, retry_period=1, onstarted_leading=leads, onstopped_leading=None)
    import threading

    threading.Thread(target=leaderelection.LeaderElection(election).run, daemon=True).start()
    eventually(lambda: led)


@check("discovery and versions")
def discovers(_):
    assert client.VersionApi().get_code().major == "1"
    groups = {group.name for group in client.ApisApi().get_api_versions().groups}
    assert {"apps", "networking.istio.io"} <= groups, groups
    resources = {resource.name for resource in client.AppsV1Api().get_api_resources().resources}
    assert {"deployments", "deployments/scale"} <= resources, resources


def main():
    config.load_kube_config(sys.argv[1])
    core = client.CoreV1Api()
    core.create_namespace({"metadata": {"name": NAMESPACE}})
    failed = False
    try:
        eventually(lambda: core.list_namespaced_service_account(NAMESPACE, field_selector="metadata.name=default").items)
        core.create_namespaced_pod(NAMESPACE, CLOCK)
        eventually(lambda: core.read_namespaced_pod("clock", NAMESPACE).status.phase == "Running")
        for name, function in CHECKS:
            if len(sys.argv) > 2 and sys.argv[2] not in name:
                continue
            try:
                function(core)
                print("ok", name, flush=True)
            except Exception as error:
                failed = True
                traceback.print_exc()
                reason = f"{type(error).__name__}: {error}".replace("\n", " ")
                print(f"failed {name}: {reason}", flush=True)
    finally:
        core.delete_namespace(NAMESPACE)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
