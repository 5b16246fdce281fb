//! TLS handshakes over loopback sockets.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;

use super::*;
use crate::{Accept, ClientAuth, Expectation, Identity, Peer, Refusal, alpn, peer_of, refusal_of, server_only_client};

const SNI: &str = "outbound_.9080_._.ratings.default.svc.cluster.local";
const REQUIRED: Accept = Accept { client: ClientAuth::Required, alpn: alpn::SERVER };
const OPTIONAL: Accept = Accept { client: ClientAuth::Optional, alpn: alpn::DISCOVERY };

/// The result of a handshake on one side: the peer, the negotiated protocol and whether a session was resumed, or the error.
pub(super) type Handshake = Result<(Option<Peer>, Option<Vec<u8>>, bool), io::Error>;

pub(super) fn connect(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: &'static str,
) -> (Handshake, Handshake) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept()?;
        let mut tls = ServerConnection::new(server).map_err(io::Error::other)?;
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let mut byte = [0; 1];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
        stream.flush()?;
        assert_ne!(tls.server_name(), None);
        Ok((
            tls.peer_certificates().and_then(|chain| peer_of(chain, &mesh().trust)),
            tls.alpn_protocol().map(<[u8]>::to_vec),
            tls.handshake_kind() == Some(HandshakeKind::Resumed),
        ))
    });
    let calling = || -> Handshake {
        let mut socket = TcpStream::connect(address)?;
        let name = ServerName::try_from(name).expect("a valid server name");
        let mut tls = ClientConnection::new(client, name).map_err(io::Error::other)?;
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        stream.write_all(b"x")?;
        let mut byte = [0; 1];
        stream.read_exact(&mut byte)?;
        Ok((
            tls.peer_certificates().and_then(|chain| peer_of(chain, &mesh().trust)),
            tls.alpn_protocol().map(<[u8]>::to_vec),
            tls.handshake_kind() == Some(HandshakeKind::Resumed),
        ))
    };
    let called = calling();
    (called, serving.join().unwrap())
}

fn identity(authority: &Authority, service_account: &str) -> Identity {
    Identity::new(credential(authority, service_account), mesh().trust.clone())
}

#[test]
fn peers_of_two_clusters_authenticate_each_other() {
    let client = identity(&mesh().west, "frontend");
    let server = identity(&mesh().east, "ratings");
    for (offer, agreed) in [
        (alpn::CLIENT_HTTP1, b"http/1.1".as_slice()),
        (alpn::CLIENT_HTTP2, b"h2"),
        (alpn::CLIENT_TCP, b"istio"),
        (alpn::CLIENT_HTTP10, b"http/1.0"),
    ] {
        let (called, served) =
            connect(client.client_config(&[id("ratings")], offer), server.server_config(REQUIRED), SNI);
        let (saw, protocol, _) = called.unwrap();
        assert_eq!(saw, Some(Peer { id: id("ratings"), cluster: cluster("east") }));
        assert_eq!(protocol.as_deref(), Some(agreed));
        assert_eq!(served.unwrap().0, Some(Peer { id: id("frontend"), cluster: cluster("west") }));
    }
}

fn local_refusal(handshake: Handshake) -> Refusal {
    refusal_of(&handshake.expect_err("accepted")).expect("a refusal of this side")
}

#[test]
fn a_client_accepts_only_expected_identities() {
    let client = identity(&mesh().west, "frontend");
    let server = identity(&mesh().east, "ratings").server_config(REQUIRED);
    let offer = alpn::CLIENT_HTTP1;

    let (called, served) = connect(client.client_config(&[id("reviews")], offer), Arc::clone(&server), SNI);
    assert_eq!(local_refusal(called), Refusal::UnexpectedIdentity(id("ratings")));
    assert!(served.is_err());
    let (called, _) = connect(client.client_config(&[], offer), Arc::clone(&server), SNI);
    assert_eq!(local_refusal(called), Refusal::NothingExpected);
    let (called, _) = connect(client.client_config(&[id("reviews"), id("ratings")], offer), Arc::clone(&server), SNI);
    assert!(called.is_ok());

    let only_west = Expectation::any_of([id("ratings")]).in_clusters(["west".into()]);
    let (called, _) = connect(client.client_config_for(&only_west, offer), Arc::clone(&server), SNI);
    assert_eq!(local_refusal(called), Refusal::UnexpectedCluster { id: id("ratings"), cluster: cluster("east") });
    let east_too = Expectation::any_of([id("ratings")]).in_clusters(["west".into(), "east".into()]);
    assert!(connect(client.client_config_for(&east_too, offer), Arc::clone(&server), SNI).0.is_ok());
}

#[test]
fn an_expectation_can_require_the_key_that_signs() {
    let client = identity(&mesh().west, "frontend");
    let server = identity(&mesh().east, "ratings").server_config(OPTIONAL);
    let rooted = identity(&mesh().root, "ratings").server_config(OPTIONAL);
    let key = |authority: &Authority| crate::signing_key_sha256(authority.certificate()).unwrap();
    let of = |keys: &[&Authority]| Expectation::any_of([id("ratings")]).signed_by(keys.iter().map(|of| key(of)));
    let offer = alpn::DISCOVERY;
    let (west, east, root) = (&mesh().west, &mesh().east, &mesh().root);
    for (server, keys, accepted) in [
        (&server, vec![east], true),
        (&server, vec![west, east], true),
        (&server, vec![west], false),
        (&server, vec![root], false),
        (&server, vec![], false),
        (&rooted, vec![root], true),
        (&rooted, vec![east], false),
    ] {
        for config in
            [client.client_config_for(&of(&keys), offer), crate::anonymous_client(&mesh().trust, of(&keys), offer)]
        {
            let (called, _) = connect(config, Arc::clone(server), SNI);
            match accepted {
                true => drop(called.unwrap()),
                false if keys.is_empty() => assert_eq!(local_refusal(called), Refusal::NothingExpected),
                false => assert_eq!(local_refusal(called), Refusal::UnexpectedSigner(id("ratings"))),
            }
        }
    }
}

#[test]
fn a_server_refuses_foreign_clients() {
    let server = identity(&mesh().east, "ratings");
    let expected = [id("ratings")];
    let offer = alpn::CLIENT_HTTP1;

    let stranger = Identity::new(credential(&mesh().foreign, "frontend"), mesh().trust.clone());
    let (called, served) = connect(stranger.client_config(&expected, offer), server.server_config(REQUIRED), SNI);
    assert!(called.is_err());
    assert_eq!(local_refusal(served), Refusal::UnknownIssuer);

    let elsewhere = SpiffeId::new("other.example", "default", "frontend").unwrap();
    let domain = Identity::new(mesh().west.credential(&elsewhere, &[], HOUR).unwrap(), mesh().trust.clone());
    let (_, served) = connect(domain.client_config(&expected, offer), server.server_config(REQUIRED), SNI);
    assert_eq!(local_refusal(served), Refusal::ForeignTrustDomain(elsewhere));

    let anonymous = server_only_client(mesh().root.roots(), offer).unwrap();
    let (called, _) = connect(Arc::clone(&anonymous), server.server_config(REQUIRED), "ratings.default.svc");
    assert!(called.is_err());
}

#[test]
fn enrolment_accepts_clients_without_certificate_and_verifies_certificates() {
    let id = SpiffeId::new("cluster.local", "isthmus-system", "isthmus-controller").unwrap();
    let name = "isthmus-controller.isthmus-system.svc";
    let own = mesh().west.credential(&id, &[name], HOUR).unwrap();
    let controller = Identity::new(own, mesh().trust.clone());
    let accept = || controller.server_config(OPTIONAL);

    let new = server_only_client(mesh().root.roots(), alpn::DISCOVERY).unwrap();
    let (called, served) = connect(Arc::clone(&new), accept(), name);
    assert_eq!(called.unwrap().1.as_deref(), Some(b"h2".as_slice()));
    assert_eq!(served.unwrap().0, None);
    assert!(connect(new, accept(), "webhooks.isthmus-system.svc").0.is_err(), "the name of another server");

    let wrong_root = server_only_client(mesh().foreign.roots(), alpn::DISCOVERY).unwrap();
    assert!(connect(wrong_root, accept(), name).0.is_err());

    let known = identity(&mesh().east, "reviews").controller_config(alpn::DISCOVERY).unwrap();
    let (_, served) = connect(known, accept(), name);
    assert_eq!(served.unwrap().0.unwrap().cluster, cluster("east"));

    let stranger = Identity::new(credential(&mesh().foreign, "reviews"), mesh().trust.clone());
    let (called, served) = connect(stranger.controller_config(alpn::DISCOVERY).unwrap(), accept(), name);
    assert!(called.is_err() && served.is_err(), "an optional certificate is verified");
}

/// A resumed session would keep what an earlier handshake verified (CVE-2022-21654), so neither side resumes one, whatever the
/// other side offers.
#[test]
fn no_session_is_resumed() {
    use rustls::client::Resumption;
    use rustls::server::ServerSessionMemoryCache;
    let client = identity(&mesh().west, "frontend").client_config(&[id("ratings")], alpn::CLIENT_HTTP1);
    let server = identity(&mesh().east, "ratings").server_config(REQUIRED);
    let mut offering_client = ClientConfig::clone(&client);
    offering_client.resumption = Resumption::in_memory_sessions(8);
    let mut offering_server = ServerConfig::clone(&server);
    offering_server.session_storage = ServerSessionMemoryCache::new(8);
    offering_server.send_tls13_tickets = 2;
    let (offering_client, offering_server) = (Arc::new(offering_client), Arc::new(offering_server));
    for (client, server, resumed) in [
        (&offering_client, &server, false),
        (&client, &offering_server, false),
        // Both do, so this test would see it.
        (&offering_client, &offering_server, true),
    ] {
        let connect = || connect(Arc::clone(client), Arc::clone(server), SNI);
        let first = connect();
        assert!(first.0.is_ok() && first.1.is_ok());
        let second = connect();
        for side in [second.0, second.1] {
            assert_eq!(side.unwrap().2, resumed);
        }
    }
}

#[test]
fn configurations_are_cached_until_the_identity_changes() {
    let identity = identity(&mesh().west, "frontend");
    let offer = alpn::CLIENT_HTTP1;
    let first = identity.client_config(&[id("a"), id("b")], offer);
    assert!(Arc::ptr_eq(&first, &identity.client_config(&[id("b"), id("a")], offer)));
    assert!(!Arc::ptr_eq(&first, &identity.client_config(&[id("a")], offer)));
    assert!(!Arc::ptr_eq(&first, &identity.client_config(&[id("a"), id("b")], alpn::CLIENT_HTTP2)));
    let listening = identity.server_config(REQUIRED);
    assert!(Arc::ptr_eq(&listening, &identity.server_config(REQUIRED)));

    assert_eq!(identity.generation(), 1);
    identity.replace_trust(mesh().trust.clone());
    assert_eq!(identity.generation(), 1, "an equal trust changes nothing");
    let renewed = credential(&mesh().west, "frontend");
    identity.replace_credential(renewed.clone());
    assert_eq!(identity.generation(), 2);
    assert_eq!(identity.credential(), renewed);
    assert!(!Arc::ptr_eq(&first, &identity.client_config(&[id("a"), id("b")], offer)));
    assert!(!Arc::ptr_eq(&listening, &identity.server_config(REQUIRED)));
    assert!(!format!("{identity:?}").contains("PRIVATE"));
}

#[test]
fn a_root_rotation_interrupts_no_connections() {
    let client = identity(&mesh().west, "frontend");
    let server = identity(&mesh().east, "ratings");
    let old = client.client_config(&[id("ratings")], alpn::CLIENT_HTTP1);
    // The new root is trusted first and signs later: both directions work at each step.
    let new_root = Authority::self_signed_root("mesh", YEAR).unwrap();
    let new_east = new_root.intermediate_for("east", &Constraints::default(), YEAR).unwrap();
    let both: Vec<_> = mesh().root.roots().iter().chain(new_root.roots()).cloned().collect();
    let issuers = [mesh().west.issuer_of("west"), mesh().east.issuer_of("east"), new_east.issuer_of("east")];
    let overlap = Trust::new("cluster.local", both, issuers).unwrap();
    client.replace_trust(overlap.clone());
    server.replace_trust(overlap);
    assert!(connect(old, server.server_config(REQUIRED), SNI).0.is_ok());
    server.replace_credential(new_east.credential(&id("ratings"), &[], HOUR).unwrap());
    let only_east = Expectation::any_of([id("ratings")]).in_clusters(["east".into()]);
    let (called, _) =
        connect(client.client_config_for(&only_east, alpn::CLIENT_HTTP1), server.server_config(REQUIRED), SNI);
    assert!(called.is_ok());
}
