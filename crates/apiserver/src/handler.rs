//! The handler of requests: route, authenticate, authorize, then the verb.

use std::sync::{Arc, Mutex};

use http::header::{HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;

use crate::api::Api;
use crate::authn::{self, UserInfo};
use crate::body::{self, ResponseBody};
use crate::call::{ApiCall, Verb};
use crate::encode::ResponseFormat;
use crate::kinds::{Subresource, Verbs};
use crate::rbac::{self, Attributes};
use crate::registry::ServedResource;
use crate::route::{QueryParameters, RequestRoute, ResourceRoute};
use crate::status::{Result, Status};
use crate::verbs::{binding, create, delete, eviction, metrics, read, reviews, scale, tokens, update};
use crate::{discovery, stream, watch};

/// Handles one request. `certificate_user` is the subject of the connection's client certificate.
pub(crate) async fn handle(
    api: Arc<Api>,
    certificate_user: Option<Arc<UserInfo>>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let method = request.method().clone();
    let uri = request.uri().clone();
    match answer(api, certificate_user.as_deref(), request).await {
        Ok(response) => response,
        Err(status) => {
            tracing::debug!(%method, %uri, code = status.code, reason = %status.reason, message = status.message, "request rejected");
            body::error(&status)
        }
    }
}

async fn answer(
    api: Arc<Api>,
    certificate_user: Option<&UserInfo>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>> {
    let route = RequestRoute::parse(request.uri().path())?;
    let query = QueryParameters::parse(request.uri().query());
    let user = authn::authenticate(certificate_user, request.headers(), &api.tokens())?;
    let user = act_as(&api, user, request.headers())?;
    match route {
        RequestRoute::Path(path) => {
            discovery::authorize(&api, &user, request.method(), &path)?;
            discovery::answer(&api, request.method(), &path, request.headers())
        }
        RequestRoute::Resource(route) => {
            let verb = Verb::of(request.method(), &route, &query)?;
            authorize(&api, &user, verb, &route, &query)?;
            let served = find(&api, &route)?;
            let format = ResponseFormat::negotiate(request.headers(), &query)?;
            let header =
                |key| request.headers().get(key).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or("");
            let content_type =
                header(http::header::CONTENT_TYPE).split(';').next().unwrap_or("").trim().to_ascii_lowercase();
            let user_agent = header(USER_AGENT).to_owned();
            let warnings = Mutex::new(served.custom.iter().filter_map(|custom| custom.deprecation.clone()).collect());
            let call = ApiCall { api, user, verb, served, route, query, format, content_type, user_agent, warnings };
            let call = Arc::new(call);
            let mut response = dispatch(&call, request).await.unwrap_or_else(|status| body::error(&status));
            call.add_warnings(&mut response);
            Ok(response)
        }
    }
}

/// Returns the impersonated user if the caller may impersonate it, or the caller without impersonation.
fn act_as(api: &Api, user: UserInfo, headers: &HeaderMap) -> Result<UserInfo> {
    let Some(other) = authn::impersonated(headers) else { return Ok(user) };
    let may = |group: &str, resource: &str, subresource: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Attributes::default()
        };
        if rbac::allowed(&api.store, &user, &attributes) { Ok(()) } else { Err(rbac::refusal(&user, &attributes)) }
    };
    const AUTHENTICATION: &str = "authentication.k8s.io";
    may("", "users", "", &other.name)?;
    for group in &other.groups {
        may("", "groups", "", group)?;
    }
    if !other.uid.is_empty() {
        may(AUTHENTICATION, "uids", "", &other.uid)?;
    }
    for (key, values) in &other.extra {
        for value in values {
            may(AUTHENTICATION, "userextras", key, value)?;
        }
    }
    Ok(other)
}

fn authorize(api: &Api, user: &UserInfo, verb: Verb, route: &ResourceRoute, query: &QueryParameters) -> Result<()> {
    let mut name = route.name.clone();
    if matches!(verb, Verb::List | Verb::Watch)
        && let Some(pinned) = query.get("fieldSelector").and_then(|fields| fields.strip_prefix("metadata.name="))
    {
        // A list or watch that selects one name requires the permission for that name only.
        name = pinned.to_owned();
    }
    // For RBAC a namespace is an object in itself.
    let namespace = if route.plural == "namespaces" { route.name.clone() } else { route.namespace.clone() };
    let attributes = Attributes {
        verb: verb.name().into(),
        group: route.group.clone(),
        resource: route.plural.clone(),
        subresource: route.subresource.clone(),
        namespace,
        name,
        path: None,
    };
    if rbac::allowed(&api.store, user, &attributes) { Ok(()) } else { Err(rbac::refusal(user, &attributes)) }
}

fn find(api: &Api, route: &ResourceRoute) -> Result<Arc<ServedResource>> {
    let snapshot = api.registry.snapshot();
    let served =
        snapshot.resource(&route.group, &route.version, &route.plural).cloned().ok_or_else(Status::no_such_resource)?;
    let in_namespace = !route.namespace.is_empty();
    if in_namespace && !served.kind.namespaced || served.kind.namespaced && !in_namespace && !route.name.is_empty() {
        return Err(Status::no_such_resource());
    }
    Ok(served)
}

async fn dispatch(call: &Arc<ApiCall>, request: Request<Incoming>) -> Result<Response<ResponseBody>> {
    if !call.route.subresource.is_empty() {
        return dispatch_part(call, request).await;
    }
    match (call.served.kind.verbs, call.verb) {
        (Verbs::All, _) => {}
        (Verbs::CreateOnly, Verb::Create) => return reviews::answer(call, body::read(request.into_body()).await?),
        (Verbs::ReadOnly, Verb::Get | Verb::List | Verb::Watch) => return metrics::answer(call).await,
        (Verbs::CreateOnly | Verbs::ReadOnly, _) => return Err(Status::method_not_allowed()),
    }
    match call.verb {
        Verb::Create if !call.route.name.is_empty() => Err(Status::method_not_allowed()),
        Verb::Update | Verb::Patch if call.route.name.is_empty() => Err(Status::method_not_allowed()),
        Verb::Get => read::get(call),
        Verb::List => read::list(call),
        Verb::Watch => watch::start(call),
        Verb::Create => create::create(call, body::read(request.into_body()).await?).await,
        Verb::Update | Verb::Patch => update::update(call, body::read(request.into_body()).await?).await,
        Verb::Delete => delete::delete(call, body::read(request.into_body()).await?).await,
        Verb::DeleteCollection => delete::collection(call, body::read(request.into_body()).await?).await,
    }
}

async fn dispatch_part(call: &Arc<ApiCall>, request: Request<Incoming>) -> Result<Response<ResponseBody>> {
    let part = Subresource::from_name(&call.route.subresource).filter(|part| call.served.kind.has(*part));
    let part = part.ok_or_else(Status::no_such_resource)?;
    if call.route.name.is_empty() {
        return Err(Status::no_such_resource());
    }
    match (part, call.verb) {
        (Subresource::Proxy, _) => proxy(call, request).await,
        (Subresource::Log, Verb::Get)
        | (Subresource::Exec | Subresource::Attach | Subresource::PortForward, Verb::Get | Verb::Create) => {
            pod(call, part, request).await
        }
        (Subresource::Status | Subresource::EphemeralContainers, Verb::Get) => read::get(call),
        (Subresource::Status | Subresource::EphemeralContainers, Verb::Update | Verb::Patch)
        | (Subresource::Finalize, Verb::Update) => update::update(call, body::read(request.into_body()).await?).await,
        (Subresource::Scale, Verb::Get) => scale::get(call),
        (Subresource::Scale, Verb::Update | Verb::Patch) => {
            scale::update(call, body::read(request.into_body()).await?).await
        }
        (Subresource::Eviction, Verb::Create) => eviction::create(call, body::read(request.into_body()).await?).await,
        (Subresource::Binding, Verb::Create) => binding::create(call, body::read(request.into_body()).await?),
        (Subresource::Token, Verb::Create) => tokens::create(call, body::read(request.into_body()).await?),
        _ => Err(Status::method_not_allowed()),
    }
}

async fn pod(call: &ApiCall, part: Subresource, request: Request<Incoming>) -> Result<Response<ResponseBody>> {
    let pod = call.api.get(&call.served, &call.route.namespace, &call.route.name)?;
    let node = call
        .api
        .node
        .as_ref()
        .ok_or_else(|| Status::unavailable("no node agent is configured for this cluster's pods"))?;
    stream::pod(node, part, &pod, request).await
}

async fn proxy(call: &ApiCall, request: Request<Incoming>) -> Result<Response<ResponseBody>> {
    let target = stream::ProxyTarget::parse(&call.route.name).ok_or_else(|| {
        Status::bad_request(format!("invalid proxy target {:?}: must be [scheme:]name[:port]", call.route.name))
    })?;
    let object = call.api.get(&call.served, &call.route.namespace, &target.name)?;
    stream::proxy(&call.served.kind, &object, &target, &call.route.rest, request).await
}
