//! WorkloadGroups.

use super::{Check, names};
use crate::networking::service_entry::{ReadinessProbe, WorkloadGroupSpec, is_unix};

/// The number of arguments of a command of a probe, and of its headers.
const MAX_LIST: usize = 100;

pub(super) fn check(spec: &WorkloadGroupSpec, check: &mut Check) {
    check.at(format_args!(".metadata"), |check| names::label_map(check, "labels", &spec.metadata.labels));
    check.at(format_args!(".template"), |check| {
        let template = &spec.template;
        for (name, port) in &template.ports {
            check.at(format_args!(".ports"), |check| check.port(names::shown(name), *port));
        }
        names::label_map(check, "labels", &template.labels);
        if template.locality.split('/').count() > 3 {
            check.error_of("locality", "has more than three parts; write region/zone/subzone");
        }
        if is_unix(&template.address) {
            check.error_of("address", "is a Unix socket; remove it: the address is that of each workload");
        } else if !template.address.is_empty() {
            check.warn_of("address", "has no effect: the address is that of each workload");
        }
    });
    check.some("probe", &spec.probe, probe);
}

fn probe(probe: &ReadinessProbe, check: &mut Check) {
    let (http, tcp, exec, grpc) = (&probe.http_get, &probe.tcp_socket, &probe.exec, &probe.grpc);
    check.one_of(&[
        ("httpGet", http.is_some()),
        ("tcpSocket", tcp.is_some()),
        ("exec", exec.is_some()),
        ("grpc", grpc.is_some()),
    ]);
    if http.is_none() && tcp.is_none() && exec.is_none() && grpc.is_none() {
        check.error("has no check; write httpGet, tcpSocket, exec or grpc");
    }
    check.some("httpGet", http, |http, check| {
        check.port("port", http.port);
        if !matches!(&*http.scheme.to_ascii_uppercase(), "" | "HTTP" | "HTTPS") {
            check.error_of("scheme", format!("is {:?}, but must be HTTP or HTTPS", names::shown(&http.scheme)));
        }
        if http.http_headers.len() > MAX_LIST {
            check.error_of("httpHeaders", format!("has more than {MAX_LIST} headers"));
        }
    });
    check.some("tcpSocket", tcp, |tcp, check| check.port("port", tcp.port));
    check.some("exec", exec, |exec, check| match exec.command.len() {
        0 => check.error_of("command", "is empty; write a command"),
        1..=MAX_LIST => {}
        _ => check.error_of("command", format!("has more than {MAX_LIST} arguments")),
    });
    check.some("grpc", grpc, |grpc, check| check.port("port", grpc.port));
}
