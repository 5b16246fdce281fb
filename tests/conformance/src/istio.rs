//! Istio's control plane and Envoy, in pods of the lab.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use kube::config::Kubeconfig;
use serde_json::{Value, json};

/// The programs of Istio.
#[derive(Clone, Debug, clap::Args)]
pub struct Programs {
    /// Path of istiod: `pilot-discovery`, built from the Go module istio.io/istio
    #[arg(long, env = "PILOT_DISCOVERY")]
    pub pilot_discovery: PathBuf,
    /// Path of Envoy
    #[arg(long, env = "ENVOY")]
    pub envoy: PathBuf,
}

/// The format of access logs, as in `topology.yaml`.
pub(crate) const ACCESS_LOG: &str = "%REQ(X-CASE)% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_CLUSTER%\n";

/// The settings of the mesh in all beds, without those of the access log.
const MESH: &str = r#"
trustDomain: cluster.local
rootNamespace: istio-system
defaultProviders: {}
enableTracing: false
ingressControllerMode: "OFF"
"#;

/// The settings of the mesh of routing cases.
pub(crate) const ROUTING: &str = "enableAutoMtls: false\n";

/// The environment of istiod: without the filters that a stock Envoy lacks, and without certificates of its own.
pub const ENVIRONMENT: [(&str, &str); 5] = [
    ("PILOT_ENABLE_ALPN_FILTER", "false"),
    ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
    ("PILOT_CERT_PROVIDER", "none"),
    ("POD_NAMESPACE", "istio-system"),
    ("POD_NAME", "istiod"),
];

/// The configuration of an Envoy that gets everything else from istiod, and its certificates from `secrets`
/// ([`crate::secrets::serve`]).
#[must_use]
pub fn bootstrap(metadata: &Value, admin: SocketAddr, istiod: SocketAddr, secrets: SocketAddr) -> Value {
    let socket =
        |address: SocketAddr| json!({"socket_address": {"address": address.ip(), "port_value": address.port()}});
    let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    let cluster = |name: &str, address: SocketAddr| {
        let endpoint = json!({"address": socket(address)});
        json!({
            "name": name, "type": "STATIC", "connect_timeout": "1s", "typed_extension_protocol_options": http2,
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        })
    };
    let ads = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    let text = |field: &str| metadata[field].as_str().unwrap_or("default");
    let identity = format!(
        "By=spiffe://cluster.local/ns/istio-system/sa/istiod;URI=spiffe://cluster.local/ns/{}/sa/{}",
        text("NAMESPACE"),
        text("SERVICE_ACCOUNT")
    );
    json!({
        "node": {"metadata": metadata},
        "admin": {"address": socket(admin)},
        // As in the bootstrap of Istio's proxies: the fragment of a path is removed.
        "layered_runtime": {"layers": [{"name": "istio", "static_layer": {
            "envoy.reloadable_features.http_reject_path_with_fragment": false,
        }}]},
        "dynamic_resources": {
            "lds_config": ads, "cds_config": ads,
            "ads_config": {
                "api_type": "GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{
                    "envoy_grpc": {"cluster_name": "xds-grpc"},
                    "initial_metadata": [{"key": "x-forwarded-client-cert", "value": identity}],
                }],
            },
        },
        "static_resources": {"clusters": [cluster("xds-grpc", istiod), cluster("sds-grpc", secrets)]},
    })
}

/// The environment of an istiod that trusts what a proxy says of its identity, by [`bootstrap`], and therefore sends it Secrets.
pub(crate) const TRUSTING: [(&str, &str); 2] = [("XDS_AUTH_PLAINTEXT", "true"), ("TRUSTED_GATEWAY_CIDR", "0.0.0.0/0")];

/// The version of a `pilot-discovery`, by its Go module.
///
/// # Errors
/// Returns an error if Go is not installed, or the program is not Istio's.
pub fn version(pilot_discovery: &Path) -> Result<String> {
    let modules = Command::new("go").arg("version").arg("-m").arg(pilot_discovery).output().context("go version -m")?;
    let modules = String::from_utf8_lossy(&modules.stdout).into_owned();
    let mut lines = modules.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let version = lines.find_map(|words| match words.as_slice() {
        ["mod" | "dep", "istio.io/istio", version, ..] => Some((*version).to_owned()),
        _ => None,
    });
    version.context("pilot-discovery has no version of istio.io/istio")
}

/// The access log of all Envoys.
pub(crate) fn access_log(directory: &Path) -> PathBuf {
    directory.join("access.log")
}

fn settings_file(directory: &Path) -> PathBuf {
    directory.join("istiod-mesh.yaml")
}

/// Writes the settings of the mesh, which istiod reads again when they change.
pub(crate) fn write_settings(directory: &Path, settings: &str) -> Result<()> {
    let log = access_log(directory);
    std::fs::write(
        settings_file(directory),
        format!("accessLogFile: {}\naccessLogFormat: {ACCESS_LOG:?}{MESH}{settings}", log.display()),
    )?;
    Ok(())
}

impl Programs {
    /// The versions of istiod and Envoy.
    ///
    /// # Errors
    /// Returns an error if a program cannot be run.
    pub fn versions(&self) -> Result<(String, String)> {
        let istiod = version(&self.pilot_discovery)?;
        let envoy = Command::new(&self.envoy).arg("--version").output().context("envoy --version")?;
        let envoy = String::from_utf8_lossy(&envoy.stdout).into_owned();
        let envoy = envoy
            .split("version:")
            .nth(1)
            .and_then(|version| version.split('/').nth(1))
            .context("envoy --version has no version")?;
        Ok((istiod, envoy.to_owned()))
    }

    /// Copies of the programs, which the users of containers can read.
    ///
    /// # Errors
    /// Returns an error if they cannot be copied.
    pub(crate) fn copied(&self, directory: &Path) -> Result<Self> {
        let copy = |from: &Path, name: &str| {
            let to = directory.join(name);
            std::fs::copy(from, &to).with_context(|| from.display().to_string())?;
            anyhow::Ok(to)
        };
        Ok(Self {
            pilot_discovery: copy(&self.pilot_discovery, "pilot-discovery")?,
            envoy: copy(&self.envoy, "envoy")?,
        })
    }

    /// The pod of istiod.
    pub(crate) fn istiod(
        &self,
        directory: &Path,
        mut kubeconfig: Kubeconfig,
        settings: &str,
        further: &[(&str, &str)],
    ) -> Result<Value> {
        for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some("https://10.96.0.1:443".to_owned());
            cluster.insecure_skip_tls_verify = Some(true);
            (cluster.certificate_authority, cluster.certificate_authority_data) = (None, None);
        }
        let file = directory.join("istiod-kubeconfig.yaml");
        std::fs::write(&file, serde_json::to_vec(&kubeconfig)?)?;
        let mesh = settings_file(directory);
        // Users other than root cannot open /dev/stdout in a lab.
        let log = access_log(directory);
        std::fs::write(&log, "")?;
        std::fs::set_permissions(&log, std::fs::Permissions::from_mode(0o666))?;
        write_settings(directory, settings)?;
        let environment: Vec<Value> =
            ENVIRONMENT.iter().chain(further).map(|(name, value)| json!({"name": name, "value": value})).collect();
        Ok(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "istiod", "namespace": "istio-system", "labels": {"app": "oracle", "sidecar.istio.io/inject": "false"}},
            "spec": {"containers": [{
                "name": "istiod", "image": "istiod",
                "command": [self.pilot_discovery],
                "args": [
                    "discovery", "--kubeconfig", file, "--meshConfig", mesh, "--networksConfig", "/dev/null",
                    "--registries", "Kubernetes", "--grpcAddr", ":15010", "--httpAddr", ":8080", "--httpsAddr=",
                    "--secureGRPCAddr=", "--monitoringAddr", ":15014", "--ctrlz_port", "0",
                ],
                "env": environment,
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
            }]},
        }))
    }

    /// A pod with Envoy instead of a sidecar of Isthmus. The rules that capture its traffic are the same. `identity` is the name of
    /// its certificate's files.
    pub(crate) fn with_envoy(&self, mut pod: Value, directory: &Path, istiod: IpAddr, identity: &str) -> Value {
        pod["spec"]["initContainers"] = json!([{
            "name": "init", "image": "isthmus/sidecar", "args": ["init"],
            "env": [{"name": "ISTHMUS_DNS_PORT", "value": "0"}],
            "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
        }]);
        self.with_proxy(pod, "sidecar", 15001, directory, istiod, identity)
    }

    /// A pod with Envoy as a gateway.
    pub(crate) fn with_gateway(&self, pod: Value, directory: &Path, istiod: IpAddr, identity: &str) -> Value {
        self.with_proxy(pod, "router", 15000, directory, istiod, identity)
    }

    /// A pod with an Envoy whose node is of this type, and which is ready when it listens on this port.
    fn with_proxy(
        &self,
        mut pod: Value,
        node_type: &str,
        ready: u16,
        directory: &Path,
        istiod: IpAddr,
        identity: &str,
    ) -> Value {
        let text = |value: &Value| value.as_str().unwrap_or("default").to_owned();
        let (namespace, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let account = text(&pod["spec"]["serviceAccountName"]);
        pod["metadata"]["labels"]["sidecar.istio.io/inject"] = json!("false");
        let labels = pod["metadata"]["labels"].clone();
        let metadata = json!({
            "NAMESPACE": namespace, "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.30.0", "LABELS": labels,
            "INTERCEPTION_MODE": "REDIRECT", "SERVICE_ACCOUNT": account, "NETWORK": "net-west",
        });
        let admin = (Ipv4Addr::LOCALHOST, 15000).into();
        let bootstrap = bootstrap(&metadata, admin, (istiod, 15010).into(), crate::secrets::ADDRESS);
        let envoy = json!({
            "name": "envoy", "image": "envoy", "command": [self.envoy],
            "args": [
                "--config-yaml", bootstrap.to_string(), "--concurrency", "1", "--file-flush-interval-msec", "100",
                "--service-node", format!("{node_type}~$(INSTANCE_IP)~{name}.{namespace}~{namespace}.svc.cluster.local"),
                "--service-cluster", format!("{name}.{namespace}"), "--log-level", "warning",
                "--drain-time-s", "1", "--drain-strategy", "immediate",
            ],
            "env": [{"name": "INSTANCE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "readinessProbe": {
                "exec": {"command": ["bash", "-c", format!("exec 3<>/dev/tcp/127.0.0.1/{ready}")]}, "periodSeconds": 1,
            },
            "securityContext": {"runAsUser": 1337, "runAsGroup": 1337},
        });
        if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
            containers.push(envoy);
        }
        if let Some(arguments) = pod["spec"]["containers"][0]["args"].as_array_mut() {
            arguments.extend([json!("--secrets"), json!(directory), json!("--identity"), json!(identity)]);
        }
        pod
    }
}
