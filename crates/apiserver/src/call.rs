//! An authorized request to a resource.

use std::sync::{Arc, Mutex, PoisonError};

use http::header::HeaderValue;
use http::{Method, Response};

use crate::api::Api;
use crate::authn::UserInfo;
use crate::body::ResponseBody;
use crate::encode::ResponseFormat;
use crate::registry::ServedResource;
use crate::route::{QueryParameters, ResourceRoute};
use crate::status::{Result, Status};

/// Most warnings of a response, and their greatest length.
const MAX_WARNINGS: usize = 20;
const MAX_WARNING_LENGTH: usize = 256;

/// The verb of a request to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

/// An authorized request to a resource.
pub(crate) struct ApiCall {
    pub(crate) api: Arc<Api>,
    pub(crate) user: UserInfo,
    pub(crate) verb: Verb,
    pub(crate) served: Arc<ServedResource>,
    pub(crate) route: ResourceRoute,
    pub(crate) query: QueryParameters,
    pub(crate) format: ResponseFormat,
    /// Content type of the body, without parameters.
    pub(crate) content_type: String,
    pub(crate) user_agent: String,
    pub(crate) warnings: Mutex<Vec<String>>,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    pub(crate) fn of(method: &Method, route: &ResourceRoute, query: &QueryParameters) -> Result<Self> {
        let named = !route.name.is_empty();
        Ok(match *method {
            Method::GET | Method::HEAD if query.flag("watch") && route.subresource.is_empty() => Self::Watch,
            Method::GET | Method::HEAD if named => Self::Get,
            Method::GET | Method::HEAD => Self::List,
            Method::POST => Self::Create,
            Method::PUT => Self::Update,
            Method::PATCH => Self::Patch,
            Method::DELETE if named => Self::Delete,
            Method::DELETE => Self::DeleteCollection,
            _ => return Err(Status::method_not_allowed()),
        })
    }
}

impl ApiCall {
    /// Adds a warning to the response.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        let text = text.into();
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// The field manager of the request.
    pub(crate) fn manager(&self) -> String {
        const MAX_LENGTH: usize = 128;
        let given = self.query.get("fieldManager").map(str::to_owned);
        let manager = given.unwrap_or_else(|| self.user_agent.split('/').next().unwrap_or("").to_owned());
        let manager: String = manager.chars().filter(|c| !c.is_control()).take(MAX_LENGTH).collect();
        if manager.is_empty() { "unknown".to_owned() } else { manager }
    }

    pub(crate) fn add_warnings(&self, response: &mut Response<ResponseBody>) {
        for warning in self.warnings.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let text: String = warning.chars().filter(|c| !c.is_control()).take(MAX_WARNING_LENGTH).collect();
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append("warning", value);
            }
        }
    }
}
