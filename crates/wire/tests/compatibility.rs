//! Every version of this crate reads the messages that earlier versions encoded.
//!
//! `fixtures/<version>/` holds encoded messages: at least one for each resource type, and one request and one response
//! of the discovery stream. The module of the same name builds the message that each file decodes to.
//!
//! An existing fixture is never rewritten. Before a release, `.ci/full` requires a fixture of every resource type. A
//! release whose messages have new fields adds a directory and a module, with an entry in [`VERSIONS`], and leaves the
//! earlier ones as they are. Files that do not exist yet are written by
//! `cargo test -p isthmus-wire -- --ignored write_missing_fixtures`.
//!
//! Each expected message sets the fields that its version has, and ends in `..Default::default()`: a field that the
//! protocol gains later is unset in the file. The encoding omits unset fields, so a new field does not change the bytes
//! of existing fixtures. Only the newest version has to encode to the same bytes: once a later version deletes an
//! unused field, the earlier files still decode, without that field.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use isthmus_wire::Kind;
use isthmus_wire::delta::Body;
use isthmus_wire::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;

#[path = "compatibility/v1.rs"]
mod v1;

/// The versions of the protocol with fixtures, oldest first.
const VERSIONS: &[Version] = &[Version { name: "v1", fixtures: v1::fixtures }];

/// A version of the protocol.
struct Version {
    /// The name of its directory.
    name: &'static str,
    fixtures: fn() -> Vec<Fixture>,
}

/// One encoded message.
struct Fixture {
    /// The file's name without its extension: the message's name, then a dash and the case if there are several.
    name: &'static str,
    /// The message that the file decodes to.
    expected: Expected,
}

/// A message of one of the types that have fixtures.
#[derive(Clone, PartialEq, Debug)]
enum Expected {
    Resource(Box<Body>),
    Request(DeltaDiscoveryRequest),
    Response(DeltaDiscoveryResponse),
}

impl Expected {
    /// Returns the name of the message's type, without its package.
    fn message(&self) -> &'static str {
        match self {
            Expected::Resource(body) => body.kind().as_str(),
            Expected::Request(_) => "DeltaDiscoveryRequest",
            Expected::Response(_) => "DeltaDiscoveryResponse",
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Expected::Resource(body) => body.encode_to_vec(),
            Expected::Request(message) => message.encode_to_vec(),
            Expected::Response(message) => message.encode_to_vec(),
        }
    }

    /// Decodes a message of this message's type.
    fn decode_same(&self, bytes: Bytes) -> Expected {
        match self {
            Expected::Resource(body) => {
                let kind = body.kind();
                let decoded = Body::decode(kind, kind.url(), bytes).expect("the file is a resource of this type");
                Expected::Resource(Box::new(decoded))
            }
            Expected::Request(_) => {
                Expected::Request(DeltaDiscoveryRequest::decode(bytes).expect("the file is a request"))
            }
            Expected::Response(_) => {
                Expected::Response(DeltaDiscoveryResponse::decode(bytes).expect("the file is a response"))
            }
        }
    }
}

fn newest() -> &'static Version {
    VERSIONS.last().expect("VERSIONS is not empty")
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn path(version: &str, fixture: &Fixture) -> PathBuf {
    directory().join(version).join(fixture.name).with_extension("bin")
}

fn read(version: &str, fixture: &Fixture) -> Bytes {
    let path = path(version, fixture);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

/// Returns all fixtures, each with the name of its version.
fn all() -> impl Iterator<Item = (&'static str, Fixture)> {
    VERSIONS.iter().flat_map(|version| (version.fixtures)().into_iter().map(|fixture| (version.name, fixture)))
}

#[test]
fn every_fixture_decodes_to_the_expected_message() {
    for (version, fixture) in all() {
        let decoded = fixture.expected.decode_same(read(version, &fixture));
        assert_eq!(decoded, fixture.expected, "{version}/{}", fixture.name);
    }
}

#[test]
fn the_newest_messages_encode_to_the_same_bytes() {
    let Version { name: version, fixtures } = newest();
    for fixture in fixtures() {
        assert_eq!(fixture.expected.encode(), read(version, &fixture), "{version}/{}", fixture.name);
    }
}

#[test]
fn unknown_fields_are_ignored() {
    // The field 1,000 as a varint, and the field 1,001 as bytes: a later version may add both.
    const UNKNOWN: &[u8] = &[0xc0, 0x3e, 0x2a, 0xca, 0x3e, 0x03, b'n', b'e', b'w'];
    for (version, fixture) in all() {
        let bytes = [&read(version, &fixture), UNKNOWN].concat();
        assert_eq!(fixture.expected.decode_same(bytes.into()), fixture.expected, "{version}/{}", fixture.name);
    }
}

#[test]
#[ignore = "run before a release: types that no release has yet need no fixture"]
fn the_newest_version_has_a_fixture_for_every_message() {
    let Version { name: version, fixtures } = newest();
    let covered: BTreeSet<&str> = fixtures().iter().map(|fixture| fixture.expected.message()).collect();
    let resources = Kind::ALL.iter().map(|kind| kind.as_str());
    for message in resources.chain(["DeltaDiscoveryRequest", "DeltaDiscoveryResponse"]) {
        assert!(covered.contains(message), "{version} has no fixture for {message}");
    }
}

#[test]
fn every_file_has_an_expected_message() {
    let expected: BTreeSet<PathBuf> = all().map(|(version, fixture)| path(version, &fixture)).collect();
    let mut stored = BTreeSet::new();
    for version in fs::read_dir(directory()).unwrap() {
        for file in fs::read_dir(version.unwrap().path()).unwrap() {
            stored.insert(file.unwrap().path());
        }
    }
    assert_eq!(stored, expected);
    for (version, fixture) in all() {
        let (message, _) = fixture.name.split_once('-').unwrap_or((fixture.name, ""));
        assert_eq!(message, fixture.expected.message(), "{version}/{}", fixture.name);
    }
}

#[test]
#[ignore = "writes the files of new fixtures"]
fn write_missing_fixtures() {
    for (version, fixture) in all() {
        let path = path(version, &fixture);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Opening fails if the file exists, so that nothing is rewritten.
        if let Ok(mut file) = fs::File::create_new(&path) {
            file.write_all(&fixture.expected.encode()).unwrap();
            eprintln!("wrote {}", path.display());
        }
    }
}
