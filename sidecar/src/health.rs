//! The health of the application of a workload that is no pod: the probe of its WorkloadGroup, which a kubelet would make for a
//! pod. The controller writes the result into the WorkloadEntry.

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use probe::http::{Get, authority, is_success};
use proxy::mesh::Published;
use proxy::report::ControllerReport;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use wire::discovery::readiness_probe::Check;
use wire::discovery::{ApplicationHealth, ReadinessProbe};

/// The shortest time between checks and for one of them.
const SHORTEST: Duration = Duration::from_millis(100);

/// How checks are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checks {
    /// The address of the application.
    pub(crate) address: IpAddr,
    /// The firewall mark of connections.
    pub(crate) mark: Option<u32>,
}

/// Reports the health of the application for as long as the proxy runs. Without a probe, it is unknown.
pub(crate) async fn report(published: Arc<Published>, checks: Checks, report: ControllerReport) {
    loop {
        let mut changed = published.changed();
        let probe = newest(&published);
        let tell = |health: ApplicationHealth| report.update(|report| report.health = health.into());
        let probing = async {
            match &probe {
                Some(probe) => checks.repeat(probe, tell).await,
                None => {
                    tell(ApplicationHealth::Unknown);
                    std::future::pending().await
                }
            }
        };
        tokio::pin!(probing);
        loop {
            tokio::select! {
                () = &mut probing => {}
                () = &mut changed => {}
            }
            changed = published.changed();
            if newest(&published) != probe {
                break;
            }
        }
    }
}

fn newest(published: &Published) -> Option<ReadinessProbe> {
    published.newest().own.as_ref().and_then(|workload| workload.probe.clone())
}

impl Checks {
    /// Makes checks, and reports the health when enough of them in a row agree. Never ends.
    async fn repeat(&self, probe: &ReadinessProbe, tell: impl Fn(ApplicationHealth)) {
        let milliseconds = |value: u32| Duration::from_millis(value.into());
        sleep(milliseconds(probe.initial_delay_ms)).await;
        let mut ticks = interval(milliseconds(probe.period_ms).max(SHORTEST));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let limit = milliseconds(probe.timeout_ms).max(SHORTEST);
        let mut row = Row::default();
        loop {
            ticks.tick().await;
            let result = timeout(limit, self.make(probe)).await;
            let result = result.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
            if let Err(reason) = &result {
                tracing::debug!(reason, "the application fails the probe");
            }
            if let Some(health) = row.add(result.is_ok(), probe) {
                tell(health);
            }
        }
    }

    async fn make(&self, probe: &ReadinessProbe) -> Result<(), String> {
        let port = |port: u32| u16::try_from(port).map_err(|_| format!("{port} is not a port"));
        match &probe.check {
            Some(Check::Http(http)) => {
                let number = port(http.port)?;
                let stream = self.connect(&http.host, number).await?;
                let host = if http.host.is_empty() { self.address.to_string() } else { http.host.clone() };
                let headers = http.headers.chunks_exact(2).map(|of| (of[0].clone(), of[1].clone())).collect();
                let get = Get { https: http.https, path: http.path.clone(), headers };
                let status = get.send(stream, &host, number).await?;
                if is_success(status) { Ok(()) } else { Err(format!("status {status}")) }
            }
            Some(Check::Tcp(tcp)) => self.connect(&tcp.host, port(tcp.port)?).await.map(drop),
            Some(Check::Exec(exec)) => run(&exec.command).await,
            Some(Check::Grpc(grpc)) => {
                let number = port(grpc.port)?;
                let stream = self.connect("", number).await?;
                probe::grpc::check(stream, authority(&self.address.to_string(), number), &grpc.service).await
            }
            None => Err("the probe is one of a newer controller".into()),
        }
    }

    /// Connects to a port of a host, or of the application, as the proxy itself does: captured connections would answer for it.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let failed = |error: std::io::Error| format!("cannot connect to port {port}: {error}");
        if host.is_empty() {
            let address = SocketAddr::new(self.address, port);
            return net::connect_to_application(address, self.mark).await.map_err(failed);
        }
        let addresses = runtime::resolve::lookup(host, self.mark).await.map_err(failed)?;
        let address = addresses.first().ok_or_else(|| format!("{host} has no address"))?;
        let options = net::Connect { mark: self.mark, ..net::Connect::default() };
        net::connect(SocketAddr::new(*address, port), &options).await.map_err(failed)
    }
}

/// Runs a command. It is ended if the check takes too long.
async fn run(command: &[String]) -> Result<(), String> {
    let [program, arguments @ ..] = command else { return Err("the command is empty".into()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let status = command.status().await.map_err(|error| format!("cannot run {program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
}

/// Checks in a row with the same result.
#[derive(Debug, Default)]
struct Row {
    passed: bool,
    count: u32,
}

impl Row {
    /// Adds a check. Returns the health once it is decided, and with every further check.
    fn add(&mut self, passed: bool, probe: &ReadinessProbe) -> Option<ApplicationHealth> {
        if self.passed != passed {
            (self.passed, self.count) = (passed, 0);
        }
        self.count = self.count.saturating_add(1);
        let (threshold, health) = match passed {
            true => (probe.success_threshold, ApplicationHealth::Healthy),
            false => (probe.failure_threshold, ApplicationHealth::Unhealthy),
        };
        (self.count >= threshold).then_some(health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use wire::discovery::{ExecProbe, TcpProbe};

    fn probe(check: Check) -> ReadinessProbe {
        ReadinessProbe { success_threshold: 1, failure_threshold: 2, check: Some(check), ..ReadinessProbe::default() }
    }

    fn checks(address: Ipv4Addr) -> Checks {
        Checks { address: address.into(), mark: None }
    }

    #[test]
    fn health_changes_after_enough_checks_in_a_row() {
        let probe = probe(Check::Tcp(TcpProbe::default()));
        let mut row = Row::default();
        let found: Vec<_> =
            [true, false, true, false, false].into_iter().map(|passed| row.add(passed, &probe)).collect();
        let (healthy, unhealthy) = (Some(ApplicationHealth::Healthy), Some(ApplicationHealth::Unhealthy));
        assert_eq!(found, [healthy, None, healthy, None, unhealthy]);
    }

    #[tokio::test]
    async fn a_port_answers_while_somebody_listens() {
        let own = Ipv4Addr::LOCALHOST;
        let listener = net::socket::bind((own, 0).into(), false).unwrap();
        let port = listener.local_addr().unwrap().port().into();
        let tcp = |host: &str| probe(Check::Tcp(TcpProbe { host: host.into(), port }));
        assert!(checks(own).make(&tcp("")).await.is_err(), "the socket does not listen yet");
        net::socket::open(&listener, 16).unwrap();
        for host in ["", "127.0.0.1"] {
            assert_eq!(checks(own).make(&tcp(host)).await, Ok(()), "{host}");
        }
    }

    #[tokio::test]
    async fn a_command_decides_by_its_exit_code() {
        for (command, passes) in
            [(&["true"][..], true), (&["false"], false), (&["/no/such/program"], false), (&[], false)]
        {
            let command = command.iter().map(|part| (*part).to_owned()).collect();
            let result = checks(Ipv4Addr::LOCALHOST).make(&probe(Check::Exec(ExecProbe { command }))).await;
            assert_eq!(result.is_ok(), passes, "{result:?}");
        }
    }
}
