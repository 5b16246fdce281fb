//! An object's labels: sorted, immutable, with one copy for all pods of a template, and one copy of equal sets of keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Text, fields};

/// Labels, by key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Labels {
    keys: Arc<[Text]>,
    values: Arc<[Text]>,
}

impl Labels {
    /// Returns the value of a label.
    pub fn get(&self, key: &str) -> Option<&Text> {
        let at = self.keys.binary_search_by(|of| (**of).cmp(key)).ok()?;
        self.values.get(at)
    }

    /// Returns all labels, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, &Text)> {
        self.keys.iter().zip(&*self.values)
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns about how many bytes the labels take if nothing shares them.
    pub(super) fn size(&self) -> usize {
        self.iter().map(|(key, value)| fields::size(key) + fields::size(value)).sum()
    }

    /// The keys, which labels with equal keys share.
    pub(crate) fn keys_mut(&mut self) -> &mut Arc<[Text]> {
        &mut self.keys
    }

    /// Returns whether all labels are among `others`, as a selector matches labels.
    pub fn select(&self, others: &Labels) -> bool {
        self.iter().all(|(key, value)| others.get(key) == Some(value))
    }
}

impl Default for Labels {
    fn default() -> Self {
        Labels { keys: Arc::new([]), values: Arc::new([]) }
    }
}

impl FromIterator<(Text, Text)> for Labels {
    /// Of several values of one key, the last is used.
    fn from_iter<I: IntoIterator<Item = (Text, Text)>>(pairs: I) -> Self {
        let sorted: BTreeMap<Text, Text> = pairs.into_iter().collect();
        let (keys, values): (Vec<Text>, Vec<Text>) = sorted.into_iter().unzip();
        Labels { keys: keys.into(), values: values.into() }
    }
}

impl<const N: usize> From<[(Text, Text); N]> for Labels {
    fn from(pairs: [(Text, Text); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<Text, Text>::deserialize(from)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_and_selected() {
        let labels: Labels = [("version".into(), "v1".into()), ("app".into(), "reviews".into())].into();
        assert_eq!(labels.get("app").map(|value| &**value), Some("reviews"));
        assert_eq!(labels.get("ap"), None);
        let selector = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(key, value)| (Text::from(*key), Text::from(*value))).collect()
        };
        assert!(selector(&[]).select(&labels) && selector(&[("app", "reviews")]).select(&labels));
        assert!(!selector(&[("app", "ratings")]).select(&labels) && !selector(&[("zone", "a")]).select(&labels));
        let text = serde_json::to_string(&labels).unwrap();
        assert_eq!(text, r#"{"app":"reviews","version":"v1"}"#);
        assert_eq!(serde_json::from_str::<Labels>(&text).unwrap(), labels);
    }
}
