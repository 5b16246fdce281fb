//! An authorized request to a resource.

use std::sync::{Arc, Mutex, PoisonError};

use http::header::HeaderValue;
use http::{Method, Response};

use crate::api::Api;
use crate::authn::User;
use crate::body::Body;
use crate::encode::Form;
use crate::registry::Served;
use crate::route::{Query, ResourceRoute};
use crate::status::{Result, Status};

/// How many warnings a response carries at most, and how long each may be.
const MOST_WARNINGS: usize = 20;
const LONGEST_WARNING: usize = 256;

/// What a request to a resource wants.
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
pub(crate) struct Call {
    pub(crate) api: Arc<Api>,
    pub(crate) user: User,
    pub(crate) verb: Verb,
    pub(crate) served: Arc<Served>,
    pub(crate) route: ResourceRoute,
    pub(crate) query: Query,
    pub(crate) form: Form,
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

    pub(crate) fn of(method: &Method, route: &ResourceRoute, query: &Query) -> Result<Self> {
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

impl Call {
    /// Tells the client something beside the answer.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        let text = text.into();
        if warnings.len() < MOST_WARNINGS && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// The name under which this caller's fields are noted.
    pub(crate) fn manager(&self) -> String {
        const LONGEST: usize = 128;
        let given = self.query.get("fieldManager").map(str::to_owned);
        let manager = given.unwrap_or_else(|| self.user_agent.split('/').next().unwrap_or("").to_owned());
        let manager: String = manager.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
        if manager.is_empty() { "unknown".to_owned() } else { manager }
    }

    pub(crate) fn add_warnings(&self, response: &mut Response<Body>) {
        for warning in self.warnings.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let text: String = warning.chars().filter(|c| !c.is_control()).take(LONGEST_WARNING).collect();
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append("warning", value);
            }
        }
    }
}
