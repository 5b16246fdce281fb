//! The generators of `kubectl create`, and tokens.

use serde_json::json;

use crate::Test;
use crate::bench::Bench;

pub(crate) const TESTS: &[Test] = &[
    ("create::secrets_and_config_maps", secrets_and_config_maps),
    ("create::roles_and_what_they_allow", roles_and_what_they_allow),
    ("create::tokens", tokens),
    ("create::the_rest", the_rest),
];

fn secrets_and_config_maps() {
    let bench = Bench::start();
    let file = bench.file("app.properties", "color=red\n");
    assert_eq!(
        bench.kubectl(&format!("create configmap c --from-file={file} --from-literal=a=b")),
        "configmap/c created\n"
    );
    assert_eq!(bench.object("configmap c")["data"], json!({"a": "b", "app.properties": "color=red\n"}));
    assert_eq!(bench.kubectl("create secret generic s --from-literal=password=hunter2"), "secret/s created\n");
    let secret = bench.object("secret s");
    assert_eq!((&secret["type"], &secret["data"]["password"]), (&json!("Opaque"), &json!("aHVudGVyMg==")));
    let row = bench.kubectl("get secret s --no-headers");
    assert!(row.starts_with("s     Opaque   1 ") || row.contains("Opaque   1"), "{row}");
    bench.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: t}\nstringData: {key: value}\n");
    assert_eq!(bench.object("secret t")["data"]["key"], "dmFsdWU=");
    let registry = bench
        .kubectl("create secret docker-registry r --docker-username=u --docker-password=p --docker-server=example.com");
    assert_eq!(registry, "secret/r created\n");
    let again = bench.refused("create configmap c", "");
    assert!(again.contains("error: failed to create configmap: configmaps \"c\" already exists"), "{again}");
    let generated =
        bench.kubectl_with(&["create", "-f", "-"], "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: run-}\n");
    assert!(
        generated.starts_with("configmap/run-") && generated.len() > "configmap/run- created\n".len(),
        "{generated}"
    );
}

fn roles_and_what_they_allow() {
    let bench = Bench::start();
    bench.kubectl("create serviceaccount reader");
    bench.kubectl("create role pod-reader --verb=get,list,watch --resource=pods");
    bench.kubectl("create rolebinding reader --role=pod-reader --serviceaccount=default:reader");
    bench.kubectl("create clusterrole node-reader --verb=get --resource=nodes");
    bench.kubectl("create clusterrolebinding reader --clusterrole=node-reader --serviceaccount=default:reader");
    let can = |what: &str| bench.run(&format!("auth can-i {what}").split(' ').collect::<Vec<_>>(), "", &[]).stdout;
    let account = "--as=system:serviceaccount:default:reader";
    assert_eq!(can("create deployments"), "yes\n");
    assert_eq!(can(&format!("list pods {account}")), "yes\n");
    assert_eq!(can(&format!("delete pods {account}")), "no\n");
    assert_eq!(can(&format!("list pods -n kube-system {account}")), "no\n");
    assert_eq!(can(&format!("get nodes {account}")).lines().last(), Some("yes"));
    let list = bench.kubectl(&format!("auth can-i --list {account}"));
    assert!(list.contains("pods") && list.contains("[get list watch]"), "{list}");
    let refused = bench.refused(&format!("delete pod web {account}"), "");
    assert!(
        refused.contains("pods \"web\" is forbidden: User \"system:serviceaccount:default:reader\" cannot delete resource \"pods\" in API group \"\" in the namespace \"default\""),
        "{refused}"
    );
    let me = bench.kubectl("auth whoami");
    assert!(me.contains("kubernetes-admin") && me.contains("system:masters"), "{me}");
    let row = bench.kubectl("get rolebinding reader -o wide");
    assert!(row.contains("Role/pod-reader") && row.contains("default/reader"), "{row}");
    assert!(bench.kubectl("describe role pod-reader").contains("[get list watch]"));
}

fn tokens() {
    let bench = Bench::start();
    bench.kubectl("create serviceaccount robot");
    let token =
        bench.kubectl("create token robot --duration=20m --audience=https://kubernetes.default.svc.cluster.local");
    assert_eq!(token.trim().split('.').count(), 3, "no JWT: {token}");
    let token = bench.kubectl("create token robot");
    let token = token.trim();
    let config = std::fs::read_to_string(bench.path().join("kubeconfig")).expect("the kubeconfig");
    // As the robot: the administrator's certificate must not speak for it.
    let users = config.find("users:").expect("users");
    let contexts = config.find("contexts:").expect("contexts");
    let robot =
        format!("{}users:\n- name: test\n  user: {{token: {token}}}\n{}", &config[..users], &config[contexts..]);
    let robot = bench.file("robot", &robot);
    let me = bench.kubectl(&format!("--kubeconfig={robot} auth whoami -o jsonpath={{.status.userInfo.username}}"));
    assert_eq!(me, "system:serviceaccount:default:robot");
    let refused = bench.refused(&format!("--kubeconfig={robot} get secrets"), "");
    assert!(refused.contains("is forbidden"), "{refused}");
    let stranger =
        bench.file("stranger", &std::fs::read_to_string(&robot).expect("written").replace(token, "nonsense"));
    let refused = bench.refused(&format!("--kubeconfig={stranger} get pods"), "");
    assert!(refused.contains("You must be logged in to the server"), "{refused}");
}

fn the_rest() {
    let bench = Bench::start();
    for (arguments, said) in [
        ("create quota q --hard=pods=3", "resourcequota/q created\n"),
        ("create job j --image=i", "job.batch/j created\n"),
        ("create cronjob c --image=i --schedule=0_*_*_*_*", "cronjob.batch/c created\n"),
        ("create ingress i --rule=example.com/=web:80", "ingress.networking.k8s.io/i created\n"),
        ("create poddisruptionbudget p --selector=a=b --min-available=1", "poddisruptionbudget.policy/p created\n"),
    ] {
        let arguments: Vec<String> = arguments.split(' ').map(|word| word.replace('_', " ")).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        assert_eq!(bench.kubectl_with(&arguments, ""), said);
    }
    let all = bench.run(&["get", "quota,job,cronjob,ingress,pdb"], "", &[]);
    assert_eq!((all.code, all.stderr.as_str()), (Some(0), ""));
}
