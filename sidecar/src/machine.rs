//! Workloads that are no pods: reads what `isthmus workload entry configure` wrote for a machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use crate::options::Options;

/// The file with options.
const ENVIRONMENT: &str = "cluster.env";
/// The files that are used from the directory if they are in it, and the variables of their options.
const FILES: [(&str, &str); 3] = [
    ("istio-token", "ISTHMUS_TOKEN"),
    ("root-cert.pem", "ISTHMUS_ROOT_CERT"),
    ("controller-issuer.pem", "ISTHMUS_CONTROLLER_ISSUER"),
];
/// The largest file of options, in bytes.
const MAX_SIZE: u64 = 64 << 10;
/// The variable that says that the directory was read.
const READ: &str = "ISTHMUS_FROM_READ";

/// Why a machine's options cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    #[error("{path}: {error}; write it with isthmus workload entry configure")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{path}, line {line}: {text:?} is not NAME='VALUE'")]
    Invalid { path: PathBuf, line: usize, text: String },
    #[error("cannot start again with the options of {path}: {error}")]
    Start { path: PathBuf, error: io::Error },
    #[error("the address of this machine towards {controller} is unknown ({error}); set --ip or INSTANCE_IP")]
    NoAddress { controller: String, error: io::Error },
}

/// Returns the options with those of a machine's directory, and with the machine's address.
///
/// The options of the directory become the environment of the process, which starts again: other options, and the libraries that
/// read the environment, find them as those of a pod.
pub(crate) fn read(mut options: Options) -> Result<Options, MachineError> {
    if let Some(directory) = options.from.clone()
        && env::var_os(READ).is_none()
    {
        let variables = variables(&directory)?;
        let unset = variables.into_iter().filter(|(name, _)| env::var_os(name).is_none());
        let mut again = Command::new("/proc/self/exe");
        again.args(env::args_os().skip(1)).envs(unset).env(READ, "1");
        return Err(MachineError::Start { path: directory, error: again.exec() });
    }
    if options.is_machine() && options.ip.is_loopback() && options.mode.is_none() {
        let failed = |error| MachineError::NoAddress { controller: options.discovery.clone(), error };
        options.ip = local_address(&options.discovery, options.mark()).map_err(failed)?;
    }
    Ok(options)
}

/// Returns the variables of a directory.
fn variables(directory: &Path) -> Result<BTreeMap<String, String>, MachineError> {
    let path = directory.join(ENVIRONMENT);
    let unreadable = |error| MachineError::Unreadable { path: path.clone(), error };
    if fs::metadata(&path).map_err(unreadable)?.len() > MAX_SIZE {
        return Err(unreadable(io::Error::other(format!("has more than {MAX_SIZE} bytes"))));
    }
    let mut variables = parse(&fs::read_to_string(&path).map_err(unreadable)?)
        .map_err(|(line, text)| MachineError::Invalid { path: path.clone(), line, text })?;
    let absolute = fs::canonicalize(directory).map_err(unreadable)?;
    for (file, variable) in FILES {
        let file = absolute.join(file);
        if file.exists() {
            variables.entry(variable.into()).or_insert_with(|| file.display().to_string());
        }
    }
    Ok(variables)
}

/// Parses lines of `NAME='VALUE'`, as a shell reads them. An error has the number of the line and its beginning.
fn parse(text: &str) -> Result<BTreeMap<String, String>, (usize, String)> {
    let mut variables = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let invalid = || (number + 1, line.chars().take(40).collect::<String>());
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=').ok_or_else(invalid)?;
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let quoted = ['\'', '"'].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        let value = quoted.unwrap_or(value);
        if !is_name || value.contains(['\'', '"', '\0']) && !value.starts_with(['{', '[']) {
            return Err(invalid());
        }
        variables.insert(name.to_owned(), value.to_owned());
    }
    Ok(variables)
}

/// Returns the address from which connections to a host and port leave the machine. Nothing is sent there. The host is resolved by
/// queries with the proxy's mark: others are redirected to the proxy, which does not run yet.
fn local_address(controller: &str, mark: Option<u32>) -> io::Result<IpAddr> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "it is not HOST:PORT");
    let (host, port) = controller.rsplit_once(':').ok_or_else(invalid)?;
    let port: u16 = port.parse().map_err(|_| invalid())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let addresses = runtime.block_on(runtime::resolve::lookup(host, mark))?;
    let address = *addresses.first().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no address"))?;
    let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect((address, port))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_a_shell_reads_them() {
        let text = "# of west\nPOD_NAMESPACE='shop'\n\nexport ISTIO_META_NETWORK=\"net\"\nA=\nISTIO_METAJSON_LABELS='{\"app\":\"vm\"}'\n";
        let parsed = parse(text).unwrap();
        let found: Vec<_> = parsed.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [
            ("A", ""),
            ("ISTIO_METAJSON_LABELS", "{\"app\":\"vm\"}"),
            ("ISTIO_META_NETWORK", "net"),
            ("POD_NAMESPACE", "shop"),
        ];
        assert_eq!(found, expected);
        for (wrong, line) in [("A", 1), ("A=1\nB C=1", 2), ("=1", 1), ("A='1'2'", 1)] {
            assert_eq!(parse(wrong).unwrap_err().0, line, "{wrong}");
        }
    }

    #[test]
    fn files_of_the_directory_are_used() {
        let directory = tempfile::tempdir().unwrap();
        let error = variables(directory.path()).unwrap_err().to_string();
        assert!(error.contains("cluster.env") && error.contains("configure"), "{error}");
        fs::write(directory.path().join(ENVIRONMENT), "POD_NAMESPACE=shop\nISTHMUS_ROOT_CERT=/elsewhere\n").unwrap();
        for file in ["istio-token", "root-cert.pem"] {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let found = variables(directory.path()).unwrap();
        assert!(found["ISTHMUS_TOKEN"].starts_with('/') && found["ISTHMUS_TOKEN"].ends_with("/istio-token"));
        assert_eq!(found["ISTHMUS_ROOT_CERT"], "/elsewhere");
        assert!(!found.contains_key("ISTHMUS_CONTROLLER_ISSUER"));
    }

    #[test]
    fn the_address_is_that_of_connections_to_the_controller() {
        assert_eq!(local_address("127.0.0.1:15012", None).unwrap(), IpAddr::from([127, 0, 0, 1]));
        for wrong in ["15012", "127.0.0.1:", "127.0.0.1:x"] {
            assert!(local_address(wrong, None).is_err(), "{wrong}");
        }
    }
}
