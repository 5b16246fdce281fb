use std::sync::Arc;

use super::*;
use crate::yaml;

fn judged(document: &str) -> Option<Judgement> {
    let path: Arc<str> = "a.yaml".into();
    let document = yaml::documents(document).into_iter().next().unwrap().unwrap();
    judge(Object::of_document(document, &path, "default")[0].as_ref().unwrap())
}

fn object(group: &str, kind: &str, rest: &str) -> String {
    format!("apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\n{rest}")
}

#[test]
fn every_object_of_a_mesh_has_a_verdict() {
    let istio = "networking.istio.io";
    for (document, verdict, noted) in [
        (object(istio, "DestinationRule", "spec: {host: a}"), Verdict::Works, ""),
        (object(istio, "EnvoyFilter", "spec: {}"), Verdict::CannotWork, "no proxy is Envoy"),
        (object(istio, "VirtualService", "spec: {hosts: [a], gateways: [edge], http: [{route: [{destination: {host: a}}]}]}"), Verdict::Works, ""),
        (object(istio, "VirtualService", "spec: {hosts: [a], http: [{timeout: oops, route: [{destination: {host: a}}]}]}"), Verdict::Refused, "duration"),
        (object(istio, "DestinationRule", "spec:\n  host: a\n  trafficPolicy:\n    outlierDetection:\n      minRequestVolume: 3\n"), Verdict::Differs, "outlier detection counts"),
        (object(istio, "Sidecar", "spec: {egress: [{hosts: ['./*']}]}"), Verdict::Works, ""),
        (object(istio, "Sidecar", "spec: {egress: [{port: {number: 80}, bind: 127.0.0.1, hosts: ['./*']}]}"), Verdict::Differs, "open no listener"),
        (object(istio, "Sidecar", "spec: {egress: [{hosts: [reviews]}]}"), Verdict::Refused, "<namespace>/<name>"),
        (object(istio, "ProxyConfig", "spec: {concurrency: 2}"), Verdict::Works, ""),
        (object(istio, "ProxyConfig", "spec: {image: {imageType: debug}}"), Verdict::Differs, "one form"),
        (object("install.istio.io", "IstioOperator", "spec: {profile: demo, meshConfig: {accessLogFile: /dev/stdout}}"), Verdict::Differs, "spec.profile has no effect"),
        ("apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {profile: demo}".into(), Verdict::Differs, "spec.profile has no effect"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a, annotations: {networking.istio.io/exportTo: .}}".into(), Verdict::Works, ""),
        (object(istio, "Gateway", "spec: {servers: [{port: {number: 80, protocol: HTTP, name: http}, hosts: [a]}]}"), Verdict::Works, ""),
        (object("policy.linkerd.io", "ServerAuthorization", "spec: {}"), Verdict::CannotWork, "principals"),
        (object("multicluster.linkerd.io", "Link", "spec: {}"), Verdict::CannotWork, "isthmus join"),
        (object("access.smi-spec.io", "TrafficTarget", "spec: {}"), Verdict::CannotWork, "AuthorizationPolicy"),
        (object("split.smi-spec.io", "TrafficSplit", "spec: {service: a, backends: [{service: b, weight: 900m}]}"), Verdict::Works, ""),
        (object("specs.smi-spec.io", "HTTPRouteGroup", "matches: [{name: a, methods: [GET]}]"), Verdict::Works, ""),
        (object("linkerd.io", "ServiceProfile", "spec: {routes: [{name: a}]}"), Verdict::Refused, "condition is missing"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a, annotations: {retry.linkerd.io/http: 5xx}}".into(), Verdict::Works, ""),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a, annotations: {timeout.linkerd.io/idle: 1s}}".into(), Verdict::Differs, "idleTimeout"),
        (object("security.istio.io", "PeerAuthentication", "spec: {mtls: {mode: STRICT}}"), Verdict::Works, ""),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {istio.io/rev: prod}}".into(), Verdict::Differs, "istio-injection=enabled"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {istio-injection: enabled}}".into(), Verdict::Works, ""),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'enableTracing: true'}".into(), Verdict::Differs, ""),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'connectTimeout: soon'}".into(), Verdict::Refused, "connectTimeout"),
    ] {
        let judgement = judged(&document).unwrap_or_else(|| panic!("no verdict on {document}"));
        assert_eq!(judgement.verdict, verdict, "{document}: {judgement:?}");
        let notes: Vec<String> = judgement.notes.iter().map(|note| format!("{} {}", note.field, note.text)).collect();
        assert!(notes.join("\n").contains(noted), "{document}: {notes:?}");
        assert_eq!(notes.is_empty(), verdict == Verdict::Works, "{document}: {notes:?}");
    }
    for document in [
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a}",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}",
    ] {
        assert_eq!(judged(document), None, "{document}");
    }
}

#[test]
fn a_note_has_the_line_of_its_field() {
    let rule = object(
        "networking.istio.io",
        "DestinationRule",
        "spec:\n  host: a\n  trafficPolicy:\n    outlierDetection:\n      minRequestVolume: 3\n",
    );
    assert_eq!(judged(&rule).unwrap().notes[0].line, Some(8));
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  template:\n    metadata:\n      annotations:\n        linkerd.io/inject: enabled\n";
    let judgement = judged(deployment).unwrap();
    assert_eq!((judgement.notes[0].line, &*judgement.notes[0].field), (Some(7), "spec.template.metadata.annotations"));
}
