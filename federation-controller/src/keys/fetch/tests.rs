use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const SET: &str = r#"{"keys":[{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"}]}"#;
const SOON: Duration = Duration::from_secs(5);

/// Starts a server that gives each request the answer for its path. Returns its URL.
async fn server(answer: impl Fn(&str, &str) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (answer, own) = (Arc::new(answer), url.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answer, own) = (answer.clone(), own.clone());
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let length = stream.read(&mut buffer).await.unwrap_or_default();
                let head = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let bytes = answer(&path, &own);
                let _ = stream.write_all(&bytes).await;
                if bytes.is_empty() {
                    // A server that hangs.
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    url
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn fetcher() -> Fetcher {
    Fetcher::new(None, vec!["127.0.0.0/8".parse().unwrap()]).unwrap()
}

async fn fetch(url: String) -> Result<Text, String> {
    fetcher().fetch(&KeySource::Url(url.into()), SOON).await
}

#[tokio::test]
async fn keys_are_fetched_by_url_and_by_discovery() {
    let url = server(|path, own| match path {
        "/keys" => ok(SET),
        "/.well-known/openid-configuration" => ok(&format!(r#"{{"jwks_uri": "{own}/keys"}}"#)),
        _ => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
    })
    .await;
    assert_eq!(fetch(format!("{url}/keys")).await.as_deref(), Ok(SET));
    for issuer in [url.clone(), format!("{url}/")] {
        let fetched = fetcher().fetch(&KeySource::Issuer(issuer.into()), SOON).await;
        assert_eq!(fetched.as_deref(), Ok(SET));
    }
    let error = fetch(format!("{url}/other")).await.unwrap_err();
    assert!(error.contains("404"), "{error}");
}

#[tokio::test]
async fn answers_that_are_no_key_sets_are_refused_with_the_reason() {
    let url = server(|path, _| match path {
        "/empty" => ok(r#"{"keys": []}"#),
        "/none" => ok("{}"),
        "/secret" => ok(r#"{"keys": [{"kty": "oct", "k": "AQAB"}, {"kty": "RSA", "n": "AQAB"}, 7]}"#),
        "/html" => ok("<html>"),
        "/binary" => [&b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"[..], &[0xFF, 0xFE]].concat(),
        "/redirect" => b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n".to_vec(),
        "/huge" => ok(&" ".repeat(MAX_BODY + 1)),
        "/cut" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec(),
        "/garbage" => b"\x16\x03\x01 garbage\r\n\r\n".to_vec(),
        "/error" => b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_vec(),
        _ => Vec::new(),
    })
    .await;
    for (path, expected) in [
        ("empty", "no public key"),
        ("secret", "no public key"),
        ("none", "no list of keys"),
        ("html", "not JSON"),
        ("binary", "not text"),
        ("redirect", "redirects are not followed"),
        ("huge", "more than 1048576 bytes"),
        ("garbage", "/garbage: "),
        ("cut", "/cut: "),
        ("error", "500"),
    ] {
        let error = fetch(format!("{url}/{path}")).await.unwrap_err();
        assert!(error.contains(expected), "{path}: {error}");
    }
    let hangs = KeySource::Url(format!("{url}/hangs").into());
    let error = fetcher().fetch(&hangs, Duration::from_millis(200)).await.unwrap_err();
    assert!(error.contains("within 200ms"), "{error}");
    for (url, expected) in [("ftp://a/", "neither"), ("https:///keys", "URL"), ("nothing", "neither")] {
        let error = fetch(url.to_owned()).await.unwrap_err();
        assert!(error.contains(expected), "{url}: {error}");
    }
}

#[tokio::test]
async fn addresses_that_are_not_permitted_are_not_connected_to() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let url = server(move |_, own| {
        counted.fetch_add(1, Ordering::Relaxed);
        // The discovery document leads elsewhere.
        ok(&format!(r#"{{"jwks_uri": "{}"}}"#, own.replace("127.0.0.1", "127.0.0.2")))
    })
    .await;
    let strict = Fetcher::new(None, Vec::new()).unwrap();
    let error = strict.fetch(&KeySource::Url(url.clone().into()), SOON).await.unwrap_err();
    assert!(error.contains("127.0.0.1 is not a public address"), "{error}");
    assert_eq!(requests.load(Ordering::Relaxed), 0);
    let one = Fetcher::new(None, vec!["127.0.0.1/32".parse().unwrap()]).unwrap();
    let error = one.fetch(&KeySource::Issuer(url.into()), SOON).await.unwrap_err();
    assert!(error.contains("127.0.0.2 is not a public address"), "{error}");
}
