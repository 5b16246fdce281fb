//! Exported services in a mesh of istiod and Envoy: what `isthmus export` writes is applied there unchanged, and used.
//!
//! The Envoy's certificate is of its own cluster's intermediate, under the root that both meshes have.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use serde_json::{Value, json};

use crate::bed::{Bed, Mesh, pods};
use crate::client::{self, Order, Reply};
use crate::istio::{self, Programs};
use crate::secrets;

/// How long a change may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(60);
/// The time between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// The client's identity, and the name of the files of its certificate.
const IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/frontend";
const CERTIFICATE: &str = "identity-of-frontend";
/// The client's namespace and name.
const CLIENT: &str = "shop/frontend";
/// Nobody has this address: a listener of all addresses takes the connection.
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 7));
const HOST: &str = "ratings.default.svc.cluster.local";
/// What is exported.
const EXPORT: [&str; 4] = ["export", "default/ratings", "--from", "east"];

/// Runs all checks and prints what came of each.
///
/// # Errors
/// Returns an error that says what differs from what is expected.
pub async fn run(isthmus: &Path, programs: &Programs) -> Result<()> {
    let (istiod, envoy) = programs.versions()?;
    println!("istiod {istiod}, Envoy {envoy}");
    let bed = Bed::of(isthmus, &Mesh::Istio(programs.clone()), include_str!("export.yaml")).await?;
    let checked = checks(&bed, programs).await;
    bed.down().await;
    checked
}

async fn checks(bed: &Bed, programs: &Programs) -> Result<()> {
    for (cluster, other) in [("west", "east"), ("east", "west")] {
        let secret = format!("istio-remote-secret-{other}");
        let delete = ["lab", "kubectl", cluster, "--", "-n", "istio-system", "delete", "secret", &secret];
        let (done, said) = bed.isthmus(&delete).await?;
        ensure!(done, "{said}");
    }
    write_certificate(bed).await?;
    let programs = programs.copied(bed.directory())?;
    bed.apply(namespace()).await?;
    bed.apply(pods::plaintext()).await?;
    let istiod = bed.istiod(&programs, "enableAutoMtls: true\n", &[]).await?;
    let pod = programs.with_envoy(client(bed.directory()), bed.directory(), istiod, CERTIFICATE);
    bed.apply(vec![pod]).await?;
    bed.ready("shop", "frontend").await?;

    let unknown = request(bed, "/").await?;
    ensure!(unknown.status != 200, "answered before the export is applied: {unknown:?}");
    apply(bed).await?;
    answers(bed, "/", "the whole service", |_| true).await?;
    istio::write_settings(bed.directory(), "enableAutoMtls: false\n")?;
    // The rule decides about mutual TLS, whatever the mesh settings are.
    tokio::time::sleep(Duration::from_secs(2)).await;
    answers(bed, "/", "the same without automatic mutual TLS", |_| true).await?;
    subsets(bed).await?;
    callers(bed).await?;
    identities(bed).await?;
    drift(bed).await
}

/// Writes a certificate of the client that its cluster's intermediate has signed, and the root.
async fn write_certificate(bed: &Bed) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(bed.client(), "istio-system");
    let data = api.get("cacerts").await?.data.unwrap_or_default();
    let entry = |name: &str| -> Result<String> {
        let bytes = data.get(name).with_context(|| format!("cacerts has no {name}"))?;
        Ok(String::from_utf8(bytes.0.clone())?)
    };
    let intermediate = entry("ca-cert.pem")?;
    let issuer = Issuer::from_ca_cert_pem(&intermediate, KeyPair::from_pem(&entry("ca-key.pem")?)?)?;
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.subject_alt_names.push(SanType::URI(IDENTITY.try_into()?));
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let chain = parameters.signed_by(&key, &issuer)?.pem() + &intermediate;
    for (name, content) in [
        (format!("{CERTIFICATE}.pem"), chain),
        (format!("{CERTIFICATE}.key"), key.serialize_pem()),
        (secrets::ROOTS.to_owned(), entry("root-cert.pem")?),
    ] {
        bed.write(&name, &content)?;
    }
    Ok(())
}

fn namespace() -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop", "labels": {"istio-injection": "disabled"}},
        }),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "frontend", "namespace": "shop"}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "istio-system"}}),
    ]
}

fn client(directory: &Path) -> Value {
    let socket = client::socket(directory, CLIENT);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "frontend", "namespace": "shop", "labels": {"app": "frontend"}},
        "spec": {
            "serviceAccountName": "frontend",
            "containers": [{
                "name": "client", "image": "isthmus-conformance",
                "command": [pods::program(directory)], "args": ["client", "--socket", socket],
                "readinessProbe": {"exec": {"command": ["test", "-S", socket]}, "periodSeconds": 1},
            }],
        },
    })
}

/// Applies what the command writes to the mesh of istiod, as users do.
async fn apply(bed: &Bed) -> Result<()> {
    let arguments = [&EXPORT[..], &["--apply", "--context", "west"]].concat();
    let (done, said) = bed.isthmus(&arguments).await?;
    ensure!(done, "isthmus {}: {said}", arguments.join(" "));
    Ok(())
}

async fn request(bed: &Bed, path: &str) -> Result<Reply> {
    let mut order = Order::get((ANYWHERE, 9080).into(), HOST, "export");
    order.path = path.to_owned();
    order.reconnect = true;
    let replies = client::order(&bed.client_socket(CLIENT), &order).await?;
    replies.into_iter().next().context("no reply")
}

/// Waits until a request is answered as expected.
async fn until(bed: &Bed, path: &str, expected: impl Fn(&Reply) -> bool) -> Result<Reply> {
    let begun = Instant::now();
    loop {
        let reply = request(bed, path).await?;
        if expected(&reply) {
            return Ok(reply);
        }
        if begun.elapsed() > IN_FORCE {
            let log = bed.proxy_log(CLIENT).await.unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            bail!("{path}: not as expected after {IN_FORCE:?}: {reply:?}\n{last:#?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Returns what the lab's test application answers.
fn body(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap_or_default()
}

/// Expects answers from pods of east that have seen the client's identity.
async fn answers(bed: &Bed, path: &str, what: &str, also: impl Fn(&Value) -> bool) -> Result<()> {
    let is_expected = |reply: &Reply| reply.status == 200 && also(&body(reply));
    let reply = until(bed, path, is_expected).await.context(what.to_owned())?;
    let answer = body(&reply);
    ensure!(answer["cluster"] == "east" && answer["identity"] == IDENTITY, "{what}: {answer}");
    println!("ok  {what}: {} of {}, seen as {IDENTITY}", answer["pod"], answer["cluster"]);
    Ok(())
}

/// A subset of the exporting mesh, to which a route of the importing mesh leads by its name.
async fn subsets(bed: &Bed) -> Result<()> {
    let subsets = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: versions, namespace: default}\nspec: {host: ratings, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}\n";
    bed.write("subsets.yaml", subsets)?;
    let file = bed.directory().join("subsets.yaml").display().to_string();
    let (done, said) = bed.isthmus(&["lab", "kubectl", "east", "--", "apply", "-f", &file]).await?;
    ensure!(done, "{said}");
    let begun = Instant::now();
    while !bed.isthmus(&EXPORT).await?.1.contains("_.v2_.") {
        ensure!(begun.elapsed() < IN_FORCE, "the subsets are not exported after {IN_FORCE:?}");
        tokio::time::sleep(LOOK).await;
    }
    apply(bed).await?;
    let route = |version: &str| {
        json!({
            "match": [{"uri": {"exact": format!("/{version}")}}],
            "route": [{"destination": {"host": HOST, "subset": version}}],
        })
    };
    let routes = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "versions", "namespace": "shop"},
        "spec": {"hosts": [HOST], "http": [route("v1"), route("v2"), {"route": [{"destination": {"host": HOST}}]}]},
    });
    bed.apply(vec![routes]).await?;
    for version in ["v1", "v2"] {
        let path = format!("/{version}");
        // Until the route is in force, any version answers.
        answers(bed, &path, &format!("subset {version}"), |answer| answer["version"] == version).await?;
        for _ in 0..10 {
            let reply = request(bed, &path).await?;
            ensure!(body(&reply)["version"] == version, "subset {version}: {reply:?}");
        }
    }
    Ok(())
}

/// The destination's policy decides by the identity of the caller.
async fn callers(bed: &Bed) -> Result<()> {
    let policy = |principal: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: callers, namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: ratings}}}}\n  rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]\n"
        )
    };
    let file = bed.directory().join("callers.yaml").display().to_string();
    for (principal, status) in [("cluster.local/ns/shop/sa/other", 403), ("cluster.local/ns/shop/sa/frontend", 200)] {
        bed.write("callers.yaml", &policy(principal))?;
        let (done, said) = bed.isthmus(&["lab", "kubectl", "east", "--", "apply", "-f", &file]).await?;
        ensure!(done, "{said}");
        until(bed, "/", |reply| reply.status == status)
            .await
            .with_context(|| format!("only {principal} is permitted"))?;
        println!("ok  east permits only {principal}: {status}");
    }
    Ok(())
}

/// The Envoy accepts no server of another identity.
async fn identities(bed: &Bed) -> Result<()> {
    let rule = |path: &str, value: Value| json!([{"op": "replace", "path": path, "value": value}]);
    let path = "/spec/trafficPolicy/portLevelSettings/0/tls/subjectAltNames";
    let other = json!(["spiffe://cluster.local/ns/default/sa/other"]);
    patch(bed, "DestinationRule", rule(path, other)).await?;
    until(bed, "/", |reply| reply.status == 503).await.context("a server of another identity")?;
    println!("ok  a server of another identity is refused");
    apply(bed).await?;
    answers(bed, "/", "the rule as it was exported", |_| true).await
}

/// A change in the importing mesh is named, and mended.
async fn drift(bed: &Bed) -> Result<()> {
    let check = [&EXPORT[..], &["--check", "--context", "west"]].concat();
    let (same, said) = bed.isthmus(&check).await?;
    ensure!(same, "without a change: {said}");
    let change = json!([{"op": "replace", "path": "/spec/endpoints/0/address", "value": "203.0.113.99"}]);
    patch(bed, "ServiceEntry", change).await?;
    let (same, said) = bed.isthmus(&check).await?;
    let expected = "ServiceEntry default/ratings-exported: spec.endpoints[0].address: is \"203.0.113.99\", expected \"203.0.113.20\"";
    ensure!(!same && said.contains(expected), "after a change: {said}");
    println!("ok  --check fails and says: {expected}");
    apply(bed).await?;
    answers(bed, "/", "after the drift is mended", |_| true).await
}

/// Changes an object of the importing mesh.
async fn patch(bed: &Bed, kind: &str, changes: Value) -> Result<()> {
    let changes = changes.to_string();
    let patch = ["-n", "default", "patch", kind, "ratings-exported", "--type", "json", "-p", &changes];
    let (done, said) = bed.isthmus(&[&["lab", "kubectl", "west", "--"][..], &patch].concat()).await?;
    ensure!(done, "{said}");
    Ok(())
}
