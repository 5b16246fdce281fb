use super::*;
use crate::mesh::MeshConfig;

const FULL: &str = r#"
extensionProviders:
- name: by-http
  envoyExtAuthzHttp:
    service: shop/auth.shop.svc.cluster.local
    port: 8000
    timeout: 250ms
    pathPrefix: /check
    failOpen: true
    clearRouteCache: true
    statusOnError: "503"
    includeRequestHeadersInCheck: [Cookie, x-user-*]
    includeHeadersInCheck: [ignored]
    includeAdditionalHeadersInCheck: {X-From: mesh}
    includeRequestBodyInCheck: {maxRequestBytes: 1024, allowPartialMessage: true, packAsBytes: true}
    headersToUpstreamOnAllow: [x-user]
    headersToDownstreamOnDeny: ["*-reason"]
    headersToDownstreamOnAllow: [set-cookie]
    strange: 1
- name: by-grpc
  envoyExtAuthzGrpc: {service: auth.example.com, port: 9000}
- name: traces
  zipkin: {service: zipkin, port: 9411}
"#;

#[test]
fn providers_are_read_with_all_fields() {
    let (config, warnings) = MeshConfig::parse(FULL).unwrap();
    let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let http = ExternalAuthorization {
        name: "by-http".into(),
        hostname: "auth.shop.svc.cluster.local".into(),
        namespace: "shop".into(),
        port: 8000,
        timeout: Duration::from_millis(250),
        fail_open: true,
        status_on_error: Some(503),
        body: Some(CheckedBody { max_bytes: 1024, allow_partial: true, pack_as_bytes: true }),
        http: Some(HttpCheck {
            path_prefix: "/check".into(),
            request_headers: texts(&["cookie", "x-user-*"]),
            added_headers: [("x-from".to_owned(), "mesh".to_owned())].into(),
            upstream_on_allow: texts(&["x-user"]),
            downstream_on_deny: texts(&["*-reason"]),
            downstream_on_allow: texts(&["set-cookie"]),
        }),
    };
    let grpc = ExternalAuthorization {
        name: "by-grpc".into(),
        hostname: "auth.example.com".into(),
        namespace: String::new(),
        port: 9000,
        timeout: TIMEOUT,
        fail_open: false,
        status_on_error: None,
        body: None,
        http: None,
    };
    assert_eq!(config.external_authorizations, [http, grpc]);
    let fields: Vec<&str> = warnings.iter().map(|warning| warning.field.as_str()).collect();
    assert_eq!(fields, ["extensionProviders[0].envoyExtAuthzHttp.strange", "extensionProviders[2].zipkin"]);
}

#[test]
fn invalid_values_are_errors_that_name_their_fields() {
    let http = |fields: &str| format!("{{name: p, envoyExtAuthzHttp: {{service: a.b, port: 80, {fields}}}}}");
    for (provider, field) in [
        ("1".to_owned(), "extensionProviders[0]"),
        ("{envoyExtAuthzGrpc: {service: a, port: 1}}".into(), "extensionProviders[0].name"),
        ("{name: A, envoyExtAuthzGrpc: {service: a, port: 1}}".into(), "extensionProviders[0].name"),
        ("{name: p, envoyExtAuthzGrpc: {port: 1}}".into(), "envoyExtAuthzGrpc.service"),
        ("{name: p, envoyExtAuthzGrpc: {service: a/b/c, port: 1}}".into(), "envoyExtAuthzGrpc.service"),
        ("{name: p, envoyExtAuthzGrpc: {service: /a, port: 1}}".into(), "envoyExtAuthzGrpc.service"),
        ("{name: p, envoyExtAuthzGrpc: {service: '*.a', port: 1}}".into(), "envoyExtAuthzGrpc.service"),
        ("{name: p, envoyExtAuthzGrpc: {service: a}}".into(), "envoyExtAuthzGrpc.port"),
        ("{name: p, envoyExtAuthzGrpc: {service: a, port: 65536}}".into(), "envoyExtAuthzGrpc.port"),
        ("{name: p, envoyExtAuthzGrpc: 1}".into(), "envoyExtAuthzGrpc"),
        ("{name: p, envoyExtAuthzGrpc: {}, envoyExtAuthzHttp: {}}".into(), "envoyExtAuthzGrpc"),
        (http("timeout: 0s"), "envoyExtAuthzHttp.timeout"),
        (http("pathPrefix: check"), "envoyExtAuthzHttp.pathPrefix"),
        (http("pathPrefix: '/a?b'"), "envoyExtAuthzHttp.pathPrefix"),
        (http("statusOnError: '999'"), "envoyExtAuthzHttp.statusOnError"),
        (http("statusOnError: 403"), "envoyExtAuthzHttp.statusOnError"),
        (http("includeRequestHeadersInCheck: ['*']"), "envoyExtAuthzHttp.includeRequestHeadersInCheck"),
        (http("headersToUpstreamOnAllow: ['a*b']"), "envoyExtAuthzHttp.headersToUpstreamOnAllow"),
        (http("includeAdditionalHeadersInCheck: {a: 1}"), "envoyExtAuthzHttp.includeAdditionalHeadersInCheck"),
        (http("includeAdditionalHeadersInCheck: {a: \"b\\nc\"}"), "includeAdditionalHeadersInCheck"),
        (http("includeRequestBodyInCheck: {}"), "includeRequestBodyInCheck.maxRequestBytes"),
    ] {
        let error = MeshConfig::parse(&format!("extensionProviders: [{provider}]")).unwrap_err().to_string();
        assert!(error.contains(field), "{provider}: {error}");
    }
    let twice = "extensionProviders: [{name: p, envoyExtAuthzGrpc: {service: a, port: 1}}, {name: p, envoyExtAuthzGrpc: {service: a, port: 1}}]";
    assert!(MeshConfig::parse(twice).unwrap_err().to_string().contains("extensionProviders[1].name"));
}
