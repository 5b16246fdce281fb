use super::*;
use crate::duration::parse_duration;

#[test]
fn durations() {
    let ms = Duration::from_millis;
    for (text, expected) in [
        ("10s", Some(ms(10_000))),
        ("250ms", Some(ms(250))),
        ("1.5s", Some(ms(1500))),
        ("1m30s", Some(ms(90_000))),
        ("2h", Some(ms(7_200_000))),
        ("0", Some(ms(0))),
        ("0s", Some(ms(0))),
        ("", None),
        ("10", None),
        ("s", None),
        ("-1s", None),
        ("10 s", None),
        ("1..5s", None),
        ("99999999999999999999999999h", None),
    ] {
        assert_eq!(parse_duration(text), expected, "{text:?}");
    }
}

#[test]
fn settings_are_parsed() {
    let text = r#"
accessLogFile: /dev/stdout
accessLogEncoding: JSON
connectTimeout: 3s
protocolDetectionTimeout: 100ms
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
localityLbSetting: {enabled: false}
trustDomain: example.org
defaultConfig: {meshId: mesh1}
enableAutoMtls: true
federation: {exportAll: true, lease: 20s}
pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}
trustDomainAliases: [old.example]
"#;
    let (config, warnings) = MeshConfig::parse(text).unwrap();
    assert_eq!(warnings, []);
    let expected = MeshConfig {
        path_normalization: PathNormalization::DecodeAndMergeSlashes,
        trust_domain_aliases: vec!["old.example".to_owned()],
        mesh_id: "mesh1".into(),
        trust_domain: Some("example.org".into()),
        registry_only: true,
        access_log_file: "/dev/stdout".into(),
        access_log_json: true,
        access_log_format: String::new(),
        connect_timeout: Some(Duration::from_secs(3)),
        protocol_detection_timeout: Duration::from_millis(100),
        locality_load_balancing: false,
        export_all: true,
        lease: Some(Duration::from_secs(20)),
        ..MeshConfig::default()
    };
    assert_eq!(config, expected);
    assert_eq!(MeshConfig::parse("").unwrap(), (MeshConfig::default(), Vec::new()));
}

#[test]
fn defaults_of_rules_are_read_by_their_own_schema() {
    let text = "defaultVirtualServiceExportTo: ['.']\ndefaultDestinationRuleExportTo: ['*', shop]\n\
        defaultTrafficPolicy: {outlierDetection: {consecutive5xxErrors: 7}, tls: {mode: DISABLE}}\n";
    let (config, warnings) = MeshConfig::parse(text).unwrap();
    assert_eq!(
        (&config.virtual_service_export_to[..], config.destination_rule_export_to.len()),
        (&[".".to_owned()][..], 2)
    );
    let policy = config.default_policy.unwrap();
    assert_eq!(policy.outlier_detection.unwrap().consecutive_5xx_errors, Some(7));
    assert!(policy.tls.is_none());
    let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert!(lines.iter().any(|line| line.starts_with("defaultTrafficPolicy.tls: has no effect")), "{lines:?}");
    let invalid = "defaultTrafficPolicy: {outlierDetection: {interval: 1us}}";
    let error = MeshConfig::parse(invalid).unwrap_err().to_string();
    assert!(error.starts_with("mesh setting defaultTrafficPolicy.outlierDetection.interval "), "{error}");
}

#[test]
fn settings_without_effect_have_warnings() {
    let text = "enableTracing: true\nacessLogFile: /dev/stdout\ndefaultConfig: {concurrency: 2, tracing: {}}\nfederation: {exportsAll: true}\n";
    let (_, warnings) = MeshConfig::parse(text).unwrap();
    let mut lines: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "acessLogFile: unknown setting; it is ignored",
            "defaultConfig.tracing: has no effect: proxies report no traces, and forward trace headers as they are",
            "enableTracing: this Istio setting has no effect in Isthmus",
            "federation.exportsAll: has no effect in Isthmus; it is ignored",
        ]
    );
}

#[test]
fn invalid_values_are_errors() {
    for (text, field) in [
        ("connectTimeout: 10", "connectTimeout"),
        ("connectTimeout: 48h", "connectTimeout"),
        ("connectTimeout: 0s", "connectTimeout"),
        ("connectTimeout: 500us", "connectTimeout"),
        ("protocolDetectionTimeout: 500us", "protocolDetectionTimeout"),
        ("accessLogEncoding: XML", "accessLogEncoding"),
        ("outboundTrafficPolicy: {mode: NONE}", "outboundTrafficPolicy.mode"),
        ("localityLbSetting: {enabled: 'yes'}", "localityLbSetting.enabled"),
        ("accessLogFile: [a]", "accessLogFile"),
        ("defaultConfig: 3", "defaultConfig"),
        ("defaultVirtualServiceExportTo: '.'", "defaultVirtualServiceExportTo"),
        ("defaultDestinationRuleExportTo: [1]", "defaultDestinationRuleExportTo"),
    ] {
        match MeshConfig::parse(text) {
            Err(MeshConfigError::Value { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{text}: {other:?}"),
        }
    }
    assert!(matches!(MeshConfig::parse("- a"), Err(MeshConfigError::Yaml(_))));
    assert!(matches!(MeshConfig::parse("a: ["), Err(MeshConfigError::Yaml(_))));
}
