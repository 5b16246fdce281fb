//! What a certificate says, as proxies show it to applications.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::CertificateDer;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::x509::X509Name;

use crate::pem::certificates_to_pem;

/// Returns the SHA-256 of a certificate in hexadecimal.
pub fn fingerprint(certificate: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, certificate);
    digest.as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Returns the SHA-256 of a certificate's SubjectPublicKeyInfo in base64; `None` if the certificate is not valid.
pub(crate) fn key_fingerprint(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(BASE64_STANDARD.encode(digest::digest(&digest::SHA256, parsed.public_key().raw)))
}

/// Returns a client's certificate as the header `x-forwarded-client-cert` of Istio's gateways has it:
/// `Hash=…;Cert="…";Subject="…";URI=…;DNS=…`. `None` if the certificate is not valid.
pub fn forwarded_client_cert(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let pem = certificates_to_pem([certificate]);
    let mut text = format!(
        "Hash={};Cert=\"{}\";Subject=\"{}\"",
        fingerprint(certificate),
        percent_encoded(&pem),
        quoted(&distinguished_name(parsed.subject()))
    );
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| &*extension.value.general_names).unwrap_or_default();
    let uris: Vec<&str> =
        names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
    if uris.is_empty() {
        text.push_str(";URI=");
    }
    for uri in uris {
        let _ = write!(text, ";URI={}", value(uri));
    }
    for name in names {
        if let GeneralName::DNSName(dns) = name {
            let _ = write!(text, ";DNS={}", value(dns));
        }
    }
    Some(text)
}

/// Returns a name by RFC 2253: the last part first, without spaces.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for rdn in name.iter() {
        let attributes: Vec<String> = rdn
            .iter()
            .map(|attribute| {
                let kind = oid2abbrev(attribute.attr_type(), oid_registry())
                    .map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
                format!("{kind}={}", escaped(attribute.as_str().unwrap_or_default()))
            })
            .collect();
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

/// Escapes the value of an attribute (RFC 2253 §2.4).
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        if matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// Escapes what would end a quoted value.
fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Returns a value that cannot be taken for several.
fn value(text: &str) -> String {
    if text.contains([',', ';', '=', '"']) { format!("\"{}\"", quoted(text)) } else { text.to_owned() }
}

/// Encodes all but unreserved characters (RFC 3986 §2.3), as Envoy encodes certificates.
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len() * 5 / 4), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}
