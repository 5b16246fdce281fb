//! The probe of a WorkloadGroup, which the proxies of its workloads make.

use api::networking::service_entry::ReadinessProbe;
use wire::discovery::readiness_probe::Check;
use wire::discovery::{self, ExecProbe, GrpcProbe, HttpProbe, TcpProbe};

/// The bounds of the seconds of a probe.
const MOST_SECONDS: u32 = 86_400;

/// Compiles a probe, with the defaults of Istio. Returns `None` if it has no check.
pub(super) fn compile(probe: &ReadinessProbe) -> Option<discovery::ReadinessProbe> {
    let check = if let Some(http) = &probe.http_get {
        Check::Http(HttpProbe {
            host: http.host.clone(),
            port: http.port,
            path: http.path.clone(),
            https: http.scheme.eq_ignore_ascii_case("https"),
            headers: http.http_headers.iter().flat_map(|of| [of.name.clone(), of.value.clone()]).collect(),
        })
    } else if let Some(tcp) = &probe.tcp_socket {
        Check::Tcp(TcpProbe { host: tcp.host.clone(), port: tcp.port })
    } else if let Some(exec) = &probe.exec {
        Check::Exec(ExecProbe { command: exec.command.clone() })
    } else {
        let grpc = probe.grpc.as_ref()?;
        Check::Grpc(GrpcProbe { port: grpc.port, service: grpc.service.clone() })
    };
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let milliseconds = |seconds: u32| seconds.min(MOST_SECONDS) * 1000;
    Some(discovery::ReadinessProbe {
        initial_delay_ms: milliseconds(probe.initial_delay_seconds),
        timeout_ms: milliseconds(or(probe.timeout_seconds, 1)),
        period_ms: milliseconds(or(probe.period_seconds, 10)),
        success_threshold: or(probe.success_threshold, 1),
        failure_threshold: or(probe.failure_threshold, 3),
        check: Some(check),
    })
}
