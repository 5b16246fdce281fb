//! A network of its own, in which everything that is measured runs: nothing of it leaves this machine, no port is taken,
//! and when it ends, however it ends, the kernel ends all that runs in it.
//!
//! Everything is on one loopback link, on which all of [`PODS`] and [`SERVICES`] are local, so that systems can have
//! addresses as in a cluster and are compared without links, bridges and packet rules in between.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use net::link::Links;
use net::namespace::{self, Namespaces, mount};

/// Addresses of pods, all of them on this machine.
pub const PODS: &str = "10.244.0.1/16";
/// Addresses of services, all of them on this machine.
pub const SERVICES: &str = "10.96.0.1/16";

/// Ports at which something here listens: none of them may be taken as a source port before.
const LISTENERS: &str = "15000-15099,15443,20000-20099";

const INSIDE: &str = "ISTHMUS_BENCH_SANDBOX";

/// Whether this process is inside already; if not, runs itself there and says how that ended. Call it while the process
/// has one thread.
pub fn enter() -> Result<Option<ExitCode>> {
    if std::env::var_os(INSIDE).is_some() {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        furnish().context("making the sandbox")?;
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
    // Ten thousand connections from one address to one port need as many source ports.
    own.set("ipv4/ip_local_port_range", "10000 65535").context("the range of source ports")?;
    own.set("ipv4/ip_local_reserved_ports", LISTENERS).context("ports that are no source ports")?;
    own.set("ipv4/tcp_tw_reuse", "1").context("reuse of ports in TIME-WAIT")?;
    own.set("core/somaxconn", "8192").context("the length of accept queues")?;
    net::socket::raise_open_files_limit().context("the limit of open files")?;
    Ok(())
}
