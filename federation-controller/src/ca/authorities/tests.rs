//! Tests of signing certificates that are added, invalid, deleted or published.

use super::*;
use k8s_openapi::ByteString;

fn secret_object(name: &str, cacerts: &CaCerts) -> SecretObject {
    let data = cacerts.to_entries().into_iter().map(|(key, value)| (key, ByteString(value.into_bytes())));
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    SecretObject { metadata, data: Some(data.collect()) }
}

fn intermediate(root: &Authority, cluster: &str) -> Authority {
    root.intermediate_for(cluster, &Constraints::default(), INTERMEDIATE_VALIDITY).unwrap()
}

#[test]
fn published_intermediates_are_accepted_once_for_their_own_cluster() {
    let root = Authority::self_signed_root("a", ROOT_VALIDITY).unwrap();
    let (west, east) = (intermediate(&root, "west"), intermediate(&root, "east"));
    let mut book =
        Book::new("west".into(), "cluster.local", Authority::from_cacerts(&west.to_cacerts()).unwrap()).unwrap();
    let clusters = |book: &Book| {
        book.snapshot().unwrap().trust.issuers().iter().map(|i| i.cluster.to_string()).collect::<Vec<_>>()
    };
    assert!(book.learn(("east".into(), Some(Ok(east.issuer_of("east"))))));
    assert!(!book.learn(("east".into(), Some(Ok(east.issuer_of("east"))))), "an equal intermediate changes nothing");
    assert_eq!(clusters(&book), ["east", "west"]);
    // North publishes west's intermediate, which stays west's.
    book.learn(("north".into(), Some(Ok(west.issuer_of("north")))));
    assert_eq!(clusters(&book), ["east", "west"]);
    assert_eq!(book.snapshot().unwrap().problems.len(), 1, "the claim is reported");
    // A cluster whose name sorts first does not take east's intermediate either.
    assert!(book.learn(("aachen".into(), Some(Ok(east.issuer_of("aachen"))))));
    assert!(!book.learn(("aachen".into(), Some(Ok(east.issuer_of("aachen"))))), "the claim is reported once");
    assert_eq!(clusters(&book), ["east", "west"]);
    book.learn(("aachen".into(), None));
    book.learn(("north".into(), None));
    assert!(book.snapshot().unwrap().problems.is_empty());
    assert!(book.learn(("south".into(), Some(Err(IssuerError::ForeignRoot)))));
    assert_eq!(book.snapshot().unwrap().problems.len(), 1);
    assert!(book.learn(("south".into(), None)));
    assert!(book.learn(("east".into(), None)));
    assert!(book.snapshot().unwrap().problems.is_empty());
}

#[test]
fn remote_certificates_are_added_and_removed_and_invalid_ones_change_nothing() {
    let root = Authority::self_signed_root("a", ROOT_VALIDITY).unwrap();
    let (west, east) = (intermediate(&root, "west"), intermediate(&root, "east"));
    let mut book = Book::new("west".into(), "cluster.local", west).unwrap();
    book.upsert(secret_object("cacerts-east", &east.to_cacerts()));
    let snapshot = book.snapshot().unwrap();
    assert_eq!(snapshot.clusters().map(|c| &**c).collect::<Vec<_>>(), ["east", "west"]);
    assert_eq!(snapshot.trust.issuers().len(), 2);
    assert_eq!(snapshot.to_event().issuers.len(), 2);
    assert!(snapshot.summary("east").unwrap().own_intermediate);
    assert!(snapshot.summary("north").is_none());

    let mut broken = east.to_cacerts();
    broken.ca_key.clear();
    book.upsert(secret_object("cacerts-east", &broken));
    let snapshot = book.snapshot().unwrap();
    assert_eq!(snapshot.of("east").unwrap().issuer_of("east"), east.issuer_of("east"), "the valid one stays in force");
    assert_eq!(snapshot.problems.len(), 1);

    let stranger = Authority::self_signed_root("b", ROOT_VALIDITY).unwrap();
    book.upsert(secret_object("cacerts-north", &intermediate(&stranger, "north").to_cacerts()));
    assert!(book.snapshot().unwrap().of("north").is_none());
    assert!(book.snapshot().unwrap().problems.iter().any(|p| p.why.contains("root")));
    book.upsert(secret_object("something-else", &broken));
    book.upsert(secret_object("cacerts-west", &intermediate(&root, "west").to_cacerts()));
    assert_eq!(book.snapshot().unwrap().clusters().count(), 2, "the own cluster's certificate is in `cacerts`");

    book.delete("cacerts-east");
    book.delete("cacerts-north");
    assert_eq!(book.snapshot().unwrap().clusters().count(), 1);
    book.delete("cacerts");
    assert!(book.snapshot().unwrap().of("west").is_some());
}

#[test]
fn one_signing_certificate_proves_one_cluster() {
    let root = Authority::self_signed_root("a", ROOT_VALIDITY).unwrap();
    let (west, east) = (intermediate(&root, "west"), intermediate(&root, "east"));
    let (wests, easts) = (west.to_cacerts(), east.to_cacerts());
    let mut book = Book::new("west".into(), "cluster.local", west).unwrap();
    book.upsert(secret_object("cacerts-east", &easts));
    // The same Secret copied for another cluster, and the own one for a remote.
    book.upsert(secret_object("cacerts-north", &easts));
    book.upsert(secret_object("cacerts-south", &wests));
    let snapshot = book.snapshot().unwrap();
    assert_eq!(snapshot.clusters().map(|c| &**c).collect::<Vec<_>>(), ["east", "west"]);
    let issuers: Vec<_> = snapshot.trust.issuers().into_iter().map(|issuer| issuer.cluster.to_string()).collect();
    assert_eq!(issuers, ["east", "west"]);
    assert_eq!(snapshot.problems.iter().filter(|p| p.why.contains("signing certificate of")).count(), 2);
}
