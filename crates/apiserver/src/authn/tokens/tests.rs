use super::*;
use crate::certificates::service_account_key;
use serde_json::json;

fn store() -> ObjectStore {
    let store = ObjectStore::new(0, 16);
    let put = |plural: &str, name: &str, uid: &str| {
        let object = json!({"metadata": {"namespace": "default", "name": name, "uid": uid}});
        store.insert(&GroupResource::new("", plural), object).expect("new");
    };
    put("serviceaccounts", "web", "u1");
    put("pods", "web-1", "u2");
    put("secrets", "web-token", "u3");
    store
}

fn key() -> TokenKey {
    TokenKey::from_pem(&service_account_key().expect("generates"), "https://cluster").expect("P-256")
}

fn request<'a>(account: &'a ClaimReference, audience: &str, seconds: u64) -> TokenSpec<'a> {
    let pod = Some(ClaimReference { name: "web-1".into(), uid: "u2".into() });
    let audiences = vec![audience.to_owned()];
    TokenSpec { namespace: "default", account, audiences, seconds, pod, secret: None, node: None }
}

fn account() -> ClaimReference {
    ClaimReference { name: "web".into(), uid: "u1".into() }
}

#[test]
fn tokens_are_valid_for_their_audience_only() {
    let (store, key) = (store(), key());
    let tokens = TokenVerifier { key: &key, store: &store };
    let account = account();
    let token = key.issue(request(&account, "istio-ca", 600)).expect("signs");
    assert!(matches!(tokens.verify(&token, &[]), Err(TokenError::Audience { .. })));
    let wanted = vec!["x".to_owned(), "istio-ca".to_owned()];
    let verified = tokens.verify(&token, &wanted).expect("meant for it");
    assert_eq!(verified.audiences, ["istio-ca"]);
    assert_eq!(verified.user.name, "system:serviceaccount:default:web");
    assert!(verified.user.extra.contains(&("authentication.kubernetes.io/pod-name".into(), vec!["web-1".into()])));
}

#[test]
fn tokens_expire() {
    let (store, key) = (store(), key());
    let tokens = TokenVerifier { key: &key, store: &store };
    let account = account();
    let audience = ["istio-ca".to_owned()];
    let token = key.issue(request(&account, "istio-ca", 600)).expect("signs");
    let verified = tokens.verify(&token, &audience);
    verified.expect("its time is not over");
    // The same claims, signed by the same key, with a time that is over.
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_aud = false;
    let mut claims = jsonwebtoken::decode::<TokenClaims>(&token, &key.verifying, &validation).expect("ours").claims;
    let now = claims.exp.expect("an end") - 600;
    claims.exp = Some(now - LEEWAY - 60);
    let expired = key.sign(&claims).expect("signs");
    assert!(matches!(tokens.verify(&expired, &audience), Err(TokenError::Signature(_))));
    claims.exp = None;
    let endless = key.sign(&claims).expect("signs");
    assert!(tokens.verify(&endless, &audience).is_err(), "a bound token without an end");
}

#[test]
fn tokens_of_deleted_pods_are_invalid() {
    let (store, key) = (store(), key());
    let tokens = TokenVerifier { key: &key, store: &store };
    let account = account();
    let token = key.issue(request(&account, "https://cluster", 600)).expect("signs");
    tokens.verify(&token, &[]).expect("all there");
    let pods = GroupResource::new("", "pods");
    let pod = store.get(&pods, "default", "web-1").expect("there");
    store.remove(&pods, &pod, (*pod).clone()).expect("current");
    assert!(matches!(tokens.verify(&token, &[]), Err(TokenError::Deleted { .. })));
}

#[test]
fn foreign_and_malformed_tokens_are_rejected() {
    let (store, ours, theirs) = (store(), key(), key());
    let tokens = TokenVerifier { key: &ours, store: &store };
    let account = account();
    let foreign = theirs.issue(request(&account, "https://cluster", 600)).expect("signs");
    assert!(matches!(tokens.verify(&foreign, &[]), Err(TokenError::Signature(_))));
    for garbage in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
        assert!(tokens.verify(garbage, &[]).is_err());
    }
}

#[test]
fn tokens_of_deleted_secrets_are_invalid() {
    let (store, key) = (store(), key());
    let tokens = TokenVerifier { key: &key, store: &store };
    let token = key.issue_for_secret("default", "web-token", &account()).expect("signs");
    assert_eq!(tokens.verify(&token, &[]).expect("there").audiences, ["https://cluster"]);
    let secrets = GroupResource::new("", "secrets");
    let secret = store.get(&secrets, "default", "web-token").expect("there");
    store.remove(&secrets, &secret, (*secret).clone()).expect("current");
    assert!(tokens.verify(&token, &[]).is_err());
}
