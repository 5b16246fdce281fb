//! Istio's own validation of objects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::Bed;
use crate::client::{self, Order};

/// The groups whose objects istiod validates.
const GROUPS: [&str; 2] = ["networking.istio.io/", "security.istio.io/"];

impl Bed {
    /// Applies objects, and returns which are refused, and why. Istio's own validation is asked where there is an istiod, by a client
    /// that reaches it.
    ///
    /// # Errors
    /// Returns an error if istiod does not answer.
    pub(crate) async fn admitted(
        &self,
        istiod: Option<IpAddr>,
        by: &str,
        objects: Vec<(String, Value)>,
    ) -> Result<BTreeMap<String, String>> {
        let Some(istiod) = istiod else { return Ok(self.refused(objects).await.into_iter().collect()) };
        let mut refused = BTreeMap::new();
        let mut valid = Vec::new();
        for (case, object) in objects {
            match self.validated(istiod, by, &object).await? {
                None => valid.push((case, object)),
                Some(why) => drop(refused.insert(case, why)),
            }
        }
        refused.extend(self.refused(valid).await);
        Ok(refused)
    }

    /// Asks istiod about an object, as an API server does, and returns why it is refused.
    async fn validated(&self, istiod: IpAddr, by: &str, object: &Value) -> Result<Option<String>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version = text(&object["apiVersion"]);
        if !GROUPS.iter().any(|group| version.starts_with(group)) {
            return Ok(None);
        }
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let kind = text(&object["kind"]);
        let lower = kind.to_lowercase();
        let plural = lower.strip_suffix('y').map_or_else(|| format!("{lower}s"), |stem| format!("{stem}ies"));
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "case", "operation": "CREATE", "userInfo": {}, "object": object,
                "kind": {"group": group, "version": version, "kind": kind},
                "resource": {"group": group, "version": version, "resource": plural},
                "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"],
            },
        });
        let mut order = Order::get((istiod, 8080).into(), "istiod", "validate");
        (order.method, order.path, order.body) = ("POST".to_owned(), "/validate".to_owned(), review.to_string());
        order.headers.insert("content-type".to_owned(), "application/json".to_owned());
        let replies = client::order(&self.client_socket(by), &order).await?;
        let body = replies.into_iter().next().context("no reply")?.body;
        let review: Value = serde_json::from_str(&body).with_context(|| format!("istiod's validation: {body}"))?;
        match review["response"]["allowed"].as_bool() {
            Some(true) => Ok(None),
            Some(false) => Ok(Some(text(&review["response"]["status"]["message"]))),
            None => bail!("istiod's validation: {body}"),
        }
    }
}
