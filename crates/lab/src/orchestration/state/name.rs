//! Names of labs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a lab: a DNS label, and so one component of a path that never leads to another directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

impl LabName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LabName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        api::names::dns_label(text, "lab").map(Self)
    }
}

impl TryFrom<String> for LabName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The lab that an option or the environment selects. An empty text selects none by name, as an empty variable does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabChoice(Option<LabName>);

impl LabChoice {
    /// Returns the name, if the choice has one.
    #[must_use]
    pub fn name(&self) -> Option<&LabName> {
        self.0.as_ref()
    }
}

impl FromStr for LabChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self(None)),
            name => name.parse().map(|name| Self(Some(name))),
        }
    }
}
