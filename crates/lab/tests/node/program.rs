//! The programs of the images `isthmus/hello`, `isthmus/serve` and `isthmus/stubborn`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;

pub(super) fn is(name: &str) -> bool {
    ["hello", "serve", "stubborn"].contains(&name)
}

pub(super) fn run(arguments: &[String]) -> ExitCode {
    match arguments[0].as_str() {
        "hello" => {
            println!("hello of the test program");
            ExitCode::SUCCESS
        }
        "serve" => serve(arguments.get(1).map_or(8080, |port| port.parse().expect("a port"))),
        _ => stubborn(),
    }
}

/// Answers HTTP on a port: 200 with its environment, or 503 while the file `/state/unwell` exists.
fn serve(port: u16) -> ExitCode {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("a free port");
    println!("serving on {port}");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let well = !std::path::Path::new("/state/unwell").exists();
        let mut body: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
        body.push(format!("PEER={}", stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default()));
        let body = body.join("\n");
        let status = if well { "200 OK" } else { "503 Unavailable" };
        let _ =
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    }
    ExitCode::SUCCESS
}

/// Prints a line on each SIGTERM and keeps running.
fn stubborn() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("a handler");
        println!("ready");
        loop {
            terminate.recv().await;
            println!("ignored SIGTERM");
        }
    })
}
