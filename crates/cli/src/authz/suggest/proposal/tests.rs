use super::*;

const FRONTEND: &str = "cluster.local/ns/default/sa/frontend";
const JOB: &str = "cluster.local/ns/jobs/sa/job";

fn row(principal: Option<&str>, cluster: Option<&str>, (method, path): (Option<&str>, &str)) -> Value {
    json!({"principal": principal, "cluster": cluster, "port": 9080, "method": method, "path": path, "count": 2})
}

fn workload(pages: &[Vec<Value>]) -> Workload {
    let mut workload = Workload::new("reviews", BTreeMap::from([("app".into(), "reviews".into())]));
    for (index, rows) in pages.iter().enumerate() {
        let page = json!({"cluster": "west", "seconds": 60 * (index + 1), "unrecorded": 0, "accepted": rows});
        workload.add(serde_json::from_value(page).expect("a page"));
    }
    workload
}

fn get(path: &str) -> (Option<&str>, &str) {
    (Some("GET"), path)
}

#[test]
fn callers_that_do_the_same_have_one_rule() {
    let both = |principal| {
        vec![
            row(Some(principal), Some("west"), get("/reviews/{*}")),
            row(Some(principal), Some("west"), get("/health")),
            row(Some(principal), Some("west"), (Some("POST"), "/reviews/{*}")),
        ]
    };
    let workload = workload(&[both(FRONTEND), both(JOB)]);
    let operation =
        |methods: &[&str], path: &str| json!({"operation": {"ports": ["9080"], "methods": methods, "paths": [path]}});
    assert_eq!(
        json!(workload.rules()),
        json!([{
            "from": [{"source": {"principals": [FRONTEND, JOB]}}],
            "to": [operation(&["GET"], "/health"), operation(&["GET", "POST"], "/reviews/{*}")],
        }])
    );
    assert_eq!(workload.comments(), ["reviews: 2 pods observed for 1m to 2m, 12 requests and connections accepted"]);
    assert_eq!(workload.policy_name(), "reviews-observed");
}

#[test]
fn callers_of_other_clusters_are_admitted_from_the_clusters_that_they_proved() {
    let conditions = |rows: Vec<Value>| -> Vec<Value> {
        workload(&[rows]).rules().into_iter().map(|rule| rule["when"].clone()).collect()
    };
    let from = |cluster| row(Some(FRONTEND), cluster, get("/"));
    assert_eq!(conditions(vec![from(Some("west"))]), [Value::Null]);
    let when = |clusters: &[&str]| json!([{"key": "source.cluster", "values": clusters}]);
    assert_eq!(conditions(vec![from(Some("east"))]), [when(&["east"])]);
    assert_eq!(conditions(vec![from(Some("west")), from(Some("east"))]), [when(&["east", "west"])]);
    let stock = row(Some(FRONTEND), Some("east"), get("/stock"));
    assert_eq!(conditions(vec![from(Some("west")), stock]), [when(&["east"]), when(&["west"])]);
    // A rule with a condition would refuse what was accepted.
    assert_eq!(conditions(vec![from(None), from(Some("east"))]), [Value::Null]);
}

#[test]
fn opaque_connections_are_admitted_by_port() {
    let opaque = json!({"principal": FRONTEND, "cluster": null, "port": 3306, "method": null, "path": "", "count": 1});
    let rules = workload(&[vec![opaque.clone()]]).rules();
    assert_eq!(rules[0]["to"], json!([{"operation": {"ports": ["3306"]}}]));
    let request =
        json!({"principal": FRONTEND, "cluster": null, "port": 3306, "method": "GET", "path": "/", "count": 1});
    let both = workload(&[vec![opaque, request]]);
    assert_eq!(both.rules()[0]["to"], json!([{"operation": {"ports": ["3306"]}}]));
    assert!(both.comments()[1].contains("any request to port 3306"), "{:?}", both.comments());
}

#[test]
fn callers_without_an_identity_are_a_comment() {
    let workload = workload(&[vec![row(None, None, (None, ""))]]);
    assert!(workload.rules().is_empty());
    let comments = workload.comments().join("\n");
    assert!(
        comments.contains("no policy is proposed") && comments.contains("2 without mutual TLS at port 9080"),
        "{comments}"
    );
}

#[test]
fn what_a_sidecar_makes_up_widens_no_rule() {
    let mut rows = vec![
        row(Some("*"), None, get("/")),
        row(Some("cluster.local/ns/*/sa/x"), None, get("/")),
        row(Some(FRONTEND), Some("*"), get("/")),
        row(Some(FRONTEND), Some(""), get("/")),
        row(Some(FRONTEND), None, get("/a*")),
        row(Some(FRONTEND), None, get("*")),
        row(Some(FRONTEND), None, get("/{x}")),
        row(Some(FRONTEND), None, get("/{**}/x/{**}")),
        row(Some(FRONTEND), None, get("/a b/{*}")),
        row(Some(FRONTEND), None, (Some("*"), "/")),
        row(Some(FRONTEND), None, (Some("get"), "/")),
        row(Some(FRONTEND), None, (None, "/x")),
    ];
    assert!(workload(&[rows.clone()]).rules().is_empty());
    rows.push(row(Some(FRONTEND), None, get("/ok/{**}")));
    let workload = workload(&[rows]);
    assert_eq!(workload.rules()[0]["to"][0]["operation"]["paths"], json!(["/ok/*"]));
    assert!(workload.comments().join("\n").contains("24 more were accepted and not recorded"));
}

#[test]
fn paths_of_all_pods_are_generalised_together() {
    let set = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<String>>();
    let mut paths: BTreeSet<String> = (0..20).map(|number| format!("/users/user-{number}/orders")).collect();
    paths.insert("/health".into());
    assert_eq!(generalised(&paths), set(&["/health", "/users/{**}"]));
    let covered = set(&["/a/{*}/{**}", "/a/{*}/x", "/a/{*}", "/b"]);
    assert_eq!(generalised(&covered), set(&["/a/{*}", "/a/{*}/{**}", "/b"]));
    for (path, expected) in [("/{**}", "/*"), ("/a/{**}", "/a/*"), ("/a/{*}/{**}", "/a/{*}/{**}"), ("/a", "/a")] {
        assert_eq!(pattern(path), expected);
    }
}
