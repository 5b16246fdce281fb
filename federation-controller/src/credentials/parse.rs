//! Reads a credential from the data of a Secret, in the forms that Istio reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::{ServerCertificate, check_revocations, check_roots};
use k8s_openapi::ByteString;

use crate::objects::{SecretRead, ServerCredential};

/// The most bytes of one entry. A chain of four RSA certificates has some 8 KiB; a bundle of public roots, 250 KiB.
const MAX_ENTRY: usize = 512 << 10;

/// Reads the data of a Secret.
pub(crate) fn parse(data: &BTreeMap<String, ByteString>) -> SecretRead {
    match read(data) {
        Ok(credential) => SecretRead::Usable(credential),
        Err(why) => SecretRead::Unusable(why),
    }
}

fn read(data: &BTreeMap<String, ByteString>) -> Result<ServerCredential, String> {
    let entry = |names: &[&str]| -> Result<Arc<[u8]>, String> {
        let Some((name, value)) = names.iter().find_map(|name| data.get_key_value(*name)) else {
            return Ok(Arc::default());
        };
        match value.0.len() {
            0..=MAX_ENTRY => Ok(value.0.as_slice().into()),
            length => Err(format!("{name} has {length} bytes, but at most {MAX_ENTRY} are read")),
        }
    };
    // Of a Secret with both forms, the first is whole.
    let (names, keys) =
        if data.contains_key("cert") && data.contains_key("key") { ("cert", "key") } else { ("tls.crt", "tls.key") };
    let (chain, key) = (entry(&[names])?, entry(&[keys])?);
    let (roots, revocations) = (entry(&["cacert", "ca.crt"])?, entry(&["crl", "ca.crl"])?);
    let certificate = match (chain.is_empty(), key.is_empty()) {
        (false, false) => Some(ServerCertificate::read(&chain, &key)?),
        (true, true) => None,
        (true, false) => return Err(format!("{keys} is there without {names}")),
        (false, true) => return Err(format!("{names} is there without {keys}")),
    };
    if certificate.is_none() && roots.is_empty() {
        return Err("it has neither tls.crt and tls.key, nor cert and key, nor ca.crt, nor cacert".into());
    }
    if !roots.is_empty() {
        check_roots(&roots).map_err(|why| format!("ca.crt is {why}"))?;
    }
    if !revocations.is_empty() {
        check_revocations(&revocations).map_err(|why| format!("ca.crl is {why}"))?;
    }
    Ok(ServerCredential { chain, key, roots, revocations, certificate })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::credentials::tests::certificate;

    fn data(entries: &[(&str, &str)]) -> BTreeMap<String, ByteString> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), ByteString(value.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn secrets_in_the_forms_of_istio_are_read_and_others_have_a_reason() {
        let (chain, key) = certificate(&["www.example.com"], SystemTime::now());
        let (chain, key) = (&*chain, &*key);
        for entries in [
            vec![("tls.crt", chain), ("tls.key", key)],
            vec![("tls.crt", chain), ("tls.key", key), ("ca.crt", chain)],
            vec![("cert", chain), ("key", key), ("cacert", chain), ("tls.crt", "other")],
            vec![("cacert", chain)],
        ] {
            let has_roots = entries.iter().any(|(name, _)| name.starts_with("ca"));
            match parse(&data(&entries)) {
                SecretRead::Usable(of) => assert_eq!(of.roots.is_empty(), !has_roots, "{entries:?}"),
                other => panic!("{other:?}"),
            }
        }
        let long = "x".repeat(MAX_ENTRY + 1);
        for (entries, expected) in [
            (vec![], "neither"),
            (vec![("tls.crt", chain)], "without tls.key"),
            (vec![("tls.key", key)], "without tls.crt"),
            (vec![("cert", "x"), ("key", key)], "no section CERTIFICATE"),
            (vec![("tls.crt", chain), ("tls.key", key), ("ca.crt", "x")], "ca.crt"),
            (vec![("tls.crt", chain), ("tls.key", key), ("ca.crl", "x")], "ca.crl"),
            (vec![("tls.crt", &*long), ("tls.key", key)], "bytes"),
        ] {
            match parse(&data(&entries)) {
                SecretRead::Unusable(why) => assert!(why.contains(expected), "{why}"),
                other => panic!("{other:?}"),
            }
        }
        let usable = parse(&data(&[("tls.crt", chain), ("tls.key", key)]));
        assert!(!format!("{usable:?}").contains("PRIVATE"), "no key is shown");
    }
}
