//! HAProxy as a router by server name: mode tcp and `req.ssl_sni` alone.
//!
//! Sources: HAProxy 2.6's configuration manual, `req.ssl_sni` (whose example this is) and `option splice-auto`.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::peers::SniRoute;
use crate::rig::Rig;
use crate::setup;

/// How HAProxy forwards bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// Through its buffers, the default.
    Copied,
    /// Through pipes when HAProxy decides to splice.
    Spliced,
}

/// Returns the command that starts a gateway with this route.
pub fn gateway(rig: &Rig, name: &str, route: &SniRoute, bytes: Bytes) -> Result<Command> {
    let splice = match bytes {
        Bytes::Copied => "",
        Bytes::Spliced => "option splice-auto",
    };
    // HAProxy does not start if the sum of files that it may need exceeds the limit.
    const PIPES: u64 = 64;
    let connections = net::socket::raise_open_files_limit()?.min(60_000).saturating_sub(PIPES * 2 + 100) / 2;
    let (listen, server, sni) = (route.gateway, route.server, &route.server_name);
    let text = format!(
        "global
    nbthread 1
    maxconn {connections}
    maxpipes {PIPES}
defaults
    mode tcp
    {splice}
    timeout connect 2s
    timeout client 1h
    timeout server 1h
frontend gateway
    bind {listen} backlog 4096
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend service if {{ req.ssl_sni -i {sni} }}
backend service
    server endpoint {server}
"
    );
    let file = rig.directory().join(format!("{name}.cfg"));
    fs::write(&file, text)?;
    let mut command = Command::new(setup::peer("haproxy")?);
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}
