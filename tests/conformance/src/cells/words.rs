//! Words of cases, and what they stand for in a cell.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::bed::CellBed;
use crate::certificates;
use crate::places::cells;

/// Words in braces.
const WORDS: [&str; 8] = ["ip", "name", "service", "file", "spki", "hash", "jwks", "token"];

impl CellBed {
    /// Fills in the words of a text.
    pub(super) fn filled(&self, text: &str, cell: &str, tokens: &BTreeMap<String, String>) -> Result<String> {
        let [first, second] = addresses_of_nobody(cell);
        let directory = self.bed.directory();
        let mut text = text
            .replace("CELL", cell)
            .replace("CERTIFICATES", &directory.display().to_string())
            .replace("{vip}", &first)
            .replace("{vip2}", &second);
        for word in WORDS {
            let begin = format!("{{{word}:");
            while let Some(at) = text.find(&begin) {
                let length = text[at..].find('}').context("a word in braces does not end")?;
                let name = text[at + begin.len()..at + length].to_owned();
                let with = match word {
                    "ip" => self.pod(&name, cell)?.to_string(),
                    "name" => self.name(&name)?,
                    "service" => self.bed.address(&name)?.to_string(),
                    "file" => std::fs::read_to_string(directory.join(&name)).with_context(|| name.clone())?,
                    "spki" => STANDARD.encode(certificates::key_hash(&directory.join(&name))?),
                    "hash" => certificates::hash(&directory.join(&name))?,
                    "jwks" => self.keys.set(&name),
                    _ => tokens.get(&name).with_context(|| format!("the case has no token {name:?}"))?.clone(),
                };
                text.replace_range(at..=at + length, &with);
            }
        }
        Ok(text)
    }

    /// The address of a pod, as NAMESPACE/NAME, or of one of a cell.
    fn pod(&self, name: &str, cell: &str) -> Result<IpAddr> {
        let of_cell = format!("{cell}/{name}");
        let found = self.addresses().get(name).or_else(|| self.addresses().get(&of_cell));
        found.copied().with_context(|| format!("no pod is called {name}"))
    }

    /// The name of a server's pod, which resolves to its address and is no service's.
    fn name(&self, pod: &str) -> Result<String> {
        let address = self.pod(&format!("shop/{pod}"), "")?.to_string();
        Ok(format!("{}.hidden-{pod}.shop.svc.cluster.local", address.replace('.', "-")))
    }

    /// The address to which a request goes: an address, or that of a Service, as `NAME.NAMESPACE`.
    pub(super) fn destination(&self, to: &str, cell: &str) -> Result<IpAddr> {
        let to = self.filled(to, cell, &BTreeMap::new())?;
        match to.parse() {
            Ok(address) => Ok(address),
            Err(_) => self.bed.address(&to),
        }
    }

    /// Replaces in a text what differs from one lab or cell to another: tokens, the addresses of pods with the ports of clients, and
    /// the cell itself.
    pub(super) fn normal(&self, text: &str, cell: &str, tokens: &BTreeMap<String, String>) -> String {
        let mut text = text.to_owned();
        for (name, token) in tokens.iter().filter(|(_, token)| !token.is_empty()) {
            text = text.replace(token.as_str(), &format!("{{token:{name}}}"));
        }
        for pod in ["v1", "v2"] {
            if let Ok(name) = self.name(pod) {
                text = text.replace(&name, &format!("{{name:{pod}}}"));
            }
        }
        for (index, address) in addresses_of_nobody(cell).iter().enumerate() {
            text = text.replace(address, ["{vip}", "{vip2}"][index]);
        }
        crate::run::normal_of(&text.replace(cell, "CELL"), &|address| {
            let pod = self.addresses().iter().find(|(_, of)| **of == IpAddr::V4(address)).map(|(name, _)| name);
            let pod = pod.map(|name| format!("{{ip:{}}}", name.strip_prefix(&format!("{cell}/")).unwrap_or(name)));
            match address.octets() {
                [10, 96, ..] => Some("SERVICE".to_owned()),
                _ => pod,
            }
        })
    }
}

/// Addresses of the blocks for documentation, of a cell's own.
fn addresses_of_nobody(cell: &str) -> [String; 2] {
    let index = cells().iter().position(|of| of == cell).unwrap_or_default();
    [format!("198.51.100.{}", 10 + index), format!("192.0.2.{}", 10 + index)]
}

/// Fills in the texts of a value, and the keys of its mappings.
pub(super) fn fill(value: &mut Value, filled: &dyn Fn(&str) -> Result<String>) -> Result<()> {
    match value {
        Value::String(text) => *text = filled(text)?,
        Value::Array(items) => items.iter_mut().try_for_each(|item| fill(item, filled))?,
        Value::Object(fields) => {
            for (key, mut field) in std::mem::take(fields) {
                fill(&mut field, filled)?;
                if fields.insert(filled(&key)?, field).is_some() {
                    bail!("two fields are called {key}");
                }
            }
        }
        _ => {}
    }
    Ok(())
}
