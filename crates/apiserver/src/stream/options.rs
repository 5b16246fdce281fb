//! Query parameters of streams.

use serde_json::Value;
use time::OffsetDateTime;

use crate::status::Status;
use crate::timestamp;

/// Query parameters of `exec`, `attach`, `log` and `portforward`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct StreamOptions {
    pub(super) container: Option<String>,
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
    pub(super) follow: bool,
    pub(super) previous: bool,
    pub(super) timestamps: bool,
    pub(super) tail_lines: Option<u64>,
    pub(super) limit_bytes: Option<u64>,
    pub(super) since_seconds: Option<u64>,
    pub(super) ports: Vec<u16>,
}

impl StreamOptions {
    pub(super) fn parse(query: &str) -> Result<Self, Status> {
        let mut options = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let flag = || matches!(&*value, "" | "1" | "true" | "True" | "TRUE" | "t" | "T");
            match &*key {
                "container" if !value.is_empty() => options.container = Some(value.into_owned()),
                "command" => options.command.push(value.into_owned()),
                "stdin" => options.stdin = flag(),
                "stdout" => options.stdout = flag(),
                "stderr" => options.stderr = flag(),
                "tty" => options.tty = flag(),
                "follow" => options.follow = flag(),
                "previous" => options.previous = flag(),
                "timestamps" => options.timestamps = flag(),
                "tailLines" => options.tail_lines = Some(number(&key, &value)?),
                "limitBytes" => options.limit_bytes = Some(number(&key, &value)?),
                "sinceSeconds" => options.since_seconds = Some(number(&key, &value)?),
                "sinceTime" => options.since_seconds = Some(seconds_since(&value)?),
                "ports" => {
                    for port in value.split(',').filter(|port| !port.is_empty()) {
                        options.ports.push(port.parse().map_err(|_| {
                            Status::bad_request(format!(
                                "unable to parse {port:?} as a port: must be between 1 and 65535"
                            ))
                        })?);
                    }
                }
                _ => {}
            }
        }
        Ok(options)
    }

    /// The requested container, or the pod's only or default container.
    pub(super) fn container<'a>(&'a self, pod: &'a Value) -> Result<&'a str, Status> {
        let names = |list: &str| -> Vec<&'a str> {
            let containers = pod["spec"][list].as_array().map_or(&[][..], Vec::as_slice);
            containers.iter().filter_map(|container| container["name"].as_str()).collect()
        };
        let pod_name = pod["metadata"]["name"].as_str().unwrap_or("");
        let (init, main, debug) = (names("initContainers"), names("containers"), names("ephemeralContainers"));
        match (&self.container, main.as_slice()) {
            (Some(name), _) => {
                let known = init.iter().chain(&main).chain(&debug).any(|known| known == name);
                if known {
                    Ok(name)
                } else {
                    Err(Status::bad_request(format!("container {name} is not valid for pod {pod_name}")))
                }
            }
            (None, [only]) if init.is_empty() => Ok(only),
            (None, _) => {
                let annotation = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
                if let Some(name) = annotation.filter(|name| main.contains(name)) {
                    return Ok(name);
                }
                let mut message = format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                    main.join(" ")
                );
                if !init.is_empty() {
                    message += &format!(" or one of the init containers: [{}]", init.join(" "));
                }
                Err(Status::bad_request(message))
            }
        }
    }
}

fn number(key: &str, value: &str) -> Result<u64, Status> {
    value.parse().map_err(|_| {
        Status::bad_request(format!("{key}: Invalid value: {value:?}: must be greater than or equal to 0"))
    })
}

fn seconds_since(text: &str) -> Result<u64, Status> {
    let then = timestamp::parse(text)
        .ok_or_else(|| Status::bad_request(format!("sinceTime: Invalid value: {text:?}: not an RFC 3339 time")))?;
    // The agent counts whole seconds: round up.
    let past = (OffsetDateTime::now_utc() - then).whole_seconds().max(0);
    Ok(u64::try_from(past).unwrap_or(0) + 1)
}
