//! nginx as a router by server name: its stream module with `ssl_preread` alone.
//!
//! Source: nginx' documentation of `ngx_stream_ssl_preread_module`, whose first example this is.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::peers::SniRoute;
use crate::rig::Rig;
use crate::setup;

/// Returns the command that starts a gateway with this route.
pub fn gateway(rig: &Rig, name: &str, route: &SniRoute) -> Result<Command> {
    let directory = rig.directory().join(name);
    fs::create_dir_all(&directory)?;
    let (listen, server, sni) = (route.gateway, route.server, &route.server_name);
    let (module, prefix) = (setup::NGINX_STREAM.0, directory.display());
    // One process is master and worker, so its cost is that of one process. A forwarded connection takes two of nginx'
    // connections.
    let text = format!(
        "load_module {module};
daemon off;
master_process off;
pid {prefix}/pid;
error_log stderr error;
worker_rlimit_nofile 60000;
events {{
    worker_connections 50000;
}}
stream {{
    map_hash_bucket_size 256;
    map $ssl_preread_server_name $endpoint {{
        {sni} {server};
    }}
    server {{
        listen {listen} backlog=4096;
        ssl_preread on;
        preread_timeout 5s;
        proxy_connect_timeout 2s;
        proxy_timeout 1h;
        tcp_nodelay on;
        proxy_pass $endpoint;
    }}
}}
"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new(setup::peer("nginx")?);
    command.arg("-e").arg("stderr").arg("-p").arg(&directory).arg("-c").arg(file);
    Ok(command)
}
