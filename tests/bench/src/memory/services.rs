//! A sidecar that uses a few services of a large mesh: its memory must not grow with the other services, nor with their routes and
//! policies.
//!
//! The control plane is the real one, with an API server. A sidecar receives what it subscribes to, and subscribes to what it
//! uses.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{MIB, MemoryRecorder, MemorySize};
use crate::chain::{PortProtocol, await_routed, await_status};
use crate::control_plane::cluster::Cluster;
use crate::control_plane::controller::Controller;
use crate::control_plane::pods::{self, MeshPod};
use crate::control_plane::{objects, rules};
use crate::finding::Metric;
use crate::process::Process;
use crate::rig::Rig;
use crate::sidecar;

const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);
const USER: MeshPod = MeshPod { name: "user", ip: Ipv4Addr::new(10, 244, 11, 1) };
const USED: MeshPod = MeshPod { name: "used", ip: Ipv4Addr::new(10, 244, 12, 1) };
/// The first port of [`USER`] that leads to a service; the others follow.
const FIRST: u16 = 20_000;

/// Measures each size of mesh, the largest one also with rules.
pub fn measure(recorder: &mut MemoryRecorder, rig: &Rig, size: MemorySize) -> Result<()> {
    let mut mesh = GrowingMesh::start(recorder, rig, size)?;
    for &services in size.services {
        mesh.add_services(services)?;
        mesh.measure("", false)?;
    }
    mesh.create((0..mesh.services).flat_map(rules::both))?;
    mesh.measure(", each with a VirtualService and a DestinationRule", true)
}

/// Measures a mesh without ServiceEntries and with many, of which the sidecar uses none.
pub fn measure_entries(recorder: &mut MemoryRecorder, rig: &Rig, size: MemorySize) -> Result<()> {
    let mut mesh = GrowingMesh::start(recorder, rig, size)?;
    mesh.add_services(size.used)?;
    mesh.measure("", false)?;
    mesh.create((0..size.entries).map(rules::service_entry))?;
    mesh.measure(&format!(", and none of {} ServiceEntries", size.entries), false)
}

/// A cluster to which objects are added, with a sidecar that uses a few of its services.
struct GrowingMesh<'a> {
    recorder: &'a mut MemoryRecorder,
    rig: &'a Rig,
    size: MemorySize,
    runtime: Runtime,
    cluster: Cluster,
    services: usize,
    _server: Process,
}

impl<'a> GrowingMesh<'a> {
    fn start(recorder: &'a mut MemoryRecorder, rig: &'a Rig, size: MemorySize) -> Result<Self> {
        pods::find_controller(rig)?;
        let server = sidecar::server(rig)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let cluster = runtime.block_on(Cluster::start(rig, "memory", API))?;
        // In order: a pod needs its service account.
        for object in objects::base(0) {
            runtime.block_on(cluster.client().create(object))?;
        }
        for pod in [USER, USED] {
            runtime.block_on(pod.create(cluster.client()))?;
        }
        Ok(Self { recorder, rig, size, runtime, cluster, services: 0, _server: server })
    }

    fn create(&self, objects: impl Iterator<Item = (String, Value)>) -> Result<()> {
        self.runtime.block_on(self.cluster.client().create_all(objects))
    }

    /// Adds services up to a number. Those that nothing uses have an address of their own.
    fn add_services(&mut self, services: usize) -> Result<()> {
        let port = PortProtocol::Http1.server().port();
        let used = self.size.used;
        let of = |number: usize| pods::service(number, 80, port, (number < used).then_some(USED));
        self.create((self.services..services).flat_map(of))?;
        self.services = services;
        Ok(())
    }

    /// Records the resident memory of a new controller and a new sidecar.
    fn measure(&mut self, others: &str, has_rules: bool) -> Result<()> {
        let load = format!("{} services used of {}{others}", self.size.used, self.services);
        let (user, controller) =
            self.runtime.block_on(self.resident(&load, has_rules)).with_context(|| load.clone())?;
        self.recorder.add(&load, "isthmus", Metric::cost("resident memory of the sidecar", "MiB"), user);
        self.recorder.add(&load, "isthmus", Metric::cost("resident memory of the controller", "MiB"), controller);
        Ok(())
    }

    /// The resident memory of the sidecar and the controller, in MiB.
    async fn resident(&self, load: &str, has_rules: bool) -> Result<(f64, f64)> {
        let Self { rig, ref cluster, size, .. } = *self;
        let client = cluster.client();
        let log = format!("controller, {load}").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let state = rig.directory().join(format!("state-of-{log}"));
        let controller = Controller::start(rig, &cluster.kubeconfig, &state, &log)?;
        let root = pods::root_certificate(rig, client).await?;

        let server = PortProtocol::Http1.server();
        let ingress = USED.way(server.port(), &server.to_string());
        let _used = USED.sidecar(rig, client, &root, &["--ingress", &ingress]).await?;
        let mut egress = Vec::new();
        for service in 0..size.used {
            egress.push(USER.way(port_of(service), &format!("{}:80", pods::service_ip(client, service).await?)));
        }
        let mut user = USER.sidecar(rig, client, &root, &["--egress", &egress.join(",")]).await?;
        for service in 0..size.used {
            let entry = SocketAddr::new(USER.ip.into(), port_of(service));
            if has_rules {
                await_routed(entry, &objects::service_name(service), rules::ROUTED, &mut user, rig)?;
            } else {
                await_status(entry, "/bytes/1024", 200, &mut user, rig)?;
            }
        }
        tokio::time::sleep(size.rest).await;
        user.ensure_running(&rig.log(&user.name))?;
        Ok((user.resident()? as f64 / MIB, controller.resident()?.0 as f64 / MIB))
    }
}

/// The port of the user's listener for a service.
fn port_of(service: usize) -> u16 {
    FIRST + u16::try_from(service).expect("a handful of services are used")
}
