//! `kubectl logs`, `exec`, `attach`, `port-forward` and `get --raw …/proxy/`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use serde_json::json;

use crate::KubectlTest;
use crate::server::TestServer;

pub(crate) const TESTS: &[KubectlTest] = &[
    ("streams::logs", logs),
    ("streams::exec", exec),
    ("streams::attach", attach),
    ("streams::port_forward", port_forward),
    ("streams::proxied_http", proxied_http),
];

fn server() -> TestServer {
    let server = TestServer::with_account();
    server.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: app, image: i}, {name: broken, image: i}]}\n");
    let running = |name: &str| json!({"name": name, "ready": true, "restartCount": 0, "image": "i", "imageID": "", "state": {"running": {}}});
    let status = json!({"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
        "containerStatuses": [running("app"), running("broken")]});
    server.set_status("pod/web", &status);
    server
}

fn logs() {
    let server = server();
    assert_eq!(server.kubectl("logs web -c app"), "one\ntwo\nthree\n");
    assert_eq!(server.kubectl("logs web"), "one\ntwo\nthree\n", "the first container by default");
    assert_eq!(server.kubectl("logs web -c app --tail=1"), "three\n");
    assert_eq!(server.kubectl("logs web -c app --previous"), "from before\n");
    let followed = server.spawn("logs -f web -c app");
    followed.line_with("three");
    server.write_log();
    followed.line_with("four");
    let wrong = server.refused("logs web -c nobody", "");
    assert!(wrong.contains("container nobody is not valid for pod web"), "{wrong}");
    assert_eq!(server.kubectl("logs web --all-containers").lines().count(), 6);
}

fn exec() {
    let server = server();
    // As client-go's SPDY executor, which most controllers use, kubectl falls back to SPDY or is told to use it.
    for web_sockets in ["true", "false"] {
        exec_over(&server, &[("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", web_sockets)]);
    }
    let broken = server.refused("exec web -c broken -- echo hi", "");
    assert!(broken.contains("container \"broken\" in pod \"web\" is not running"), "{broken}");
}

fn exec_over(server: &TestServer, environment: &[(&str, &str)]) {
    let run = |arguments: &[&str], input: &str| server.run(arguments, input, environment);
    assert_eq!(run(&["exec", "web", "-c", "app", "--", "echo", "hello", "world"], "").stdout, "hello world\n");
    let failed = run(&["exec", "web", "-c", "app", "--", "exit", "42"], "");
    assert_eq!(failed.code, Some(42));
    assert!(failed.stderr.contains("command terminated with exit code 42"), "{}", failed.stderr);
    let complained = run(&["exec", "web", "-c", "app", "--", "fail"], "");
    assert_eq!((complained.stdout.as_str(), complained.stderr.as_str()), ("", "it went wrong\n"));
    let piped = run(&["exec", "-i", "web", "-c", "app", "--", "cat"], "line one\nline two\n");
    assert_eq!((piped.code, piped.stdout.as_str()), (Some(0), "line one\nline two\n"), "{}", piped.stderr);
    let long = "x".repeat(300_000);
    assert_eq!(run(&["exec", "-i", "web", "-c", "app", "--", "cat"], &long).stdout.len(), long.len());
    let by_default = run(&["exec", "web", "--", "echo", "hi"], "");
    assert_eq!(by_default.stdout, "hi\n");
    let broken = run(&["exec", "web", "-c", "broken", "--", "echo", "hi"], "");
    assert!(broken.code != Some(0) && broken.stderr.contains("is not running"), "{}", broken.stderr);
}

fn attach() {
    let server = server();
    let attached = server.spawn("attach web -c app");
    attached.line_with("three");
    server.write_log();
    attached.line_with("four");
    let refused = server.refused("attach -i web -c app", "");
    assert!(refused.contains("has no standard input to attach to"), "{refused}");
}

fn port_forward() {
    let server = server();
    let forward = server.spawn("port-forward pod/web :9080 :1");
    let port_of = |line: String| -> u16 {
        let address = line.split_whitespace().nth(2).expect("an address");
        address.rsplit(':').next().expect("a port").parse().expect("a number")
    };
    let port = port_of(forward.line_with("127.0.0.1:"));
    for round in 0..3 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("forwarded");
        let sent = format!("hello {round} {}", "y".repeat(100_000));
        let mut writer = stream.try_clone().expect("a second handle");
        let text = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(text.as_bytes()).expect("sent");
            writer.shutdown(std::net::Shutdown::Write).expect("half closed");
        });
        let mut back = String::new();
        stream.read_to_string(&mut back).expect("received");
        writing.join().expect("written");
        assert_eq!(back, sent.to_ascii_uppercase());
    }
    let refused = port_of(forward.line_with("-> 1"));
    let mut stream = TcpStream::connect(("127.0.0.1", refused)).expect("kubectl listens");
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(forward.line_with("error").contains("connection refused"));
}

/// Serves HTTP/1.1 responses with the request line.
fn origin() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(8).map_while(Result::ok) {
            let mut stream = stream;
            let mut head = [0; 4096];
            let count = stream.read(&mut head).unwrap_or(0);
            let first = String::from_utf8_lossy(&head[..count]).lines().next().unwrap_or("").to_owned();
            let secret = String::from_utf8_lossy(&head[..count]).to_ascii_lowercase().contains("authorization");
            let body = format!("{first} leaked={secret}");
            let _ =
                stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes());
        }
    });
    port
}

fn proxied_http() {
    let server = server();
    let port = origin();
    let pod = server.kubectl(&format!("get --raw /api/v1/namespaces/default/pods/web:{port}/proxy/debug/it?a=b"));
    assert_eq!(pod, "GET /debug/it?a=b HTTP/1.1 leaked=false");
    server.apply(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{clusterIP: None, ports: [{{name: http, port: {port}}}]}}\n"));
    let headless = server.refused(&format!("get --raw /api/v1/namespaces/default/services/web:{port}/proxy/"), "");
    assert!(headless.contains("no endpoints available for service \"web\""), "{headless}");
    let absent = server.refused("get --raw /api/v1/namespaces/default/services/web:81/proxy/", "");
    assert!(absent.contains("no service port \"81\" found for service \"web\""), "{absent}");
    let closed = server.refused("get --raw /api/v1/namespaces/default/pods/web:1/proxy/", "");
    assert!(closed.contains("error trying to reach service"), "{closed}");
}
