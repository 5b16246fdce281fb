//! `pods/log`: the output of a container as text.

use std::io;

use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::BodyExt;
use serde_json::Value;

use super::node::NodeClient;
use super::options::StreamOptions;
use crate::body::ResponseBody;
use crate::status::Status;

pub(super) async fn serve(
    node: &NodeClient,
    pod: &Value,
    options: &StreamOptions,
) -> Result<Response<ResponseBody>, Status> {
    let container = options.container(pod)?;
    let output = node.logs(pod, container, options).await?;
    let mut response = Response::new(output.map_err(io::Error::other).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
