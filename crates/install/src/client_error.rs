//! Errors of a Kubernetes client in plain sentences.
//!
//! The client's own texts name layers (`ServiceError: client error (Connect)`) and print records (`Status { status: Some(…`).
//! [`describe`] describes what happened in one line; [`advice`] returns what to do about it.

use std::error::Error;

use kube::client::AuthError;
use kube::config::KubeconfigError;

use crate::yaml_error;

/// Most characters of a server's message that are shown. The server may be hostile.
const MAX_MESSAGE: usize = 400;

/// Describes in one line why a request to an API server failed.
#[must_use]
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => answer(status),
        kube::Error::Auth(error) => credentials(error),
        kube::Error::InferConfig(error) => match error.source().and_then(<dyn Error>::downcast_ref) {
            Some(error) => kubeconfig(error),
            None => "no kubeconfig is found".to_owned(),
        },
        kube::Error::InferKubeconfig(error) => kubeconfig(error),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
            "the answer is not of a Kubernetes API server: it cannot be read as a Kubernetes object".to_owned()
        }
        kube::Error::Discovery(kube::error::DiscoveryError::MissingKind(kind)) => {
            format!("the cluster does not know kind {kind}")
        }
        kube::Error::Discovery(_) => "the cluster does not know the kind".to_owned(),
        kube::Error::HttpError(error) => format!("the address of the API server is not valid: {error}"),
        kube::Error::BuildRequest(error) => format!("the request is not valid: {error}"),
        kube::Error::TlsRequired => "the address of the API server needs https".to_owned(),
        other => format!("the API server cannot be reached: {}", root_cause(other)),
    }
}

/// Returns what to do about a failed request, if there is something to try.
#[must_use]
pub fn advice(error: &kube::Error) -> Option<&'static str> {
    match error {
        kube::Error::Api(status) => match status.code {
            401 => Some("renew the credentials in the kubeconfig"),
            403 => Some("use an account with this right, or grant it: kubectl create clusterrolebinding --help"),
            429 | 503 | 504 => Some("the API server is busy or starting; try again in a moment"),
            _ => None,
        },
        kube::Error::Auth(_) => Some("renew the credentials in the kubeconfig"),
        kube::Error::InferConfig(_) | kube::Error::InferKubeconfig(_) => {
            Some("check the kubeconfig: kubectl config view")
        }
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
            Some("check the server address in the kubeconfig: kubectl config view")
        }
        kube::Error::Discovery(_) => Some("install its custom resource definition first"),
        kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
            Some("check that it runs and that its address is right: kubectl cluster-info")
        }
        _ => None,
    }
}

/// Describes in one line why a kubeconfig cannot be used.
#[must_use]
pub fn kubeconfig(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::CurrentContextNotSet => "the kubeconfig has no current context".to_owned(),
        KubeconfigError::LoadContext(name) => format!("the kubeconfig has no context \"{name}\""),
        KubeconfigError::LoadClusterOfContext(name) => format!("the kubeconfig has no cluster \"{name}\""),
        KubeconfigError::FindPath => {
            "there is no kubeconfig: neither KUBECONFIG nor a home directory is set".to_owned()
        }
        KubeconfigError::ReadConfig(source, path) => format!("{} cannot be read: {}", path.display(), system(source)),
        KubeconfigError::Parse(error) => {
            format!("the kubeconfig is not valid: {}", yaml_error::describe_with_location(error))
        }
        KubeconfigError::MissingClusterUrl => "the kubeconfig's cluster has no server address".to_owned(),
        KubeconfigError::ParseClusterUrl(error) => format!("the kubeconfig's server address is not a URL: {error}"),
        other => other.to_string(),
    }
}

/// The API server's own message.
fn answer(status: &kube::core::Status) -> String {
    let message: String = status.message.chars().take(MAX_MESSAGE).collect();
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match (status.code, message.as_str()) {
        (401, _) => "the API server does not accept the credentials".to_owned(),
        (code, "") => format!("the API server answered {code} {}", status.reason).trim_end().to_owned(),
        (_, message) => message.to_owned(),
    }
}

fn credentials(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { cmd, out } => {
            let said = String::from_utf8_lossy(&out.stderr);
            let said = said.lines().last().unwrap_or_default();
            format!("the kubeconfig's credential plugin failed ({}): {cmd}: {said}", out.status)
        }
        AuthError::AuthExecStart(error) => {
            format!("the kubeconfig's credential plugin cannot be run: {}", system(error))
        }
        AuthError::ReadTokenFile(error, path) => {
            format!("the token file {} cannot be read: {}", path.display(), system(error))
        }
        other => format!("the kubeconfig's credentials cannot be used: {other}"),
    }
}

/// Describes the innermost cause. It names what happened; the errors around it name layers of the client.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut current: &(dyn Error + 'static) = error;
    loop {
        if let Some(error) = current.downcast_ref::<std::io::Error>() {
            match error.get_ref() {
                // An error of a protocol that travels as one of the socket.
                Some(inner) => current = inner,
                None => return system(error),
            }
        } else if let Some(rustls::Error::InvalidCertificate(error)) = current.downcast_ref() {
            return certificate(error);
        } else {
            match current.source() {
                Some(inner) => current = inner,
                None => return current.to_string(),
            }
        }
    }
}

fn certificate(error: &rustls::CertificateError) -> String {
    use rustls::CertificateError as E;
    match error {
        E::UnknownIssuer => "its certificate is not signed by the certificate authority of the kubeconfig".to_owned(),
        E::Expired | E::ExpiredContext { .. } => "its certificate has expired".to_owned(),
        E::NotValidYet | E::NotValidYetContext { .. } => "its certificate is not valid yet".to_owned(),
        E::NotValidForName | E::NotValidForNameContext { .. } => "its certificate is for another name".to_owned(),
        other => format!("its certificate is not valid: {other}"),
    }
}

/// Describes an error of the operating system, without its number.
#[must_use]
pub fn system(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words);
    text.chars().take(1).flat_map(char::to_lowercase).chain(text.chars().skip(1)).collect()
}

/// Returns a message without the numbers of errors of the operating system, which repeat the words before them.
#[must_use]
pub fn without_numbers(message: &str) -> String {
    let mut parts = message.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once(')').map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answered(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Status::failure(message, "Reason").with_code(code).boxed())
    }

    fn refused() -> std::io::Error {
        std::io::Error::from_raw_os_error(111)
    }

    #[test]
    fn an_answer_is_the_servers_own_message() {
        let forbidden = answered(403, "pods is forbidden: User \"x\" cannot list resource \"pods\"");
        assert_eq!(describe(&forbidden), "pods is forbidden: User \"x\" cannot list resource \"pods\"");
        assert!(advice(&forbidden).is_some_and(|advice| advice.contains("grant")));
        assert_eq!(describe(&answered(401, "Unauthorized")), "the API server does not accept the credentials");
        assert_eq!(describe(&answered(500, "")), "the API server answered 500 Reason");
        assert_eq!(describe(&answered(400, "no\r\nlog line\u{1b}[31m")), "no  log line [31m");
        assert_eq!(describe(&answered(400, &"x".repeat(1 << 20))).len(), MAX_MESSAGE);
    }

    #[test]
    fn a_dead_server_is_described_by_its_root_cause() {
        let text = "the API server cannot be reached: connection refused";
        assert_eq!(describe(&kube::Error::Service(Box::new(refused()))), text);
        let wrapped = std::io::Error::other(refused());
        assert_eq!(describe(&kube::Error::Service(Box::new(wrapped))), text);
        let stranger = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = std::io::Error::new(std::io::ErrorKind::InvalidData, stranger);
        let text = describe(&kube::Error::Service(Box::new(wrapped)));
        assert!(text.ends_with("not signed by the certificate authority of the kubeconfig"), "{text}");
    }

    #[test]
    fn numbers_of_system_errors_are_left_out() {
        let text = "cannot enter: Operation not permitted (os error 1)\n  try root; No such file (os error 2)";
        assert_eq!(without_numbers(text), "cannot enter: Operation not permitted\n  try root; No such file");
        assert_eq!(without_numbers("a plain (message)"), "a plain (message)");
    }

    #[test]
    fn no_internal_name_is_shown() {
        let kubeconfig_error = kube::config::Kubeconfig::from_yaml("a: 1\na: 2\ncontexts: 7").unwrap_err();
        let object = serde_json::from_str::<Status>("7").unwrap_err();
        let errors = [
            answered(404, "deployments.apps \"x\" not found"),
            kube::Error::Service(Box::new(refused())),
            kube::Error::SerdeError(object),
            kube::Error::InferKubeconfig(kubeconfig_error),
            kube::Error::InferKubeconfig(KubeconfigError::ReadConfig(refused(), "/a/config".into())),
            kube::Error::Auth(AuthError::AuthExecRun {
                cmd: "helper".to_owned(),
                out: Box::new(std::process::Output {
                    status: std::process::ExitStatus::default(),
                    stdout: Vec::new(),
                    stderr: b"please log in\n".to_vec(),
                }),
            }),
        ];
        for error in errors {
            let text = describe(&error);
            for internal in ["Error", "Some(", "Status {", "{:", "struct", "Policy", "os error", "\n", "[1"] {
                assert!(!text.contains(internal), "{internal:?} in {text}");
            }
        }
    }
}
