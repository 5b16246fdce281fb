//! Validation of the kubeconfig in a remote secret.
//!
//! Any principal that may write Secrets in the root namespace may write a remote secret, and the controller reads it.
//! So a kubeconfig must not make the controller run a program or read a file. Refused are, as in Istio
//! (`PILOT_INSECURE_MULTICLUSTER_KUBECONFIG_OPTIONS` lists the same fields): `exec`, every `auth-provider`, and keys,
//! certificates and tokens as file paths. Unlike Istio, a CA as a file path is refused too: it would name a file of the
//! controller.

use kube::config::{AuthInfo, Kubeconfig};
use serde_json::Value;

use crate::Warning;

/// The size limit of a kubeconfig; one with certificates has about 8 KiB.
const MAX_BYTES: usize = 256 * 1024;
/// The size limit of a token; one of a service account has about 1 KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A validated kubeconfig.
#[derive(Debug, Clone)]
pub struct Sanitized {
    /// The kubeconfig, reduced to its current context.
    pub config: Kubeconfig,
    /// The URL of the API server.
    pub server: String,
    /// Warnings about weak settings.
    pub warnings: Vec<Warning>,
}

/// Why a kubeconfig is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KubeconfigError {
    /// The kubeconfig is empty.
    #[error("the kubeconfig is empty")]
    Empty,
    /// The kubeconfig exceeds the size limit.
    #[error("the kubeconfig has {0} bytes; the limit is {MAX_BYTES}")]
    TooLong(usize),
    /// The kubeconfig is not UTF-8.
    #[error("the kubeconfig is not UTF-8 text")]
    NotText,
    /// The text is not a kubeconfig.
    #[error("the kubeconfig cannot be parsed: {0}")]
    Parse(String),
    /// The current context is missing or does not exist.
    #[error("the kubeconfig has no usable current-context: {0}")]
    Context(String),
    /// The cluster has no server.
    #[error("the kubeconfig's cluster {0:?} has no server")]
    NoServer(String),
    /// The server is not an https URL.
    #[error("the kubeconfig's server {0:?} is not an https:// URL")]
    Server(String),
    /// A field would run a program or read a file.
    #[error("the kubeconfig uses {field}, which is refused: {why}")]
    Refused {
        /// The field.
        field: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// The user has neither token nor certificate nor password.
    #[error("the kubeconfig's user has no credential: give a token, or client-certificate-data with client-key-data")]
    NoCredential,
    /// The user has no token that could be replaced.
    #[error("the kubeconfig's user has no token")]
    NoToken,
    /// The token has characters that no bearer token has, or is too long.
    #[error(
        "the token is not a bearer token (letters, digits and -._~+/ with trailing =, at most {MAX_TOKEN_BYTES} bytes)"
    )]
    Token,
    /// The changed kubeconfig has no YAML form.
    #[error("the kubeconfig cannot be written: {0}")]
    Write(String),
}

/// Parses and validates a kubeconfig and reduces it to its current context.
///
/// # Errors
/// Returns an error if the kubeconfig is malformed or uses a refused field.
pub fn sanitize(bytes: &[u8]) -> Result<Sanitized, KubeconfigError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(KubeconfigError::Empty);
    }
    if bytes.len() > MAX_BYTES {
        return Err(KubeconfigError::TooLong(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| KubeconfigError::NotText)?;
    let mut config =
        Kubeconfig::from_yaml(text).map_err(|e| KubeconfigError::Parse(without_content(&e.to_string())))?;

    let current = config.current_context.clone().filter(|name| !name.is_empty());
    let current = current.ok_or_else(|| KubeconfigError::Context("it is not set".to_owned()))?;
    let context = config
        .contexts
        .iter()
        .find(|context| context.name == current)
        .and_then(|named| named.context.clone())
        .ok_or_else(|| KubeconfigError::Context(format!("there is no context {current:?}")))?;
    config.contexts.retain(|named| named.name == current);
    config.clusters.retain(|named| named.name == context.cluster);
    config.auth_infos.retain(|named| Some(&named.name) == context.user.as_ref());

    let cluster = config
        .clusters
        .first()
        .and_then(|named| named.cluster.as_ref())
        .ok_or_else(|| KubeconfigError::Context(format!("there is no cluster {:?}", context.cluster)))?;
    let server = cluster.server.clone().filter(|server| !server.is_empty());
    let server = server.ok_or_else(|| KubeconfigError::NoServer(context.cluster.clone()))?;
    if !is_https_url(&server) {
        return Err(KubeconfigError::Server(server));
    }
    if cluster.proxy_url.is_some() {
        return Err(KubeconfigError::Refused {
            field: "proxy-url",
            why: "the controller connects to API servers directly, not through proxies",
        });
    }
    if cluster.certificate_authority.is_some() {
        return Err(refused_file("certificate-authority", "certificate-authority-data"));
    }
    let user = config.auth_infos.first().and_then(|named| named.auth_info.as_ref());
    check_user(user.ok_or(KubeconfigError::NoCredential)?)?;

    let mut warnings = Vec::new();
    if cluster.insecure_skip_tls_verify == Some(true) {
        warnings.push(Warning::new(
            "insecure-skip-tls-verify",
            "the API server's certificate is not verified: an attacker on the path can decide which endpoints the mesh trusts",
        ));
    }
    if is_loopback(&server) {
        warnings.push(Warning::new("server", "is a loopback address: in a pod it is the controller itself"));
    }
    Ok(Sanitized { config, server, warnings })
}

impl Sanitized {
    /// The bearer token of the current context's user.
    pub fn token(&self) -> Option<String> {
        let users = serde_json::to_value(&self.config.auth_infos).ok()?;
        users[0]["user"]["token"].as_str().map(str::to_owned)
    }
}

/// Returns a kubeconfig with another token for the user of its current context. No other value changes, whatever the
/// token contains: the document is parsed, changed and written, never edited as text.
///
/// # Errors
/// Returns an error if the kubeconfig is refused by [`sanitize`], has no token, or if `token` is not a bearer token.
pub fn with_token(kubeconfig: &[u8], token: &str) -> Result<String, KubeconfigError> {
    if !is_bearer_token(token) {
        return Err(KubeconfigError::Token);
    }
    sanitize(kubeconfig)?;
    let text = std::str::from_utf8(kubeconfig).map_err(|_| KubeconfigError::NotText)?;
    let mut document: Value =
        crate::yaml::from_str(text).map_err(|error| KubeconfigError::Parse(without_content(&error)))?;
    let current = document["current-context"].clone();
    let context = named(&mut document["contexts"], &current).ok_or(KubeconfigError::NoToken)?;
    let user = context["context"]["user"].clone();
    let user = named(&mut document["users"], &user).ok_or(KubeconfigError::NoToken)?;
    match user.pointer_mut("/user/token") {
        Some(old @ Value::String(_)) => *old = token.into(),
        _ => return Err(KubeconfigError::NoToken),
    }
    crate::yaml::to_string(&document).map_err(KubeconfigError::Write)
}

/// Returns the first entry of a list that has this name, as clients of a kubeconfig do.
fn named<'a>(list: &'a mut Value, name: &Value) -> Option<&'a mut Value> {
    list.as_array_mut()?.iter_mut().find(|entry| entry.get("name") == Some(name))
}

/// Returns whether a text has the form of a bearer token (RFC 6750 §2.1). A service account token, a JWT, has it.
pub fn is_bearer_token(text: &str) -> bool {
    let of_token = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
    let token = text.trim_end_matches('=');
    !token.is_empty() && text.len() <= MAX_TOKEN_BYTES && token.bytes().all(of_token)
}

/// Returns whether a text is an `https://` URL with a host, without spaces, quotes and control characters.
pub fn is_https_url(text: &str) -> bool {
    let of_url = |b: u8| b.is_ascii_graphic() && !b"\"'<>\\^`{|}".contains(&b);
    let host = text.strip_prefix("https://").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    host.is_some_and(|host| !host.is_empty()) && text.bytes().all(of_url)
}

fn check_user(user: &AuthInfo) -> Result<(), KubeconfigError> {
    if user.exec.is_some() {
        return Err(KubeconfigError::Refused { field: "exec", why: "it would run a program in the controller" });
    }
    if user.auth_provider.is_some() {
        return Err(KubeconfigError::Refused {
            field: "auth-provider",
            why: "it would run a program in the controller",
        });
    }
    if user.token_file.is_some() {
        return Err(refused_file("tokenFile", "token"));
    }
    if user.client_certificate.is_some() {
        return Err(refused_file("client-certificate", "client-certificate-data"));
    }
    if user.client_key.is_some() {
        return Err(refused_file("client-key", "client-key-data"));
    }
    let certificate = user.client_certificate_data.is_some() && user.client_key_data.is_some();
    if user.token.is_none() && !certificate && user.password.is_none() {
        return Err(KubeconfigError::NoCredential);
    }
    Ok(())
}

fn refused_file(field: &'static str, instead: &'static str) -> KubeconfigError {
    let why = match instead {
        "token" => "it would read a file of the controller; set the content as token",
        "client-key-data" => "it would read a file of the controller; set the content as client-key-data",
        "client-certificate-data" => {
            "it would read a file of the controller; set the content as client-certificate-data"
        }
        _ => "it would read a file of the controller; set the content as certificate-authority-data",
    };
    KubeconfigError::Refused { field, why }
}

/// Returns whether a server URL has a loopback address.
pub fn is_loopback(server: &str) -> bool {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    rest.starts_with("127.") || rest.starts_with("localhost") || rest.starts_with("[::1]")
}

/// Removes the input from a parser's message, since it may contain a token. Parsers quote the input in the message and
/// show it below, so only the first line is kept, without quoted text.
fn without_content(text: &str) -> String {
    let mut quote = None;
    let mut kept = String::new();
    for c in text.lines().next().unwrap_or_default().chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => continue,
            None if matches!(c, '"' | '`' | '\'') => {
                quote = Some(c);
                kept.push('…');
            }
            None => kept.push(c),
        }
    }
    kept.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(user: &str, cluster: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: east\ncontexts:\n- name: east\n  context: {{cluster: east, user: east}}\n- name: other\n  context: {{cluster: other, user: other}}\nclusters:\n- name: east\n  cluster: {{{cluster}}}\nusers:\n- name: east\n  user: {{{user}}}\n- name: other\n  user: {{exec: {{command: rm}}}}\n"
        )
    }

    #[test]
    fn only_the_current_context_is_kept() {
        let good = sanitize(text("token: abc", "server: 'https://203.0.113.2:6443'").as_bytes()).unwrap();
        assert_eq!(good.server, "https://203.0.113.2:6443");
        assert_eq!((good.config.contexts.len(), good.config.clusters.len(), good.config.auth_infos.len()), (1, 1, 1));
        assert_eq!(good.warnings, []);
    }

    #[test]
    fn fields_that_run_programs_or_read_files_are_refused() {
        let server = "server: 'https://203.0.113.2:6443'";
        for (user, expected) in [
            ("token: a, exec: {command: x, apiVersion: v1}", "exec"),
            ("auth-provider: {name: gcp, config: {}}", "auth-provider"),
            ("tokenFile: /var/run/secrets/x", "tokenFile"),
            ("client-certificate: /x, client-key-data: YQ==", "client-certificate"),
            ("client-key: /x, client-certificate-data: YQ==", "client-key"),
        ] {
            match sanitize(text(user, server).as_bytes()) {
                Err(KubeconfigError::Refused { field, .. }) => assert_eq!(field, expected),
                other => panic!("{user}: {other:?}"),
            }
        }
        let file = sanitize(text("token: a", &format!("{server}, certificate-authority: /etc/ca")).as_bytes());
        assert!(matches!(file, Err(KubeconfigError::Refused { field: "certificate-authority", .. })), "{file:?}");
        let proxy = sanitize(text("token: a", &format!("{server}, proxy-url: 'http://169.254.169.254'")).as_bytes());
        assert!(matches!(proxy, Err(KubeconfigError::Refused { field: "proxy-url", .. })), "{proxy:?}");
    }

    #[test]
    fn malformed_kubeconfigs_are_refused() {
        assert_eq!(sanitize(b"").unwrap_err(), KubeconfigError::Empty);
        assert_eq!(sanitize(b" \n").unwrap_err(), KubeconfigError::Empty);
        assert_eq!(sanitize(&[0xff, 0xfe]).unwrap_err(), KubeconfigError::NotText);
        assert!(matches!(sanitize(b"{{{{").unwrap_err(), KubeconfigError::Parse(_)));
        assert!(matches!(sanitize(b"just text").unwrap_err(), KubeconfigError::Parse(_)));
        assert!(matches!(sanitize(b"apiVersion: v1\nkind: Config\n").unwrap_err(), KubeconfigError::Context(_)));
        assert!(matches!(sanitize(&vec![b'a'; 300_000]).unwrap_err(), KubeconfigError::TooLong(_)));
        let with = |user, cluster| sanitize(text(user, cluster).as_bytes()).unwrap_err();
        assert!(matches!(with("token: a", ""), KubeconfigError::NoServer(_)));
        assert!(matches!(with("token: a", "server: 'http://x'"), KubeconfigError::Server(_)));
        assert_eq!(with("client-certificate-data: YQ==", "server: 'https://x'"), KubeconfigError::NoCredential);
        // Errors do not contain the token.
        for broken in [
            "current-context: [\ntoken: verysecret",
            "verysecret",
            "\"verysecret\"",
            "'verysecret'",
            "users: verysecret",
            "users: [verysecret]",
            "users: [{name: a, user: verysecret}]",
            "clusters: [{name: a, cluster: {insecure-skip-tls-verify: verysecret}}]",
            "users: [{name: a, user: {token: {verysecret: 1}}}]",
        ] {
            let message = sanitize(broken.as_bytes()).unwrap_err().to_string();
            assert!(!message.contains("verysecret"), "{message}");
        }
    }

    #[test]
    fn a_new_token_changes_one_value_and_nothing_else() {
        let written = format!(
            "{}- name: third\n  user: {{token: old.old.old, extra: {{kept: [1, 'no', old.old.old]}}}}\nextensions: [{{name: old.old.old, extension: {{}}}}]\n",
            text("token: old.old.old, username: 'a: b'", "server: 'https://old.old.old:6443'")
        );
        let read = |text: &str| -> Value { crate::yaml::from_str(text).unwrap() };
        let mut expected = read(&written);
        expected["users"][0]["user"]["token"] = "new.new.new".into();
        let changed = with_token(written.as_bytes(), "new.new.new").unwrap();
        assert_eq!(read(&changed), expected);
        assert_eq!(sanitize(changed.as_bytes()).unwrap().token().as_deref(), Some("new.new.new"));
        let certificate = text("client-certificate-data: YQ==, client-key-data: YQ==", "server: 'https://a'");
        assert_eq!(with_token(certificate.as_bytes(), "a.b.c").unwrap_err(), KubeconfigError::NoToken);
    }

    #[test]
    fn an_answer_that_is_no_token_is_not_written() {
        let written = text("token: old.old.old", "server: 'https://203.0.113.2:6443'");
        for hostile in [
            "a\n    exec: {command: sh}",
            "a.b.c\n",
            "a, exec: {command: sh}",
            "\"a",
            "a: b",
            "a #",
            "*a",
            "!!binary YQ",
            "a\u{2028}b",
            "a\0",
            "=",
            "",
            &"a".repeat(MAX_TOKEN_BYTES + 1),
        ] {
            assert_eq!(with_token(written.as_bytes(), hostile).unwrap_err(), KubeconfigError::Token, "{hostile:?}");
        }
        // Tokens that YAML would read as another type remain text.
        for plain in ["1", "1e3", "null", "no", "~", "-", "0x1", "2026-11-30", "a.b-c_d~e+f/g=="] {
            let changed = with_token(written.as_bytes(), plain).unwrap();
            assert_eq!(sanitize(changed.as_bytes()).unwrap().token().as_deref(), Some(plain), "{plain:?}");
        }
    }

    #[test]
    fn a_server_is_a_url() {
        for good in ["https://203.0.113.2:6443", "https://[2001:db8::1]:6443/k8s/clusters/a", "https://a.example/x?y=z"]
        {
            assert!(is_https_url(good), "{good}");
        }
        for bad in [
            "http://a",
            "https://",
            "https:///x",
            "https://a b",
            "https://a\n",
            "https://a\u{1b}[2J",
            "https://a\"",
            "",
        ] {
            assert!(!is_https_url(bad), "{bad:?}");
        }
    }

    #[test]
    fn weak_settings_have_warnings() {
        let weak = "server: 'https://127.0.0.1:6443', insecure-skip-tls-verify: true";
        assert_eq!(sanitize(text("token: a", weak).as_bytes()).unwrap().warnings.len(), 2);
    }
}
