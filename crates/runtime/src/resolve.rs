//! A small stub resolver whose queries carry the proxy's mark, so that capture does not send a proxy's own lookups back
//! to the proxy's own DNS server. Follows resolv.conf(5) (`nameserver`, `search`, `options ndots:`) and `/etc/hosts`,
//! reading both anew for each lookup: a proxy looks up little, and only to connect to its controller.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// For one server's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Rounds over the list of servers.
const ROUNDS: usize = 2;

/// The resolver's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Config {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
}

/// The addresses of `host`, which may be an address itself. IPv4 addresses come first.
pub async fn lookup(host: &str, mark: Option<u32>) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(vec![address]);
    }
    let hosts = in_hosts(&std::fs::read_to_string("/etc/hosts").unwrap_or_default(), host);
    if !hosts.is_empty() {
        return Ok(hosts);
    }
    let config = Config::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    lookup_with(&config, host, mark).await
}

async fn lookup_with(config: &Config, host: &str, mark: Option<u32>) -> io::Result<Vec<IpAddr>> {
    let mut last = None;
    for candidate in config.candidates(host) {
        let name = Name::from_ascii(&candidate)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{candidate}: {error}")))?;
        match ask_all(config, &name, mark).await {
            Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no address is known for {host}"))))
}

/// Asks the servers in turn until one answers. No addresses: there is no such name.
async fn ask_all(config: &Config, name: &Name, mark: Option<u32>) -> io::Result<Vec<IpAddr>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "/etc/resolv.conf names no server");
    for server in std::iter::repeat_n(&config.servers, ROUNDS).flatten() {
        match ask(*server, name, mark).await {
            Ok(addresses) => return Ok(addresses),
            Err(error) => last = io::Error::new(error.kind(), format!("asking {server} for {name}: {error}")),
        }
    }
    Err(last)
}

/// Asks one server for both kinds of address at once.
async fn ask(server: SocketAddr, name: &Name, mark: Option<u32>) -> io::Result<Vec<IpAddr>> {
    let local: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((local, 0)).await?;
    if let Some(mark) = mark {
        net::socket::set_mark(&socket, mark)?;
    }
    // Connected: answers from elsewhere are not ours to see, and a closed port is an error instead of silence.
    socket.connect(server).await?;
    let first: u16 = rand::random();
    let questions = [(first, RecordType::A), (first.wrapping_add(1), RecordType::AAAA)];
    for (id, kind) in questions {
        let mut question = Message::new(id, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(name.clone(), kind));
        socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
    }
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let mut answers: [Option<Vec<IpAddr>>; 2] = [None, None];
    let mut buffer = vec![0; 4096];
    while answers.iter().any(Option::is_none) {
        let length = match timeout_at(deadline, socket.recv(&mut buffer)).await {
            Ok(length) => length?,
            // A server that knows one kind only may leave the other without an answer.
            Err(_) if answers.iter().flatten().any(|addresses| !addresses.is_empty()) => break,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
        };
        let Ok(answer) = Message::from_vec(&buffer[..length]) else { continue };
        let Some(which) = questions.iter().position(|(id, _)| *id == answer.metadata.id) else { continue };
        let about = answer.queries.first().is_none_or(|query| query.name().eq_ignore_root(name));
        if answer.metadata.message_type != MessageType::Response || !about {
            continue;
        }
        match answer.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {}
            code => return Err(io::Error::other(format!("the server answered {code}"))),
        }
        let addresses = answer.answers.iter().filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        });
        answers[which] = Some(addresses.collect());
    }
    Ok(answers.into_iter().flatten().flatten().collect())
}

impl Config {
    fn parse(text: &str) -> Self {
        let mut config = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let addresses = words.filter_map(|word| word.parse::<IpAddr>().ok());
                    config.servers.extend(addresses.map(|ip| SocketAddr::new(ip, 53)));
                }
                Some("search" | "domain") => {
                    config.search = words.map(|word| word.trim_end_matches('.').to_owned()).collect();
                }
                Some("options") => {
                    if let Some(ndots) =
                        words.filter_map(|word| word.strip_prefix("ndots:")).find_map(|n| n.parse().ok())
                    {
                        config.ndots = ndots;
                    }
                }
                _ => {}
            }
        }
        if config.servers.is_empty() {
            config.servers.push((Ipv4Addr::LOCALHOST, 53).into());
        }
        config
    }

    /// The names to try, in order, each absolute.
    fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(absolute) = host.strip_suffix('.') {
            return vec![format!("{absolute}.")];
        }
        let mut candidates: Vec<String> = self.search.iter().map(|domain| format!("{host}.{domain}.")).collect();
        let absolute = format!("{host}.");
        if host.matches('.').count() >= self.ndots {
            candidates.insert(0, absolute);
        } else {
            candidates.push(absolute);
        }
        candidates
    }
}

fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .filter_map(|mut words| {
            let address: IpAddr = words.next()?.parse().ok()?;
            words.any(|name| name.eq_ignore_ascii_case(host.trim_end_matches('.'))).then_some(address)
        })
        .collect();
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

#[cfg(test)]
mod tests;
