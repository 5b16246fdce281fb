//! The four charts of the page: which findings each of them shows.

use super::draw::{self, Bars};
use super::number::Scale;
use super::table::NONE;
use crate::finding::{Finding, Spread};

/// A chart as a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// The title, which is also the alternative text.
    pub title: &'static str,
    /// The file's name.
    pub file: &'static str,
    /// The file's content.
    pub svg: String,
}

/// A chart's definition.
struct Design {
    file: &'static str,
    title: &'static str,
    panels: &'static [Panel],
}

/// One metric under some loads.
struct Panel {
    heading: &'static str,
    scenario: &'static str,
    metric: &'static str,
    /// The loads, by name or by the end of it.
    loads: &'static [&'static str],
    systems: &'static [&'static str],
    /// Whether the median without a proxy is subtracted.
    added: bool,
}

const PAIRS: &[&str] = &["isthmus", "floor", "envoy"];
const GATEWAYS: &[&str] = &["isthmus", "envoy", "haproxy", "haproxy (splice)", "nginx"];
const BESIDE_ENVOY: &[&str] = &["isthmus", "envoy"];
const SMALL_BODIES: &[&str] = &[
    "HTTP/1.1 keep-alive, 1 KiB, 1 connection",
    "HTTP/1.1 keep-alive, 1 KiB, 32 connections",
    "HTTP/2, 1 KiB, 16 connections",
    "gRPC unary, 1 KiB, 16 connections",
];

const fn added(heading: &'static str, metric: &'static str, loads: &'static [&'static str]) -> Panel {
    Panel { heading, scenario: "sidecar", metric, loads, systems: BESIDE_ENVOY, added: true }
}

const fn gateway(heading: &'static str, metric: &'static str, loads: &'static [&'static str]) -> Panel {
    Panel { heading, scenario: "gateway", metric, loads, systems: GATEWAYS, added: false }
}

const fn memory(heading: &'static str, metric: &'static str, loads: &'static [&'static str]) -> Panel {
    Panel { heading, scenario: "memory", metric, loads, systems: BESIDE_ENVOY, added: false }
}

const DESIGNS: &[Design] = &[
    Design {
        file: "cpu-per-request.svg",
        title: "CPU per request of two sidecars",
        panels: &[Panel {
            heading: "",
            scenario: "sidecar",
            metric: "CPU per request",
            loads: &[
                "HTTP/1.1 keep-alive, 1 KiB, 32 connections",
                "HTTP/1.1 keep-alive, 1 KiB, 1 connection",
                "HTTP/1.1 keep-alive, 64 KiB, 16 connections",
                "HTTP/1.1 keep-alive, 1 MiB, 16 connections",
                "HTTP/1.1 new connection per request, 1 KiB, 16 at a time",
                "HTTP/2, 1 KiB, 256 streams on 16 connections",
                "gRPC unary, 1 KiB, 16 connections",
                "gRPC stream, 1 KiB, 16 connections",
                "TCP, 64 KiB, 16 connections",
            ],
            systems: PAIRS,
            added: false,
        }],
    },
    Design {
        file: "added-latency.svg",
        title: "Latency that two sidecars add at a fixed rate",
        panels: &[
            added("median", "latency p50", SMALL_BODIES),
            added("median, larger bodies", "latency p50", &["HTTP/1.1 keep-alive, 64 KiB, 16 connections"]),
            added("99th percentile", "latency p99", SMALL_BODIES),
        ],
    },
    Design {
        file: "gateway.svg",
        title: "CPU of the east-west gateway",
        panels: &[
            gateway(
                "per GiB",
                "CPU per GiB",
                &["bulk transfer, 1 connection", "bulk transfer, 16 connections", "bulk transfer, 256 connections"],
            ),
            gateway(
                "per new connection",
                "CPU per connection",
                &["new connections, 1 at a time", "new connections, 16 at a time", "new connections, 256 at a time"],
            ),
        ],
    },
    Design {
        file: "memory.svg",
        title: "Resident memory of proxies",
        panels: &[
            memory("the client's sidecar", "resident memory, outbound", &["idle, one service used"]),
            memory("both sidecars, at the end of a burst", "resident memory of both at its end", &["256 connections"]),
            memory(
                "the server's sidecar, per idle mutual-TLS connection",
                "memory per connection, inbound",
                &["idle mutual-TLS connections, HTTP/1.1"],
            ),
            gateway("the gateway, per idle connection", "resident memory per connection", &["idle connections"]),
        ],
    },
];

/// The charts that these findings have something for.
pub fn charts(findings: &[Finding]) -> Vec<Chart> {
    let drawn = |design: &Design| {
        let Design { title, file, panels } = *design;
        let filled = panels.iter().map(|panel| panel.fill(findings));
        let panels: Vec<draw::Panel> = filled.filter(|panel| !panel.groups.is_empty()).collect();
        (!panels.is_empty()).then(|| Chart { title, file, svg: draw::draw(title, &panels) })
    };
    DESIGNS.iter().filter_map(drawn).collect()
}

impl Panel {
    /// The panel with its values: a group of bars for each load that was measured of our system.
    fn fill(&self, findings: &[Finding]) -> draw::Panel {
        let find = |load: &str, system: &str| {
            findings.iter().find(|finding| {
                let same = finding.scenario == self.scenario && finding.metric.name == self.metric;
                same && finding.load.ends_with(load) && finding.system == system
            })
        };
        let mut unit = String::new();
        let mut better = None;
        let mut groups: Vec<draw::Group> = Vec::new();
        for load in self.loads {
            let Some(ours) = find(load, self.systems[0]) else { continue };
            let base = if self.added { find(load, NONE).map(|none| none.spread.median) } else { Some(0.0) };
            let Some(base) = base else { continue };
            let bars: Vec<Bars> = self
                .systems
                .iter()
                .filter_map(|system| Some(Bars { system, spread: find(load, system)?.spread.minus(base) }))
                .collect();
            ours.metric.unit.clone_into(&mut unit);
            better = Some(ours.metric.better);
            groups.push(draw::Group { load: ours.load.clone(), bars });
        }
        let medians: Vec<f64> = groups.iter().flat_map(|group| &group.bars).map(|bars| bars.spread.median).collect();
        draw::Panel { heading: self.heading, scale: Scale::of(&unit, medians), better, groups }
    }
}

impl Spread {
    fn minus(self, base: f64) -> Self {
        Self { median: self.median - base, min: self.min - base, max: self.max - base, count: self.count }
    }
}
