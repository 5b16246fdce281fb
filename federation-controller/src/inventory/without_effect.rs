//! Notices of the objects without effect in the controller's own cluster.

use std::collections::BTreeSet;

use api::compatibility::{ENVOY_FILTER, KindWithoutEffect};

use super::Inventory;
use super::notices::{NoticedKind, OBJECTS, ObjectNotice};
use crate::objects::{Key, Record};

/// The number of objects of a kind that its line names.
const NAMED: usize = 3;

impl Inventory {
    /// Keeps the objects of a kind without effect.
    pub(super) fn note_without_effect(&mut self, kind: &'static KindWithoutEffect, objects: BTreeSet<Key>) {
        match objects.is_empty() {
            true => self.without_effect.remove(kind),
            false => self.without_effect.insert(kind, objects),
        };
    }

    /// Returns a line for each kind.
    pub(super) fn lines_without_effect(&self) -> impl Iterator<Item = String> {
        let cluster = &self.settings.cluster;
        let of_filters = self.filters_without_effect().collect::<BTreeSet<Key>>();
        let filters = Some((&ENVOY_FILTER, of_filters)).filter(|(_, objects)| !objects.is_empty());
        let kinds = self.without_effect.iter().map(|(kind, objects)| (*kind, objects.clone()));
        kinds.chain(filters).map(move |(kind, objects)| {
            let mut names: Vec<String> = objects.iter().take(NAMED).map(Key::to_string).collect();
            if objects.len() > NAMED {
                names.push(format!("{} more", objects.len() - NAMED));
            }
            format!("Cluster {cluster}: {} has no effect: {} ({})", kind.kind, kind.instead, names.join(", "))
        })
    }

    /// Returns the notices about the objects, within a bound.
    pub(super) fn objects_without_effect(&self) -> impl Iterator<Item = ObjectNotice> {
        let all =
            self.without_effect.iter().flat_map(|(kind, objects)| objects.iter().map(move |key| (*kind, key.clone())));
        let filters = self.filters_without_effect().map(|key| (&ENVOY_FILTER, key));
        all.chain(filters).take(OBJECTS).map(|(kind, key)| ObjectNotice {
            cluster: self.settings.cluster.clone(),
            kind: NoticedKind::WithoutEffect(kind),
            message: kind.notice(&key.to_string()),
            object: key,
        })
    }

    /// Returns the EnvoyFilters of which no patch has an effect.
    fn filters_without_effect(&self) -> impl Iterator<Item = Key> {
        let filters = self.primary().into_iter().flat_map(|own| own.envoy_filters().values());
        filters.filter(|filter| !filter.refused() && filter.selector.is_none()).map(Record::key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use api::compatibility::{WITHOUT_EFFECT, kinds};

    use super::*;
    use crate::inventory::Settings;
    use crate::objects::event::Event;

    fn inventory() -> Inventory {
        Inventory::new(Settings {
            cluster: "west".into(),
            namespace: "isthmus-system".into(),
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
        })
    }

    fn put(inventory: &mut Inventory, kind: &'static KindWithoutEffect, count: usize) {
        let objects = (0..count).map(|index| Key::new("shop", &format!("a{index}"))).collect();
        inventory.apply(Event::WithoutEffect { kind, objects }, UNIX_EPOCH);
    }

    #[test]
    fn a_kind_without_effect_has_a_line_and_its_objects_have_notices() {
        let mut inventory = inventory();
        let plugins = kinds::find("extensions.istio.io", "WasmPlugin").unwrap();
        let telemetries = kinds::find("telemetry.istio.io", "Telemetry").unwrap();
        put(&mut inventory, telemetries, 5);
        put(&mut inventory, plugins, 1);
        let lines = inventory.notices();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("Cluster west: WasmPlugin has no effect: "), "{lines:?}");
        assert!(lines[0].ends_with(" (shop/a0)"), "{lines:?}");
        assert!(lines[1].starts_with("Cluster west: Telemetry has no effect: "), "{lines:?}");
        assert!(lines[1].ends_with(" (shop/a0, shop/a1, shop/a2, 2 more)"), "{lines:?}");
        let notices = inventory.object_notices();
        assert_eq!(notices.len(), 6);
        let first = notices.first().unwrap();
        assert_eq!((first.reason(), &*first.cluster, &first.object), ("NoEffect", "west", &Key::new("shop", "a0")));

        put(&mut inventory, plugins, 0);
        put(&mut inventory, telemetries, 0);
        assert!(inventory.notices().is_empty() && inventory.object_notices().is_empty());
    }

    #[test]
    fn the_number_of_notices_is_bounded() {
        let mut inventory = inventory();
        for kind in WITHOUT_EFFECT {
            put(&mut inventory, kind, 60);
        }
        assert_eq!(inventory.notices().len(), WITHOUT_EFFECT.len());
        assert_eq!(inventory.object_notices().len(), OBJECTS);
    }
}
