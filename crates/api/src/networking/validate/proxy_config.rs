//! ProxyConfigs.

use super::{Check, names};
use crate::networking::proxy_config::ProxyConfigSpec;
use crate::proxy_settings::{MAX_CONCURRENCY, MAX_VARIABLES, is_variable};

pub(super) fn check(spec: &ProxyConfigSpec, check: &mut Check) {
    check.some("selector", &spec.selector, |selector, check| {
        names::label_map(check, "matchLabels", &selector.match_labels);
    });
    if spec.concurrency.is_some_and(|threads| threads > MAX_CONCURRENCY) {
        check.error_of("concurrency", format!("is more than {MAX_CONCURRENCY}; write a number of threads"));
    }
    if spec.environment_variables.len() > MAX_VARIABLES {
        check.error_of("environmentVariables", format!("has more than {MAX_VARIABLES} variables; remove some"));
    }
    for name in spec.environment_variables.keys().filter(|name| !is_variable(name)) {
        check.error_of(
            "environmentVariables",
            format!("has {:?}, which is not the name of an environment variable", names::shown(name)),
        );
    }
    if spec.image.is_some() {
        let instead =
            "has no effect: the image has one form; set annotation sidecar.istio.io/proxyImage for another one";
        check.warn_of("image", instead);
    }
}
