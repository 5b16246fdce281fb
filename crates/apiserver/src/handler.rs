//! One request, step by step: route, authenticate, authorize, then the verb.

use std::sync::{Arc, Mutex};

use http::header::{HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;

use crate::api::Api;
use crate::authn::{self, User};
use crate::body::{self, Body};
use crate::call::{Call, Verb};
use crate::encode::Form;
use crate::kinds::Subresource;
use crate::rbac::{self, Attributes};
use crate::registry::Served;
use crate::route::{Query, ResourceRoute, Route};
use crate::status::{Result, Status};
use crate::verbs::{binding, create, delete, eviction, read, reviews, scale, tokens, update};
use crate::{discovery, stream, watch};

/// Answers one request. `certificate_user` is the owner of the connection's client certificate.
pub(crate) async fn handle(
    api: Arc<Api>,
    certificate_user: Option<Arc<User>>,
    request: Request<Incoming>,
) -> Response<Body> {
    let method = request.method().clone();
    let uri = request.uri().clone();
    match answer(api, certificate_user.as_deref(), request).await {
        Ok(response) => response,
        Err(status) => {
            tracing::debug!(%method, %uri, code = status.code, reason = %status.reason, message = status.message, "refused");
            body::error(&status)
        }
    }
}

async fn answer(api: Arc<Api>, certificate_user: Option<&User>, request: Request<Incoming>) -> Result<Response<Body>> {
    let route = Route::parse(request.uri().path())?;
    let query = Query::parse(request.uri().query());
    let user = authn::authenticate(certificate_user, request.headers(), &api.tokens())?;
    let user = act_as(&api, user, request.headers())?;
    match route {
        Route::Path(path) => {
            discovery::authorize(&api, &user, request.method(), &path)?;
            discovery::answer(&api, request.method(), &path, request.headers())
        }
        Route::Resource(route) => {
            let verb = Verb::of(request.method(), &route, &query)?;
            authorize(&api, &user, verb, &route, &query)?;
            let served = find(&api, &route)?;
            let form = Form::negotiate(request.headers(), &query)?;
            let header =
                |key| request.headers().get(key).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or("");
            let content_type =
                header(http::header::CONTENT_TYPE).split(';').next().unwrap_or("").trim().to_ascii_lowercase();
            let user_agent = header(USER_AGENT).to_owned();
            let warnings = Mutex::new(served.custom.iter().filter_map(|custom| custom.deprecation.clone()).collect());
            let call = Call { api, user, verb, served, route, query, form, content_type, user_agent, warnings };
            let call = Arc::new(call);
            let mut response = dispatch(&call, request).await.unwrap_or_else(|status| body::error(&status));
            call.add_warnings(&mut response);
            Ok(response)
        }
    }
}

/// Takes on the identity that the caller asks for, if it may.
fn act_as(api: &Api, user: User, headers: &HeaderMap) -> Result<User> {
    let Some(other) = authn::impersonated(headers) else { return Ok(user) };
    let may = |resource: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate".into(),
            resource: resource.into(),
            name: name.into(),
            ..Attributes::default()
        };
        if rbac::allowed(&api.store, &user, &attributes) { Ok(()) } else { Err(rbac::refusal(&user, &attributes)) }
    };
    may("users", &other.name)?;
    for group in &other.groups {
        may("groups", group)?;
    }
    Ok(other)
}

fn authorize(api: &Api, user: &User, verb: Verb, route: &ResourceRoute, query: &Query) -> Result<()> {
    let mut name = route.name.clone();
    if matches!(verb, Verb::List | Verb::Watch)
        && let Some(pinned) = query.get("fieldSelector").and_then(|fields| fields.strip_prefix("metadata.name="))
    {
        // A list or watch of one name is allowed to whoever may list or watch that name.
        name = pinned.to_owned();
    }
    // A namespace is in itself, as far as roles are concerned.
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

fn find(api: &Api, route: &ResourceRoute) -> Result<Arc<Served>> {
    let snapshot = api.registry.snapshot();
    let served =
        snapshot.resource(&route.group, &route.version, &route.plural).cloned().ok_or_else(Status::no_such_resource)?;
    let in_namespace = !route.namespace.is_empty();
    if in_namespace && !served.kind.namespaced || served.kind.namespaced && !in_namespace && !route.name.is_empty() {
        return Err(Status::no_such_resource());
    }
    Ok(served)
}

async fn dispatch(call: &Arc<Call>, request: Request<Incoming>) -> Result<Response<Body>> {
    if !call.route.subresource.is_empty() {
        return dispatch_part(call, request).await;
    }
    let stored = call.served.kind.is_stored();
    match call.verb {
        Verb::Create if !stored => reviews::answer(call, body::read(request.into_body()).await?),
        _ if !stored => Err(Status::method_not_allowed()),
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

async fn dispatch_part(call: &Arc<Call>, request: Request<Incoming>) -> Result<Response<Body>> {
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

async fn pod(call: &Call, part: Subresource, request: Request<Incoming>) -> Result<Response<Body>> {
    let pod = call.api.get(&call.served, &call.route.namespace, &call.route.name)?;
    let node = call.api.node.as_ref().ok_or_else(|| Status::unavailable("no node agent serves this cluster's pods"))?;
    stream::pod(node, part, &pod, request).await
}

async fn proxy(call: &Call, request: Request<Incoming>) -> Result<Response<Body>> {
    let target = stream::ProxyTarget::parse(&call.route.name).ok_or_else(|| {
        Status::bad_request(format!("invalid proxy target {:?}: write [scheme:]name[:port]", call.route.name))
    })?;
    let object = call.api.get(&call.served, &call.route.namespace, &target.name)?;
    stream::proxy(&call.served.kind, &object, &target, &call.route.rest, request).await
}
