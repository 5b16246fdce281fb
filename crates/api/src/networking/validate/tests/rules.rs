use super::{fields, rule};

#[track_caller]
fn refuses(spec: &str, field: &str) {
    let problems = rule(spec);
    let errors: Vec<_> = problems.iter().filter(|problem| problem.is_error()).collect();
    assert_eq!(errors.iter().map(|error| &*error.field).collect::<Vec<_>>(), [field], "{spec}: {problems:#?}");
}

fn policy(policy: &str) -> String {
    format!("{{host: a, trafficPolicy: {{{policy}}}}}")
}

#[test]
fn hosts_and_subsets_are_checked() {
    for (spec, field) in [
        ("{}", "spec.host"),
        ("{host: \"\"}", "spec.host"),
        ("{host: 7}", "spec.host"),
        ("{host: \"a b\"}", "spec.host"),
        ("{host: a.1}", "spec.host"),
        ("{host: a, subsets: [{}]}", "spec.subsets[0].name"),
        ("{host: a, subsets: [{name: v_1}]}", "spec.subsets[0].name"),
        ("{host: a, subsets: [{name: v1}, {name: v2}, {name: v1}]}", "spec.subsets[2].name"),
        ("{host: a, subsets: [{name: v1, labels: {\"a b\": c}}]}", "spec.subsets[0].labels[a b]"),
        ("{host: a, subsets: [{name: v1, labels: {a: -c}}]}", "spec.subsets[0].labels[a]"),
        ("{host: a, subsets: [{name: v1, trafficPolicy: {}}]}", "spec.subsets[0].trafficPolicy"),
        ("{host: a, subsets: {name: v1}}", "spec.subsets"),
        ("{host: a, exportTo: [., .]}", "spec.exportTo[1]"),
        ("{host: a, exportTo: [\"a.b\"]}", "spec.exportTo[0]"),
        ("{host: a, exportTo: [b], workloadSelector: {matchLabels: {a: b}}}", "spec.exportTo"),
        ("{host: a, workloadSelector: {matchLabels: {a: \"b*\"}}}", "spec.workloadSelector.matchLabels[a]"),
        ("{host: a, workloadSelector: {matchLabels: {\"\": b}}}", "spec.workloadSelector.matchLabels[]"),
    ] {
        refuses(spec, field);
    }
    for spec in [
        "{host: a}",
        "{host: \"*.a.com\", exportTo: [\"*\"], subsets: [{name: v1, labels: {version: v1}}, {name: v2}]}",
        "{host: \"*\", exportTo: [shop], workloadSelector: {matchLabels: {app: b}}}",
    ] {
        assert_eq!(fields(&rule(spec)), [""; 0], "{spec}");
    }
    assert_eq!(fields(&rule("{host: a, workloadSelector: {}}")), ["Warning spec.workloadSelector.matchLabels"]);
}

#[test]
fn policies_are_checked() {
    for (of, field) in [
        ("", ""),
        ("connectionPool: {}", ".connectionPool"),
        ("connectionPool: {tcp: {maxConnections: -1}}", ".connectionPool.tcp.maxConnections"),
        ("connectionPool: {tcp: {connectTimeout: 0s}}", ".connectionPool.tcp.connectTimeout"),
        ("connectionPool: {tcp: {maxConnectionDuration: 1us}}", ".connectionPool.tcp.maxConnectionDuration"),
        ("connectionPool: {tcp: {tcpKeepalive: {time: 0s}}}", ".connectionPool.tcp.tcpKeepalive.time"),
        ("connectionPool: {http: {maxRetries: -1}}", ".connectionPool.http.maxRetries"),
        ("connectionPool: {http: {http1MaxPendingRequests: a}}", ".connectionPool.http.http1MaxPendingRequests"),
        ("connectionPool: {http: {h2UpgradePolicy: ALWAYS}}", ".connectionPool.http.h2UpgradePolicy"),
        (
            "connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}",
            ".connectionPool.http.useClientProtocol",
        ),
        ("connectionPool: {http: {maxConcurrentStreams: -1}}", ".connectionPool.http.maxConcurrentStreams"),
        ("connectionPool: {http: {idleTimeout: 0s}}", ".connectionPool.http.idleTimeout"),
        ("outlierDetection: {interval: 0s}", ".outlierDetection.interval"),
        ("outlierDetection: {baseEjectionTime: 1ns}", ".outlierDetection.baseEjectionTime"),
        ("outlierDetection: {maxEjectionPercent: 101}", ".outlierDetection.maxEjectionPercent"),
        ("outlierDetection: {minHealthPercent: -1}", ".outlierDetection.minHealthPercent"),
        ("outlierDetection: {consecutiveLocalOriginFailures: 3}", ".outlierDetection.consecutiveLocalOriginFailures"),
        (
            "outlierDetection: {outlierDetectionHttpErrorCodes: [700]}",
            ".outlierDetection.outlierDetectionHttpErrorCodes[0]",
        ),
        ("tls: {mode: NONE}", ".tls.mode"),
        ("tls: {mode: MUTUAL, privateKey: a}", ".tls.clientCertificate"),
        ("tls: {mode: MUTUAL, clientCertificate: a}", ".tls.privateKey"),
        ("tls: {mode: SIMPLE, credentialName: a, caCertificates: b}", ".tls.caCertificates"),
        ("tls: {mode: MUTUAL, credentialName: a, privateKey: b}", ".tls.privateKey"),
        ("tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}", ".tls.subjectAltNames"),
        ("tls: {mode: SIMPLE, insecureSkipVerify: true, credentialName: a}", ".tls.credentialName"),
        ("portLevelSettings: [{tls: {mode: DISABLE}}]", ".portLevelSettings[0].port"),
        ("portLevelSettings: [{port: {number: 0}, tls: {}}]", ".portLevelSettings[0].port.number"),
        ("portLevelSettings: [{port: {number: 80}}]", ".portLevelSettings[0]"),
        ("portLevelSettings: [{port: {number: 80}, connectionPool: {}}]", ".portLevelSettings[0].connectionPool"),
        ("tunnel: {protocol: GET, targetHost: a, targetPort: 1}", ".tunnel.protocol"),
        ("tunnel: {targetHost: \"a b\", targetPort: 1}", ".tunnel.targetHost"),
        ("tunnel: {targetHost: 10.0.0.1}", ".tunnel.targetPort"),
        ("tunnel: {targetHost: a, targetPort: 1}, proxyProtocol: {version: V2}", ".proxyProtocol"),
        ("proxyProtocol: {version: V3}", ".proxyProtocol.version"),
        ("retryBudget: {percent: 101}", ".retryBudget.percent"),
        ("retryBudget: {minRetryConcurrency: -1}", ".retryBudget.minRetryConcurrency"),
    ] {
        refuses(&policy(of), &format!("spec.trafficPolicy{field}"));
        if !field.is_empty() {
            refuses(
                &format!("{{host: a, subsets: [{{name: v1, trafficPolicy: {{{of}}}}}]}}"),
                &format!("spec.subsets[0].trafficPolicy{field}"),
            );
        }
    }
    for of in [
        "connectionPool: {tcp: {maxConnections: 100, connectTimeout: 30ms, idleTimeout: 0s}, http: {http2MaxRequests: 1000, maxRetries: 3}}",
        "outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 5, interval: 5m, maxEjectionPercent: 100}",
        "outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 3}",
        "tls: {mode: ISTIO_MUTUAL, sni: a, subjectAltNames: [b]}",
        "tls: {mode: MUTUAL, credentialName: a, insecureSkipVerify: true}",
        "tls: {mode: SIMPLE}",
        "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]",
        "retryBudget: {percent: 25.5, budgetInterval: 10s}",
        "tunnel: {targetHost: a.com, targetPort: 443}",
    ] {
        assert_eq!(fields(&rule(&policy(of))), [""; 0], "{of}");
    }
}

#[test]
fn load_balancing_is_checked() {
    for (of, field) in [
        ("simple: BEST", ".simple"),
        ("simple: RANDOM, consistentHash: {useSourceIp: true}", ".consistentHash"),
        ("consistentHash: {useSourceIp: true, httpHeaderName: a}", ".consistentHash.useSourceIp"),
        ("consistentHash: {httpCookie: {ttl: 0s}}", ".consistentHash.httpCookie.name"),
        ("consistentHash: {useSourceIp: true, maglev: {}}", ".consistentHash.maglev.tableSize"),
        ("consistentHash: {useSourceIp: true, maglev: {tableSize: 65536}}", ".consistentHash.maglev.tableSize"),
        ("consistentHash: {useSourceIp: true, maglev: {tableSize: 5000011}}", ".consistentHash.maglev.tableSize"),
        ("consistentHash: {useSourceIp: true, maglev: {tableSize: 7}, ringHash: {}}", ".consistentHash.maglev"),
        ("consistentHash: {useSourceIp: true, minimumRingSize: 5, ringHash: {}}", ".consistentHash.minimumRingSize"),
        ("warmupDurationSecs: 0s", ".warmupDurationSecs"),
        ("warmup: {}", ".warmup.duration"),
        ("warmup: {duration: 1s, minimumPercent: 101}", ".warmup.minimumPercent"),
        ("warmup: {duration: 1s, aggression: 0}", ".warmup.aggression"),
        ("localityLbSetting: {}, zoneAwareLbSetting: {}", ".zoneAwareLbSetting"),
    ] {
        refuses(&policy(&format!("loadBalancer: {{{of}}}")), &format!("spec.trafficPolicy.loadBalancer{field}"));
    }
    for of in [
        "simple: LEAST_CONN",
        "consistentHash: {httpCookie: {name: a, ttl: 0s}, ringHash: {minimumRingSize: \"2048\"}}",
        "consistentHash: {httpHeaderName: x-user, maglev: {tableSize: 65537}}",
        "warmup: {duration: 30s, minimumPercent: 10, aggression: 1.5}",
    ] {
        assert_eq!(fields(&rule(&policy(&format!("loadBalancer: {{{of}}}")))), [""; 0], "{of}");
    }
}

#[test]
fn preferences_of_localities_are_checked() {
    let of = |setting: &str| {
        policy(&format!("loadBalancer: {{localityLbSetting: {{{setting}}}}}, outlierDetection: {{interval: 1s}}"))
    };
    for (setting, field) in [
        ("distribute: [{from: a, to: {b: 50}}]", ".distribute[0].to"),
        ("distribute: [{from: a, to: {b: 0, c: 100}}]", ".distribute[0].to[b]"),
        ("distribute: [{from: a//b, to: {b: 100}}]", ".distribute[0].from"),
        ("distribute: [{from: \"\", to: {b: 100}}]", ".distribute[0].from"),
        ("distribute: [{from: \"*/b\", to: {b: 100}}]", ".distribute[0].from"),
        ("distribute: [{from: a, to: {b: 100}}, {from: a/b, to: {b: 100}}]", ".distribute[1].from"),
        ("distribute: [{from: \"a/*\", to: {b: 100}}, {from: a/b, to: {b: 100}}]", ".distribute[1].from"),
        ("distribute: [{from: a, to: {\"b/*\": 50, b/c: 50}}]", ".distribute[0].to[b/c]"),
        ("failover: [{from: a, to: a}]", ".failover[0].to"),
        ("failover: [{from: a, to: b/c}]", ".failover[0].to"),
        ("failover: [{from: \"*\", to: b}]", ".failover[0].from"),
        ("failover: [{from: a}]", ".failover[0].to"),
        ("failover: [{from: a, to: b}], failoverPriority: [topology.kubernetes.io/region]", ".failoverPriority[0]"),
    ] {
        refuses(&of(setting), &format!("spec.trafficPolicy.loadBalancer.localityLbSetting{field}"));
    }
    for setting in [
        "distribute: [{from: a/b, to: {a/b: 80, \"c/*\": 20}}, {from: \"a/*\", to: {a: 100}}, {from: \"*\", to: {d: 100}}]",
        "failover: [{from: a, to: b}], failoverPriority: [version=v2, topology.istio.io/network]",
        "distribute: [{from: a, to: {b: 100}}], failover: [{from: a, to: b}]",
        "enabled: false",
    ] {
        assert_eq!(fields(&rule(&of(setting))), [""; 0], "{setting}");
    }
    let without = "loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}";
    // Endpoints are ejected without outlierDetection as well.
    assert_eq!(fields(&rule(&policy(without))), [""; 0]);
}

#[test]
fn what_has_no_effect_is_warned_of() {
    for (of, field) in [
        ("loadBalancer: {consistentHash: {}}", ".loadBalancer.consistentHash"),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 5}}",
            ".loadBalancer.consistentHash.minimumRingSize",
        ),
        ("loadBalancer: {warmupDurationSecs: 5s}", ".loadBalancer.warmupDurationSecs"),
        ("tls: {mode: ISTIO_MUTUAL, credentialName: a}", ".tls.credentialName"),
        ("outlierDetection: {consecutiveErrors: 5}", ".outlierDetection.consecutiveErrors"),
        ("outlierDetection: {minRequestVolume: 10}", ".outlierDetection.minRequestVolume"),
        ("retryBudgets: {}, tls: {}", ".retryBudgets"),
        (
            "portLevelSettings: [{port: {number: 1}, tls: {}}, {port: {number: 1}, tls: {}}]",
            ".portLevelSettings[1].port.number",
        ),
    ] {
        assert_eq!(fields(&rule(&policy(of))), [format!("Warning spec.trafficPolicy{field}")], "{of}");
    }
}
