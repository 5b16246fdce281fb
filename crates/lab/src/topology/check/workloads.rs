//! Checks of workloads, exports and manifests.

use std::collections::BTreeSet;
use std::path::Path;

use serde_saphyr::Spanned;

use super::super::diagnostic::{Problem, with_nearest};
use super::super::model::{Cluster, Export, Manifest, Port, Program, Workload, WorkloadController};
use super::super::{file, manifest};
use super::names::{CheckResult, is_port_name, label, or_none, service};

/// Most pods of one workload in one cluster: a lab runs on one machine.
const MAX_REPLICAS: u32 = 64;

pub(super) fn workloads(raw: &[Spanned<file::WorkloadEntry>], clusters: &[Cluster]) -> CheckResult<Vec<Workload>> {
    let mut workloads: Vec<Workload> = Vec::new();
    for spanned in raw {
        let workload = &spanned.value;
        let name = service(&workload.name, "workload")?;
        let namespace = workload.namespace.as_ref().map_or(Ok("default".to_owned()), |n| label(n, "namespace"))?;
        let version = workload.version.as_ref().map(|version| label(version, "version")).transpose()?;
        let service_account =
            workload.service_account.as_ref().map_or(Ok(name.clone()), |account| label(account, "service account"))?;
        let replicas = match &workload.replicas {
            Some(replicas) if replicas.value > MAX_REPLICAS => {
                return Err(Problem::new(
                    replicas.referenced,
                    format!("workload \"{name}\" has {} replicas", replicas.value),
                )
                .hint(format!("a lab runs on one machine: a workload has at most {MAX_REPLICAS} replicas")));
            }
            Some(replicas) => replicas.value,
            None => 1,
        };
        let program = program(spanned)?;
        let ports = ports(workload.ports.as_deref(), &program)?;
        let controller = workload.controller.as_ref().map(controller).transpose()?.unwrap_or_default();
        for cluster in clusters_of(spanned, clusters)? {
            let zone = workload.zone.as_ref().map(|zone| zone_in(zone, cluster)).transpose()?;
            let same =
                |other: &Workload| other.cluster == cluster.name && other.namespace == namespace && other.name == name;
            if workloads.iter().any(|other| same(other) && other.version == version) {
                return Err(Problem::new(
                    spanned.referenced,
                    format!("workload \"{name}\" is in cluster \"{}\" twice with the same version", cluster.name),
                )
                .hint("give them different versions, or raise replicas"));
            }
            if let Some(other) = workloads.iter().find(|other| same(other) && other.controller != controller) {
                let (other, own) = (other.controller.kind(), controller.kind());
                let at = workload.controller.as_ref().map_or(spanned.referenced, |controller| controller.referenced);
                return Err(Problem::new(
                    at,
                    format!("workload \"{name}\" is a {other} in cluster \"{}\" already, and this one is a {own}", cluster.name),
                )
                .hint("versions of a workload share a Service, which is headless for a StatefulSet: give them the same controller"));
            }
            workloads.push(Workload {
                controller,
                controller_name: name.clone(),
                name: name.clone(),
                namespace: namespace.clone(),
                cluster: cluster.name.clone(),
                version: version.clone(),
                zone,
                replicas,
                program: program.clone(),
                ports: ports.clone(),
                exported: workload.exported,
                inject: workload.inject.unwrap_or(true),
                env: workload.env.clone(),
                service_account: service_account.clone(),
                annotations: workload.annotations.clone(),
            });
        }
    }
    Ok(workloads)
}

/// Names Deployments and StatefulSets: as their service, with the version added if a cluster runs several versions.
pub(super) fn name_controllers(workloads: &mut [Workload]) {
    let keys: Vec<(String, String, String)> =
        workloads.iter().map(|w| (w.cluster.clone(), w.namespace.clone(), w.name.clone())).collect();
    for (index, workload) in workloads.iter_mut().enumerate() {
        let several = keys.iter().filter(|key| **key == keys[index]).count() > 1;
        if let (true, Some(version)) = (several, &workload.version) {
            workload.controller_name = format!("{}-{version}", workload.name);
        }
    }
}

fn controller(raw: &Spanned<String>) -> CheckResult<WorkloadController> {
    let found = WorkloadController::ALL.into_iter().find(|controller| controller.kind() == raw.value);
    found.ok_or_else(|| {
        let known = WorkloadController::ALL.map(WorkloadController::kind);
        Problem::new(raw.referenced, format!("unknown controller of a workload \"{}\"", raw.value)).hint(with_nearest(
            &format!("controllers: {}", known.join(", ")),
            &raw.value,
            known.into_iter(),
        ))
    })
}

fn program(workload: &Spanned<file::WorkloadEntry>) -> CheckResult<Program> {
    let name = &workload.value.name.value;
    let kind = workload.value.kind.as_ref();
    match (kind.map_or("testapp", |kind| kind.value.as_str()), &workload.value.command) {
        ("testapp", None) => Ok(Program::TestApp),
        ("testapp", Some(command)) => {
            Err(Problem::new(command.referenced, format!("workload \"{name}\" has a command, but is of kind testapp"))
                .hint("add kind: command"))
        }
        ("command", Some(command)) if !command.value.is_empty() => {
            Ok(Program::Command { command: command.value.clone() })
        }
        ("command", _) => Err(Problem::new(workload.referenced, format!("workload \"{name}\" has no command"))
            .hint("add command: [program, argument, …] with a program of this machine")),
        (other, _) => {
            let at = kind.map_or(workload.referenced, |kind| kind.referenced);
            Err(Problem::new(at, format!("unknown kind of workload \"{other}\"")).hint(with_nearest(
                "kinds: testapp, command",
                other,
                ["testapp", "command"].into_iter(),
            )))
        }
    }
}

fn ports(raw: Option<&[Spanned<file::PortEntry>]>, program: &Program) -> CheckResult<Vec<Port>> {
    let port = |name: &str, port: u16| Port { name: name.to_owned(), port, target_port: port };
    let Some(raw) = raw else {
        return Ok(match program {
            Program::TestApp => vec![port("http", 9080), port("tcp", 9090), port("tcp-banner", 9091)],
            Program::Command { .. } => Vec::new(),
        });
    };
    let mut ports: Vec<Port> = Vec::new();
    for spanned in raw {
        let entry = &spanned.value;
        if ports.iter().any(|other| other.port == entry.port || other.name == entry.name) {
            return Err(Problem::new(
                spanned.referenced,
                format!("port {} \"{}\" is listed twice", entry.port, entry.name),
            )
            .hint("give each port another name and number"));
        }
        if !is_port_name(&entry.name) {
            return Err(Problem::new(spanned.referenced, format!("\"{}\" is not a valid port name", entry.name)).hint(
                "lower-case letters, digits and single dashes, at most 15, with a letter, as in http or tcp-db",
            ));
        }
        if entry.port == 0 || entry.target_port == Some(0) {
            return Err(Problem::new(spanned.referenced, "0 is not a port number").hint("a number from 1 to 65535"));
        }
        ports.push(Port { target_port: entry.target_port.unwrap_or(entry.port), ..port(&entry.name, entry.port) });
    }
    Ok(ports)
}

fn clusters_of<'a>(workload: &Spanned<file::WorkloadEntry>, clusters: &'a [Cluster]) -> CheckResult<Vec<&'a Cluster>> {
    let name = &workload.value.name.value;
    match (&workload.value.cluster, &workload.value.clusters) {
        (Some(one), None) => Ok(vec![cluster_named(one, clusters)?]),
        (None, Some(several)) => several.iter().map(|one| cluster_named(one, clusters)).collect(),
        (None, None) => Err(Problem::new(workload.referenced, format!("workload \"{name}\" has no cluster"))
            .hint("add cluster: NAME, or clusters: [NAME, …]")),
        (Some(one), Some(_)) => {
            Err(Problem::new(one.referenced, format!("workload \"{name}\" has both cluster and clusters"))
                .hint("remove one of them"))
        }
    }
}

pub(super) fn cluster_named<'a>(name: &Spanned<String>, clusters: &'a [Cluster]) -> CheckResult<&'a Cluster> {
    clusters.iter().find(|cluster| cluster.name == name.value).ok_or_else(|| {
        let known: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        Problem::new(name.referenced, format!("unknown cluster \"{}\"", name.value)).hint(with_nearest(
            &format!("clusters: {}", known.join(", ")),
            &name.value,
            known.iter().copied(),
        ))
    })
}

fn zone_in(zone: &Spanned<String>, cluster: &Cluster) -> CheckResult<String> {
    if cluster.zones.contains(&zone.value) {
        return Ok(zone.value.clone());
    }
    let message = format!("cluster \"{}\" has no zone \"{}\"", cluster.name, zone.value);
    Err(Problem::new(zone.referenced, message).hint(with_nearest(
        &format!("its zones: {}", cluster.zones.join(", ")),
        &zone.value,
        cluster.zones.iter().map(String::as_str),
    )))
}

pub(super) fn exports(
    raw: &[Spanned<file::ExportEntry>],
    clusters: &[Cluster],
    workloads: &[Workload],
    has_manifests: bool,
) -> CheckResult<Vec<Export>> {
    let mut exports = Vec::new();
    for spanned in raw {
        let name = service(&spanned.value.name, "service")?;
        let namespace = spanned.value.namespace.as_ref().map_or(Ok("default".to_owned()), |n| label(n, "namespace"))?;
        let having: BTreeSet<&str> = workloads
            .iter()
            .filter(|workload| workload.name == name && workload.namespace == namespace)
            .map(|workload| workload.cluster.as_str())
            .collect();
        let of: Vec<String> = match &spanned.value.clusters {
            Some(listed) => {
                let listed: Result<Vec<_>, _> = listed.iter().map(|one| cluster_named(one, clusters)).collect();
                listed?.into_iter().map(|cluster| cluster.name.clone()).collect()
            }
            None if having.is_empty() => clusters.iter().map(|cluster| cluster.name.clone()).collect(),
            None => having.iter().map(|&name| name.to_owned()).collect(),
        };
        // Manifests may define further services; without manifests, an unknown service is a mistake.
        if having.is_empty() && !has_manifests {
            let known: BTreeSet<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
            let listed = known.iter().copied().collect::<Vec<_>>();
            return Err(Problem::new(
                spanned.referenced,
                format!("export of service \"{namespace}/{name}\", which no workload has"),
            )
            .hint(with_nearest(&format!("services: {}", or_none(&listed)), &name, listed.iter().copied())));
        }
        exports.push(Export { name, namespace, clusters: of });
    }
    Ok(exports)
}

pub(super) fn manifests(
    path: &Path,
    raw: &[Spanned<file::ManifestEntry>],
    clusters: &[Cluster],
) -> CheckResult<Vec<Manifest>> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut manifests = Vec::new();
    for spanned in raw {
        let written = &spanned.value.path;
        let file = folder.join(&written.value);
        if file.is_dir() {
            return Err(Problem::new(written.referenced, format!("manifest \"{}\" is a folder", written.value))
                .hint("list its files one by one"));
        }
        let text = std::fs::read_to_string(&file).map_err(|error| {
            Problem::new(
                written.referenced,
                format!("manifest \"{}\" cannot be read: {}", written.value, install::client_error::system(&error)),
            )
            .hint(format!("paths are relative to the topology: looked for {}", file.display()))
        })?;
        let objects = manifest::objects(&text).map_err(|error| {
            Problem::new(written.referenced, format!("manifest \"{}\" cannot be used: {error}", written.value))
                .hint(format!("correct {}", file.display()))
        })?;
        let of: Result<Vec<&Cluster>, Problem> = match &spanned.value.clusters {
            Some(listed) => listed.iter().map(|one| cluster_named(one, clusters)).collect(),
            None => Ok(clusters.iter().collect()),
        };
        let clusters = of?.into_iter().map(|cluster| cluster.name.clone()).collect();
        manifests.push(Manifest { path: file, clusters, objects });
    }
    Ok(manifests)
}
