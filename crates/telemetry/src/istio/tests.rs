use super::*;

fn labels() -> Labels {
    let party = |workload: &str, cluster: &str| Party {
        workload: workload.into(),
        namespace: "default".into(),
        cluster: cluster.into(),
        ..Party::default()
    };
    Labels {
        source: party("frontend", "west"),
        destination: party("ratings", "east"),
        service: Service {
            host: "ratings.default.svc.cluster.local".into(),
            name: "ratings".into(),
            namespace: "default".into(),
        },
        ..Labels::default()
    }
}

#[test]
fn requests_have_istios_labels_in_istios_order() {
    let registry = Registry::new();
    let series = Metrics::new(registry.worker()).http(&labels(), Protocol::Http);
    let ended = Ended {
        code: 200,
        grpc_status: None,
        flags: ResponseFlags::NONE,
        duration: Duration::from_micros(700),
        request_bytes: 0,
        response_bytes: 12,
    };
    let same = series.clone();
    same.record(&ended);
    series.record(&ended);
    series.record(&Ended { code: 503, flags: ResponseFlags::UPSTREAM_CONNECTION_FAILURE, ..ended });
    let text = registry.render();
    let expected = concat!(
        r#"istio_requests_total{reporter="source",source_workload="frontend",source_canonical_service="unknown","#,
        r#"source_canonical_revision="unknown",source_workload_namespace="default",source_principal="unknown","#,
        r#"source_app="unknown",source_version="unknown",source_cluster="west",destination_workload="ratings","#,
        r#"destination_workload_namespace="default",destination_principal="unknown",destination_app="unknown","#,
        r#"destination_version="unknown",destination_service="ratings.default.svc.cluster.local","#,
        r#"destination_canonical_service="unknown",destination_canonical_revision="unknown","#,
        r#"destination_service_name="ratings",destination_service_namespace="default",destination_cluster="east","#,
        r#"request_protocol="http",response_code="200",grpc_response_status="",response_flags="-","#,
        r#"connection_security_policy="unknown"} 2"#
    );
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("le=\"0.5\"} 0\n") && text.contains("le=\"1\"} 2\n"), "{text}");
    assert_eq!(registry.total(&REQUESTS, |labels| labels.contains(&("response_flags", "UF"))), 1);
}

#[test]
fn a_connection_is_reported_exactly_once() {
    let registry = Registry::new();
    let labels = Labels { reporter: Reporter::Destination, security: Security::MutualTls, ..labels() };
    let series = Metrics::new(registry.worker()).tcp(&labels);
    let connection = series.open();
    let total = |family| registry.total(family, |_| true);
    assert_eq!((total(&TCP_OPENED), total(&TCP_CLOSED)), (1, 0));
    connection.carried(10, 20);
    connection.carried(10, 25);
    assert_eq!((total(&TCP_SENT), total(&TCP_RECEIVED)), (10, 25));
    connection.ended(ResponseFlags::STREAM_IDLE_TIMEOUT);
    drop(connection);
    drop(series.open());
    assert_eq!((total(&TCP_OPENED), total(&TCP_CLOSED)), (2, 2));
    assert_eq!(registry.total(&TCP_CLOSED, |labels| labels.contains(&("response_flags", "SI"))), 1);
    let text = registry.render();
    assert!(text.contains(r#"request_protocol="tcp",response_flags="-",connection_security_policy="mutual_tls"} "#));
}

#[test]
fn the_build_is_reported() {
    let registry = Registry::new();
    register_build(&registry, "proxy");
    assert!(registry.render().contains("istio_build{component=\"proxy\",tag=\""));
}
