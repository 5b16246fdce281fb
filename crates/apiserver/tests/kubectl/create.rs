//! The generators of `kubectl create`, and tokens.

use serde_json::json;

use crate::KubectlTest;
use crate::server::TestServer;

pub(crate) const TESTS: &[KubectlTest] = &[
    ("create::secrets_and_config_maps", secrets_and_config_maps),
    ("create::roles_and_permissions", roles_and_permissions),
    ("create::tokens", tokens),
    ("create::other_generators", other_generators),
];

fn secrets_and_config_maps() {
    let server = TestServer::start();
    let file = server.file("app.properties", "color=red\n");
    assert_eq!(
        server.kubectl(&format!("create configmap c --from-file={file} --from-literal=a=b")),
        "configmap/c created\n"
    );
    assert_eq!(server.object("configmap c")["data"], json!({"a": "b", "app.properties": "color=red\n"}));
    assert_eq!(server.kubectl("create secret generic s --from-literal=password=hunter2"), "secret/s created\n");
    let secret = server.object("secret s");
    assert_eq!((&secret["type"], &secret["data"]["password"]), (&json!("Opaque"), &json!("aHVudGVyMg==")));
    let row = server.kubectl("get secret s --no-headers");
    assert!(row.starts_with("s     Opaque   1 ") || row.contains("Opaque   1"), "{row}");
    server.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: t}\nstringData: {key: value}\n");
    assert_eq!(server.object("secret t")["data"]["key"], "dmFsdWU=");
    let registry = server
        .kubectl("create secret docker-registry r --docker-username=u --docker-password=p --docker-server=example.com");
    assert_eq!(registry, "secret/r created\n");
    let again = server.refused("create configmap c", "");
    assert!(again.contains("error: failed to create configmap: configmaps \"c\" already exists"), "{again}");
    let generated = server
        .kubectl_with(&["create", "-f", "-"], "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: run-}\n");
    assert!(
        generated.starts_with("configmap/run-") && generated.len() > "configmap/run- created\n".len(),
        "{generated}"
    );
}

fn roles_and_permissions() {
    let server = TestServer::start();
    server.kubectl("create serviceaccount reader");
    server.kubectl("create role pod-reader --verb=get,list,watch --resource=pods");
    server.kubectl("create rolebinding reader --role=pod-reader --serviceaccount=default:reader");
    server.kubectl("create clusterrole node-reader --verb=get --resource=nodes");
    server.kubectl("create clusterrolebinding reader --clusterrole=node-reader --serviceaccount=default:reader");
    let can = |what: &str| server.run(&format!("auth can-i {what}").split(' ').collect::<Vec<_>>(), "", &[]).stdout;
    let account = "--as=system:serviceaccount:default:reader";
    assert_eq!(can("create deployments"), "yes\n");
    assert_eq!(can(&format!("list pods {account}")), "yes\n");
    assert_eq!(can(&format!("delete pods {account}")), "no\n");
    assert_eq!(can(&format!("list pods -n kube-system {account}")), "no\n");
    assert_eq!(can(&format!("get nodes {account}")).lines().last(), Some("yes"));
    let list = server.kubectl(&format!("auth can-i --list {account}"));
    assert!(list.contains("pods") && list.contains("[get list watch]"), "{list}");
    let refused = server.refused(&format!("delete pod web {account}"), "");
    assert!(
        refused.contains("pods \"web\" is forbidden: User \"system:serviceaccount:default:reader\" cannot delete resource \"pods\" in API group \"\" in the namespace \"default\""),
        "{refused}"
    );
    let me = server.kubectl("auth whoami");
    assert!(me.contains("kubernetes-admin") && me.contains("system:masters"), "{me}");
    let row = server.kubectl("get rolebinding reader -o wide");
    assert!(row.contains("Role/pod-reader") && row.contains("default/reader"), "{row}");
    assert!(server.kubectl("describe role pod-reader").contains("[get list watch]"));
}

fn tokens() {
    let server = TestServer::start();
    server.kubectl("create serviceaccount robot");
    let token =
        server.kubectl("create token robot --duration=20m --audience=https://kubernetes.default.svc.cluster.local");
    assert_eq!(token.trim().split('.').count(), 3, "no JWT: {token}");
    let token = server.kubectl("create token robot");
    let token = token.trim();
    let config = std::fs::read_to_string(server.path().join("kubeconfig")).expect("the kubeconfig");
    // Without the administrator's certificate, which has priority over the token.
    let users = config.find("users:").expect("users");
    let contexts = config.find("contexts:").expect("contexts");
    let robot =
        format!("{}users:\n- name: test\n  user: {{token: {token}}}\n{}", &config[..users], &config[contexts..]);
    let robot = server.file("robot", &robot);
    let me = server.kubectl(&format!("--kubeconfig={robot} auth whoami -o jsonpath={{.status.userInfo.username}}"));
    assert_eq!(me, "system:serviceaccount:default:robot");
    let refused = server.refused(&format!("--kubeconfig={robot} get secrets"), "");
    assert!(refused.contains("is forbidden"), "{refused}");
    let stranger =
        server.file("stranger", &std::fs::read_to_string(&robot).expect("written").replace(token, "nonsense"));
    let refused = server.refused(&format!("--kubeconfig={stranger} get pods"), "");
    assert!(refused.contains("You must be logged in to the server"), "{refused}");
}

fn other_generators() {
    let server = TestServer::start();
    for (arguments, output) in [
        ("create quota q --hard=pods=3", "resourcequota/q created\n"),
        ("create job j --image=i", "job.batch/j created\n"),
        ("create cronjob c --image=i --schedule=0_*_*_*_*", "cronjob.batch/c created\n"),
        ("create ingress i --rule=example.com/=web:80", "ingress.networking.k8s.io/i created\n"),
        ("create poddisruptionbudget p --selector=a=b --min-available=1", "poddisruptionbudget.policy/p created\n"),
    ] {
        let arguments: Vec<String> = arguments.split(' ').map(|word| word.replace('_', " ")).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        assert_eq!(server.kubectl_with(&arguments, ""), output);
    }
    let all = server.run(&["get", "quota,job,cronjob,ingress,pdb"], "", &[]);
    assert_eq!((all.code, all.stderr.as_str()), (Some(0), ""));
}
