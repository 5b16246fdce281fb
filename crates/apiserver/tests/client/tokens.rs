//! Service accounts: tokens, permissions and reviews.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually, rejection};

fn with_token(cluster: &Cluster, token: String) -> Client {
    let mut config = Config::new(cluster.config.cluster_url.clone());
    config.root_cert = cluster.config.root_cert.clone();
    config.auth_info.token = Some(token.into());
    Client::try_from(config).expect("has a token")
}

async fn token_for(cluster: &Cluster, spec: Value) -> String {
    let request: TokenRequest = serde_json::from_value(json!({"spec": spec})).expect("is a request");
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "default");
    let answer = accounts.create_token_request("web", &PostParams::default(), &request).await.expect("issues");
    answer.status.expect("has a token").token
}

async fn review(cluster: &Cluster, token: &str, audiences: &[&str]) -> Value {
    let review: TokenReview =
        serde_json::from_value(json!({"spec": {"token": token, "audiences": audiences}})).expect("is a review");
    let answer = Api::all(cluster.client.clone()).create(&PostParams::default(), &review).await.expect("answers");
    serde_json::to_value(answer.status).expect("is JSON")
}

#[tokio::test]
async fn a_token_has_the_permissions_of_its_roles() {
    let cluster = Cluster::start().await;
    cluster.account("web").await;
    let client = with_token(&cluster, token_for(&cluster, json!({"audiences": []})).await);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let (code, reason, message) = rejection(maps.list(&ListParams::default()).await);
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        message,
        "configmaps is forbidden: User \"system:serviceaccount:default:web\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let role: Role = serde_json::from_value(json!({
        "metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    }))
    .expect("is a Role");
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "reader"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": "default"}],
    }))
    .expect("is a RoleBinding");
    Api::namespaced(cluster.client.clone(), "default").create(&PostParams::default(), &role).await.expect("creates");
    Api::namespaced(cluster.client.clone(), "default").create(&PostParams::default(), &binding).await.expect("creates");
    maps.list(&ListParams::default()).await.expect("may list now");
    assert_eq!(rejection(maps.get("kube-root-ca.crt").await).0, 403);
}

#[tokio::test]
async fn tokens_are_reviewed_for_an_audience() {
    let cluster = Cluster::start().await;
    cluster.account("web").await;
    let token = token_for(&cluster, json!({"audiences": ["istio-ca"], "expirationSeconds": 600})).await;
    let answer = review(&cluster, &token, &["istio-ca"]).await;
    assert_eq!(answer["authenticated"], true);
    assert_eq!(answer["user"]["username"], "system:serviceaccount:default:web");
    assert_eq!(answer["audiences"], json!(["istio-ca"]));
    assert_ne!(review(&cluster, &token, &["other"]).await["authenticated"], true);
    assert_ne!(review(&cluster, &token, &[]).await["authenticated"], true);
    assert_ne!(review(&cluster, "garbage", &["istio-ca"]).await["authenticated"], true);
    // A token of another cluster.
    let other = Cluster::start().await;
    other.account("web").await;
    let foreign = token_for(&other, json!({"audiences": ["istio-ca"]})).await;
    assert_ne!(review(&cluster, &foreign, &["istio-ca"]).await["authenticated"], true);
    // The token has another audience than the API server.
    let client = with_token(&cluster, token);
    assert_eq!(rejection(client.apiserver_version().await).0, 401);
}

#[tokio::test]
async fn the_token_of_a_deleted_account_is_invalid() {
    let cluster = Cluster::start().await;
    cluster.account("web").await;
    let token = token_for(&cluster, json!({"audiences": ["a"]})).await;
    assert_eq!(review(&cluster, &token, &["a"]).await["authenticated"], true);
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "default");
    accounts.delete("web", &DeleteParams::default()).await.expect("deletes");
    assert_ne!(review(&cluster, &token, &["a"]).await["authenticated"], true);
}

#[tokio::test]
async fn token_secrets_are_filled() {
    let cluster = Cluster::start().await;
    cluster.account("web").await;
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "default");
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "web-token", "annotations": {"kubernetes.io/service-account.name": "web"}},
        "type": "kubernetes.io/service-account-token",
    }))
    .expect("is a Secret");
    secrets.create(&PostParams::default(), &secret).await.expect("creates");
    let filled =
        async || secrets.get("web-token").await.expect("there").data.is_some_and(|data| data.contains_key("token"));
    eventually("the secret has a token", filled).await;
    let data = secrets.get("web-token").await.expect("there").data.expect("has data");
    let token = String::from_utf8(data["token"].0.clone()).expect("is text");
    assert_eq!(review(&cluster, &token, &[]).await["authenticated"], true);
    assert!(data["ca.crt"].0.starts_with(b"-----BEGIN CERTIFICATE-----"));
    secrets.delete("web-token", &DeleteParams::default()).await.expect("deletes");
    assert_ne!(review(&cluster, &token, &[]).await["authenticated"], true);
}

#[tokio::test]
async fn granting_a_permission_requires_the_permission() {
    let cluster = Cluster::start().await;
    cluster.account("web").await;
    let role = |name: &str, resource: &str| -> Role {
        let rules = json!([{"apiGroups": ["", "rbac.authorization.k8s.io"], "resources": [resource], "verbs": ["*"]}]);
        serde_json::from_value(json!({"metadata": {"name": name}, "rules": rules})).expect("is a Role")
    };
    let binding = |name: &str| -> RoleBinding {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": "default"}],
        }))
        .expect("is a RoleBinding")
    };
    let post = PostParams::default();
    let roles: Api<Role> = Api::namespaced(cluster.client.clone(), "default");
    let bindings: Api<RoleBinding> = Api::namespaced(cluster.client.clone(), "default");
    for (name, resource) in [("maps", "configmaps"), ("keys", "secrets")] {
        roles.create(&post, &role(name, resource)).await.expect("an administrator may");
    }
    // The account may write any role and binding, and read config maps, but has no verbs `escalate` and `bind`, which
    // `*` would include.
    let writer = json!([
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["get", "create", "update", "patch"]},
    ]);
    let writer: Role =
        serde_json::from_value(json!({"metadata": {"name": "writer"}, "rules": writer})).expect("a Role");
    roles.create(&post, &writer).await.expect("an administrator may");
    for name in ["writer", "maps"] {
        bindings.create(&post, &binding(name)).await.expect("an administrator may");
    }
    let client = with_token(&cluster, token_for(&cluster, json!({"audiences": []})).await);
    let roles: Api<Role> = Api::namespaced(client.clone(), "default");
    let bindings: Api<RoleBinding> = Api::namespaced(client, "default");
    roles.create(&post, &role("mine", "configmaps")).await.expect("what it holds it may grant");
    let (code, reason, message) = rejection(roles.create(&post, &role("more", "secrets")).await);
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    let words = "is attempting to grant RBAC permissions not currently held:\n{APIGroups:";
    assert!(
        message.starts_with("roles.rbac.authorization.k8s.io \"more\" is forbidden: user ") && message.contains(words),
        "{message}"
    );
    assert_eq!(rejection(bindings.create(&post, &binding("keys")).await).0, 403);
    bindings.create(&post, &binding("mine")).await.expect("and what it holds it may bind");
    let widened = json!({"rules": role("mine", "secrets").rules});
    let merge = kube::api::Patch::Merge(widened);
    assert_eq!(rejection(roles.patch("mine", &Default::default(), &merge).await).0, 403);
    // As in Kubernetes, only what garbage collection changes may change without holding the permissions.
    let labelled = kube::api::Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(rejection(roles.patch("keys", &Default::default(), &labelled).await).0, 403);
    let finalized = kube::api::Patch::Merge(json!({"metadata": {"finalizers": ["example.com/keeps"]}}));
    roles.patch("keys", &Default::default(), &finalized).await.expect("rights stay as they were");
    roles.patch("mine", &Default::default(), &labelled).await.expect("and what it holds it may change");
}

#[tokio::test]
async fn a_binding_to_a_role_that_does_not_exist_requires_the_verb_bind() {
    let cluster = Cluster::start().await;
    cluster.account("web").await;
    let binding = |name: &str, kind: &str, role: &str| {
        json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": "default"}],
        })
    };
    let local = |name: &str, kind: &str, role: &str| -> RoleBinding {
        serde_json::from_value(binding(name, kind, role)).expect("is a RoleBinding")
    };
    let wide = |name: &str, role: &str| -> ClusterRoleBinding {
        serde_json::from_value(binding(name, "ClusterRole", role)).expect("is a ClusterRoleBinding")
    };
    let rules = json!([
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings", "clusterrolebindings"], "verbs": ["get", "create", "patch"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "clusterroles"], "resourceNames": ["later"], "verbs": ["bind"]},
    ]);
    let writer: ClusterRole =
        serde_json::from_value(json!({"metadata": {"name": "writer"}, "rules": rules})).expect("is a ClusterRole");
    let post = PostParams::default();
    Api::<ClusterRole>::all(cluster.client.clone()).create(&post, &writer).await.expect("an administrator may");
    let admin: Api<ClusterRoleBinding> = Api::all(cluster.client.clone());
    admin.create(&post, &wide("writer", "writer")).await.expect("an administrator may");
    admin.create(&post, &wide("early", "none-yet")).await.expect("also to a role that does not exist");

    let client = with_token(&cluster, token_for(&cluster, json!({"audiences": []})).await);
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), "default");
    let wide_bindings: Api<ClusterRoleBinding> = Api::all(client);
    // The answer of kube-apiserver 1.36, which looks the role up in the context of the binding's request.
    let refused = (404, "NotFound".to_owned(), "rolebindings.rbac.authorization.k8s.io \"none\" not found".to_owned());
    for kind in ["Role", "ClusterRole"] {
        assert_eq!(rejection(bindings.create(&post, &local("mine", kind, "none")).await), refused);
        bindings.create(&post, &local(&kind.to_lowercase(), kind, "later")).await.expect("has the verb bind");
    }
    let refused = "clusterrolebindings.rbac.authorization.k8s.io \"none\" not found";
    assert_eq!(rejection(wide_bindings.create(&post, &wide("mine", "none")).await).2, refused);
    wide_bindings.create(&post, &wide("mine", "later")).await.expect("has the verb bind");
    // A change of the subjects grants as well.
    let others = kube::api::Patch::Merge(json!({"subjects": []}));
    assert_eq!(rejection(wide_bindings.patch("early", &Default::default(), &others).await).0, 404);
}
