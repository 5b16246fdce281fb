//! The admin pages that all components share.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::application::ApplicationMetrics;
use super::{Admin, Query, Reply, Show};

const BUILT_IN: &[(&str, &str)] = &[
    ("/certs", "the certificate and the trust bundle of this proxy, without keys"),
    ("/config_dump", "the current configuration; ?section=NAME returns one section"),
    ("/drain", "POST: fail readiness, so that no new traffic arrives, and continue to serve"),
    ("/help", "the list of pages"),
    ("/logging", "the log filter; POST ?level=FILTER sets it"),
    ("/quitquitquit", "POST: drain and exit"),
    ("/ready", "status 200 if ready, otherwise 503 with the missing conditions"),
    ("/server_info", "version, uptime and state"),
    ("/stats", "the same as /stats/prometheus"),
    ("/stats/prometheus", "the metrics in the Prometheus text format"),
];

impl Admin {
    /// Returns an admin page.
    pub(super) async fn show(&self, path: &str, query: &Query) -> Reply {
        if let Some(page) = self.pages.iter().find(|page| page.path == path) {
            return match &page.show {
                Show::AtOnce(show) => show(query),
                Show::Later(show) => show(query).await,
            };
        }
        match path {
            "/" | "/help" => self.help(),
            "/certs" => self.certificates(),
            "/config_dump" => self.dump(query),
            "/drain" => with_post(query, || {
                self.readiness.leave();
                Reply::text("not ready\n")
            }),
            "/logging" => logging(query),
            "/quitquitquit" => with_post(query, || {
                self.drain.request();
                Reply::text("draining\n")
            }),
            "/ready" => self.ready(),
            "/server_info" => self.server_info(),
            _ => Reply::text(format!("unknown page {path}; see /help\n")).with_status(404),
        }
    }

    pub(super) fn ready(&self) -> Reply {
        let missing = self.readiness.missing();
        if missing.is_empty() {
            Reply::text("ready\n")
        } else {
            Reply::text(format!("waiting for: {}\n", missing.join(", "))).with_status(503)
        }
    }

    /// Makes the application's check with this path, if there is one.
    pub(super) async fn probe(&self, path: &str) -> Option<Reply> {
        self.probes.as_ref()?.reply(path).await
    }

    /// Requests the metrics of the application in the same pod.
    pub(super) async fn application_metrics(&self) -> Option<ApplicationMetrics> {
        match self.application.as_ref()?.metrics().await {
            Ok(metrics) => Some(metrics),
            Err(error) => {
                // The proxy's metrics are useful without the application's.
                tracing::debug!(%error, "cannot fetch the application's metrics");
                None
            }
        }
    }

    fn help(&self) -> Reply {
        let own = self.pages.iter().map(|page| (page.path, page.help));
        let mut pages: Vec<_> = BUILT_IN.iter().copied().chain(own).collect();
        pages.sort_unstable();
        pages.dedup_by_key(|(path, _)| *path);
        let lines = pages.iter().map(|(path, help)| format!("  {path:<20} {help}\n"));
        Reply::text(format!("isthmus {}\n{}", self.component, lines.collect::<String>()))
    }

    fn certificates(&self) -> Reply {
        let Some(identity) = self.identity.get() else {
            return Reply::text("no certificate yet\n").with_status(503);
        };
        let (credential, trust, now) = (identity.credential(), identity.trust(), SystemTime::now());
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Reply::json(&json!({
            "id": credential.id().as_str(),
            "serial": credential.serial(),
            "not_before": seconds(credential.not_before()),
            "not_after": seconds(credential.not_after()),
            "valid_for_seconds": credential.remaining(now).as_secs(),
            "chain_pem": identity::certificates_to_pem(credential.chain()),
            "trust": {
                "trust_domain": trust.trust_domain(),
                "roots_pem": identity::certificates_to_pem(trust.roots()),
                "issuers": trust.issuers().iter().map(|issuer| issuer.cluster.to_string()).collect::<Vec<_>>(),
            },
        }))
    }

    fn dump(&self, query: &Query) -> Reply {
        let wanted = query.get("section");
        let sections = self.sections.iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name));
        let dump: serde_json::Map<String, Value> = sections.map(|(name, show)| ((*name).to_owned(), show())).collect();
        if dump.is_empty() && wanted.is_some() {
            let names: Vec<_> = self.sections.iter().map(|(name, _)| *name).collect();
            return Reply::text(format!("unknown section; the sections are: {}\n", names.join(", "))).with_status(404);
        }
        Reply::json(&dump)
    }

    fn server_info(&self) -> Reply {
        let state = match (self.drain.is_requested(), self.readiness.is_ready()) {
            (true, _) => "DRAINING",
            (false, true) => "LIVE",
            (false, false) => "PRE_INITIALIZING",
        };
        Reply::json(&json!({
            "component": self.component,
            "version": env!("CARGO_PKG_VERSION"),
            "state": state,
            "uptime_seconds": self.started.elapsed().as_secs_f64(),
            "pid": std::process::id(),
            "missing": self.readiness.missing(),
        }))
    }
}

fn with_post(query: &Query, change: impl FnOnce() -> Reply) -> Reply {
    if query.is_post() { change() } else { Reply::text("this page changes state: use POST\n").with_status(405) }
}

fn logging(query: &Query) -> Reply {
    let level = match query.get("level") {
        None => telemetry::logging::level(),
        Some(_) if !query.is_post() => return with_post(query, || Reply::text("")),
        Some(level) => telemetry::logging::set_level(level),
    };
    match level {
        Ok(level) => Reply::text(format!("{level}\n")),
        Err(error) => Reply::text(format!("{error}\n")).with_status(400),
    }
}
