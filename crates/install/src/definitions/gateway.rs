//! Gateway (`networking.istio.io`).

use serde_json::Value;

use super::schema::{boolean, list, map, object, port, text, texts, word};

pub(super) fn gateway() -> Value {
    object([("servers", list(server())), ("selector", map(text()))])
}

fn server() -> Value {
    object([
        ("port", server_port()),
        ("bind", text()),
        ("hosts", texts()),
        ("tls", server_tls()),
        ("defaultEndpoint", text()),
        ("name", text()),
    ])
}

/// `port` of a server and of a Sidecar's listener.
pub(super) fn server_port() -> Value {
    object([("number", port()), ("protocol", text()), ("name", text()), ("targetPort", port())])
}

/// `tls` of a server and of a Sidecar's listener.
pub(super) fn server_tls() -> Value {
    let modes = ["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"];
    let version = || word(["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"]);
    let certificate = object([("serverCertificate", text()), ("privateKey", text()), ("caCertificates", text())]);
    object([
        ("httpsRedirect", boolean()),
        ("mode", word(modes)),
        ("serverCertificate", text()),
        ("privateKey", text()),
        ("caCertificates", text()),
        ("caCrl", text()),
        ("tlsCertificates", list(certificate)),
        ("credentialName", text()),
        ("credentialNames", texts()),
        ("caCertCredentialName", text()),
        ("subjectAltNames", texts()),
        ("verifyCertificateSpki", texts()),
        ("verifyCertificateHash", texts()),
        ("minProtocolVersion", version()),
        ("maxProtocolVersion", version()),
        ("cipherSuites", texts()),
        ("insecureSkipVerify", boolean()),
    ])
}
