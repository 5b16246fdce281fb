//! What the reader account of a cluster may do: read what a controller watches, and no Secrets.

use api::reader::READER;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};

use super::report::Finding;

/// What the reader must be permitted: verb, group and resource.
const NEEDED: &[(&str, &str, &str)] = &[
    ("watch", "", "services"),
    ("watch", "", "pods"),
    ("watch", "discovery.k8s.io", "endpointslices"),
    ("watch", "multicluster.x-k8s.io", "serviceexports"),
];
/// What it must be denied.
const FORBIDDEN: &[(&str, &str, &str)] =
    &[("get", "", "secrets"), ("list", "", "secrets"), ("delete", "", "pods"), ("create", "", "pods/exec")];

/// Checks the reader account, if there is one.
pub(super) async fn check(client: &Client, name: &str, namespace: &str) -> Option<Finding> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    match accounts.get_opt(READER).await {
        Ok(Some(_)) => {}
        // The cluster has not joined, or reads itself alone.
        Ok(None) => return None,
        Err(error) => return Some(unknown(name, &error)),
    }
    let (mut lacks, mut exceeds) = (Vec::new(), Vec::new());
    for (wanted, list) in [(true, NEEDED), (false, FORBIDDEN)] {
        for (verb, group, resource) in list {
            let allowed = match allows(client, namespace, (verb, group, resource)).await {
                Ok(allowed) => allowed,
                Err(error) => return Some(unknown(name, &error)),
            };
            match (wanted, allowed) {
                (true, false) => lacks.push(format!("{verb} {resource}")),
                (false, true) => exceeds.push(format!("{verb} {resource}")),
                _ => {}
            }
        }
    }
    Some(match (lacks.is_empty(), exceeds.is_empty()) {
        (_, false) => Finding::failure("reader", name, format!("{READER} may {}", exceeds.join(", ")))
            .advise("remove the roles that permit it: a controller of another cluster has this account's token"),
        (false, true) => Finding::failure("reader", name, format!("{READER} may not {}", lacks.join(", ")))
            .advise(format!("renew its roles: isthmus join {name}")),
        (true, true) => Finding::ok("reader", name, "reads what is watched, and no Secrets"),
    })
}

fn unknown(name: &str, error: &kube::Error) -> Finding {
    let text = format!("permissions cannot be reviewed: {}", install::client_error::describe(error));
    Finding::unknown("reader", name, text).advise("use an account that may create subjectaccessreviews")
}

/// Returns whether the reader may do something in all namespaces.
async fn allows(client: &Client, namespace: &str, (verb, group, resource): (&str, &str, &str)) -> kube::Result<bool> {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    let groups = ["system:serviceaccounts", "system:authenticated"].map(str::to_owned).into_iter();
    let spec = SubjectAccessReviewSpec {
        user: Some(format!("system:serviceaccount:{namespace}:{READER}")),
        groups: Some(groups.chain([format!("system:serviceaccounts:{namespace}")]).collect()),
        resource_attributes: Some(ResourceAttributes {
            verb: Some(verb.to_owned()),
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource,
            ..ResourceAttributes::default()
        }),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let answer = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
}
