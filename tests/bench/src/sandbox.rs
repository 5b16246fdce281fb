//! Network and process namespaces in which all measurements run: no traffic leaves the machine, no port of the host is used,
//! and the kernel ends all processes when the first one ends.
//!
//! All systems share one loopback link, on which [`PODS`] and [`SERVICES`] are local, so that they have addresses as in a
//! cluster, and no links, bridges and packet rules affect the comparison.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use net::link::Links;
use net::namespace::{self, Namespaces, mount};

/// The addresses of pods, all of them local.
pub const PODS: &str = "10.244.0.1/16";
/// The addresses of services, all of them local.
pub const SERVICES: &str = "10.96.0.1/16";

/// Ports that processes listen at, which the kernel must not choose as source ports.
const LISTENERS: &str = "15000-15099,15443,20000-20099";

const INSIDE: &str = "ISTHMUS_BENCH_SANDBOX";

/// Enters the sandbox: runs this program inside and returns its exit code, or returns `None` in the process that is inside.
/// The calling process must have one thread.
pub fn enter() -> Result<Option<ExitCode>> {
    if std::env::var_os(INSIDE).is_some() {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        furnish().context("setting up the sandbox")?;
        return Ok(None);
    }
    namespace::enter_user_namespace()?;
    namespace::unshare(Namespaces { net: true, mount: true, pid: true, ipc: false, uts: false })?;
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let mut inside = Command::new("/proc/self/exe");
    inside.arg0(&arguments[0]).args(&arguments[1..]).env(INSIDE, "1");
    let status = inside.status().context("starting inside the sandbox")?;
    Ok(Some(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))))
}

fn furnish() -> Result<()> {
    mount::make_private()?;
    mount::proc(Path::new("/proc"), Path::new("/proc"))?;
    let mut links = Links::open()?;
    links.up("lo")?;
    for network in [PODS, SERVICES] {
        links.add_address("lo", network.parse()?)?;
    }
    let own = namespace::NetNamespace::current()?;
    // Ten thousand connections from one address to one port need ten thousand source ports.
    own.set("ipv4/ip_local_port_range", "10000 65535").context("setting the range of source ports")?;
    own.set("ipv4/ip_local_reserved_ports", LISTENERS).context("reserving listen ports")?;
    own.set("ipv4/tcp_tw_reuse", "1").context("allowing reuse of ports in TIME-WAIT")?;
    own.set("core/somaxconn", "8192").context("setting the length of accept queues")?;
    net::socket::raise_open_files_limit().context("raising the limit on open files")?;
    Ok(())
}
