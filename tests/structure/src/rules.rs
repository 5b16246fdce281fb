//! The rules: which crates and modules may use which. To change the structure on purpose, change these tables.

/// The crates that proxies are made of, from which a program may use all.
const ENGINE: &[&str] =
    &["balance", "identity", "net", "policy", "probe", "proxy", "ratelimit", "route", "runtime", "telemetry", "wire"];

/// For each crate of the workspace, the crates that it may use. Crates that do not exist yet are listed so that they begin in the right
/// place. Dependencies of tests are free.
pub const DIRECTIONS: &[(&str, &[&str])] = &[
    ("identity", &[]),
    ("wire", &[]),
    ("net", &[]),
    ("balance", &["identity", "wire"]),
    ("policy", &["identity", "wire"]),
    ("route", &["identity", "telemetry"]),
    ("ratelimit", &["identity", "policy", "route"]),
    ("telemetry", &["identity", "wire"]),
    ("probe", &[]),
    ("runtime", &["identity", "net", "probe", "telemetry", "wire"]),
    ("proxy", &["balance", "identity", "net", "policy", "ratelimit", "route", "runtime", "telemetry", "wire"]),
    ("sidecar", ENGINE),
    ("eastwest-gateway", ENGINE),
    ("router", ENGINE),
    ("api", &[]),
    ("install", &["api", "identity"]),
    (
        "federation-controller",
        &["api", "balance", "identity", "install", "net", "policy", "route", "runtime", "telemetry", "wire"],
    ),
    ("apiserver", &["probe"]),
    ("lab", &["api", "apiserver", "identity", "install", "net", "probe", "runtime", "telemetry"]),
    ("drill", &["api", "identity", "lab", "net", "runtime", "telemetry"]),
    // The command.
    (
        "isthmus",
        &[
            "api",
            "drill",
            "eastwest-gateway",
            "federation-controller",
            "identity",
            "install",
            "lab",
            "net",
            "router",
            "sidecar",
        ],
    ),
    // What tests share, the benchmark rig, and this program.
    ("harness", &[]),
    ("fake-controller", &["identity", "net", "wire"]),
    ("attacks", &["identity", "install", "net", "runtime", "telemetry", "wire"]),
    ("conformance", &["net"]),
    ("bench", &["apiserver", "conformance", "fake-controller", "identity", "install", "net", "wire"]),
    ("structure", &[]),
];

/// Packages that crates never link, through others either.
pub struct Forbidden {
    /// The crates.
    pub crates: &'static [&'static str],
    /// The packages.
    pub packages: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
}

/// All packages that are never linked by some crates.
pub const FORBIDDEN: &[Forbidden] = &[
    Forbidden {
        crates: &["proxy", "sidecar", "eastwest-gateway", "router", "runtime"],
        packages: &["kube", "kube-client", "kube-core", "k8s-openapi", "schemars", "isthmus-api", "isthmus-install"],
        reason: "configuration reaches a proxy over `wire`, so a proxy knows no Kubernetes types",
    },
    Forbidden {
        crates: &["balance", "policy", "ratelimit", "route"],
        packages: &["hyper", "isthmus-net", "socket2", "tonic"],
        reason: "decisions have no sockets: tests give them tables",
    },
];

/// Modules of a crate that use each other, and may.
pub struct Cycle {
    /// The crate.
    pub krate: &'static str,
    /// Its top-level modules, all of a cycle, sorted.
    pub modules: &'static [&'static str],
    /// Why it is allowed.
    pub reason: &'static str,
}

/// The cycles between top-level modules that are allowed. Every other cycle is an error in every crate, and so is an entry whose cycle
/// no longer exists.
pub const CYCLES: &[Cycle] = &[
    Cycle {
        krate: "identity",
        modules: &["authority", "request"],
        reason: "an authority signs requests, and a request fails with the authority's error",
    },
    Cycle { krate: "isthmus", modules: &["completion", "crate"], reason: "the command writes completions of itself" },
    Cycle {
        krate: "net",
        modules: &["link", "namespace"],
        reason: "a new namespace sets up its loopback link, and a link can be moved to a namespace",
    },
];

/// For a crate, top-level modules in the order in which data flows through them: a later one may use an earlier one, and never the
/// reverse, through other modules either. Modules that do not exist are skipped.
pub const STAGES: &[(&str, &[&str])] = &[(
    "federation-controller",
    &["objects", "clusters", "inventory", "compile", "publish", "pipeline", "discovery", "gauges", "debug"],
)];
