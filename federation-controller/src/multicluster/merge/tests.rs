use super::*;
use crate::objects::Transport;

fn port(name: &str, number: u16, transport: Transport) -> DeclaredPort {
    DeclaredPort { name: name.into(), transport, number, app_protocol: None }
}

fn export(cluster: &str, created: i64) -> Constituent {
    Constituent {
        cluster: cluster.into(),
        created,
        headless: false,
        ports: vec![port("tcp", 42, Transport::Tcp), port("udp", 42, Transport::Udp)],
        affinity: None,
        local: false,
        distribution: None,
        families: vec![IpFamily::V4],
        exported: Exported::default(),
    }
}

fn ports_of(merged: &Merged) -> Vec<String> {
    merged.ports.iter().map(|port| ShownPort(port).to_string()).collect()
}

#[test]
fn equal_exports_are_one_service_without_conflict() {
    assert_eq!(merge(Vec::new()), None);
    let merged = merge(vec![export("west", 2), export("east", 1)]).unwrap();
    assert_eq!(merged.clusters, ["east".into(), "west".into()]);
    assert_eq!(merged.conflicts, []);
    assert_eq!(ports_of(&merged), ["\"tcp\" 42/TCP", "\"udp\" 42/UDP"], "one number may have two protocols");
    let same = merge(vec![export("west", 1), export("east", 1)]).unwrap();
    assert_eq!(same.clusters[0], "east".into(), "of one second, the name decides in every controller");
}

#[test]
fn the_oldest_export_decides_every_property_and_the_message_counts_the_others() {
    type Change = fn(&mut Constituent);
    let cases: [(Change, &str, &str); 8] = [
        (|of| of.headless = true, "TypeConflict", "Conflicting type. Using \"ClusterSetIP\""),
        (
            |of| of.affinity = Some(Affinity { timeout_seconds: Some(10) }),
            "SessionAffinityConflict",
            "Conflicting session affinity. Using \"None\"",
        ),
        (
            |of| of.local = true,
            "InternalTrafficPolicyConflict",
            "Conflicting internal traffic policy. Using \"Cluster\"",
        ),
        (
            |of| of.distribution = Some("PreferClose".into()),
            "TrafficDistributionConflict",
            "Conflicting traffic distribution. Using none",
        ),
        (
            |of| of.families = vec![IpFamily::V6, IpFamily::V4],
            "IPFamilyConflict",
            "Conflicting IP families. Using IPv4",
        ),
        (
            |of| of.exported.labels = [("a".into(), "b".into())].into(),
            "LabelsConflict",
            "Conflicting exported labels. Using those",
        ),
        (
            |of| of.exported.annotations = [("a".into(), "b".into())].into(),
            "AnnotationsConflict",
            "Conflicting exported annotations. Using those",
        ),
        (|of| of.ports.truncate(1), "PortConflict", "Conflicting ports. Using the union of the ports of all clusters"),
    ];
    for (change, reason, begin) in cases {
        let mut exports: Vec<Constituent> =
            (1..=5).map(|created| export(&format!("cluster-{created}"), created)).collect();
        change(&mut exports[1]);
        change(&mut exports[3]);
        let merged = merge(exports.clone()).unwrap();
        let [conflict] = &merged.conflicts[..] else { panic!("{reason}: {:?}", merged.conflicts) };
        assert_eq!(conflict.reason, reason);
        assert!(conflict.message.starts_with(begin), "{}", conflict.message);
        assert!(conflict.message.ends_with("2/5 clusters disagree."), "{}", conflict.message);
        if reason != "PortConflict" {
            assert!(conflict.message.contains("from oldest service export in \"cluster-1\"."), "{}", conflict.message);
        }
        let oldest = merge(vec![exports[0].clone()]).unwrap();
        let same = Merged { conflicts: Vec::new(), clusters: oldest.clusters.clone(), ..merged };
        assert_eq!(same, oldest, "{reason}");
    }
}

#[test]
fn configurations_of_affinity_are_compared_among_exports_that_have_it() {
    let with = |cluster: &str, created, timeout_seconds| Constituent {
        affinity: Some(Affinity { timeout_seconds }),
        ..export(cluster, created)
    };
    let merged = merge(vec![with("a", 1, Some(10)), with("b", 2, Some(20)), export("c", 3)]).unwrap();
    let messages: Vec<&str> = merged.conflicts.iter().map(|of| of.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "Conflicting session affinity. Using \"ClientIP\" from oldest service export in \"a\". 1/3 clusters disagree.",
            "Conflicting session affinity configuration. Using 10 s from oldest service export in \"a\". 1/2 clusters disagree.",
        ]
    );
}

#[test]
fn ports_are_merged_by_name_then_by_number_and_the_oldest_wins_a_clash() {
    use Transport::{Sctp, Tcp};
    type Case = (Vec<DeclaredPort>, Vec<&'static str>, &'static str);
    let cases: [Case; 4] = [
        (
            vec![port("tcp", 42, Tcp), port("stcp", 142, Sctp)],
            vec!["\"tcp\" 42/TCP", "\"stcp\" 142/SCTP"],
            "the union of the ports of all clusters",
        ),
        (vec![port("tcp", 4242, Tcp)], vec!["\"tcp\" 42/TCP"], "\"tcp\" 42/TCP from oldest service export in \"west\""),
        (vec![port("other", 42, Tcp)], vec!["\"tcp\" 42/TCP"], "\"tcp\" 42/TCP from oldest"),
        (
            vec![DeclaredPort { app_protocol: Some("http".into()), ..port("tcp", 42, Tcp) }],
            vec!["\"tcp\" 42/TCP"],
            "\"tcp\" 42/TCP from oldest",
        ),
    ];
    for (ports, expected, used) in cases {
        let west = Constituent { ports: vec![port("tcp", 42, Tcp)], ..export("west", 1) };
        let merged = merge(vec![Constituent { ports, ..export("east", 2) }, west]).unwrap();
        assert_eq!(ports_of(&merged), expected);
        assert_eq!(merged.conflicts.len(), 1);
        assert!(merged.conflicts[0].message.contains(used), "{}", merged.conflicts[0].message);
        assert!(merged.conflicts[0].message.ends_with("1/2 clusters disagree."));
    }
}
