//! A simulated node agent: it runs no containers, but serves exec, logs, port forwarding and usage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

pub(crate) struct Node {
    listener: UnixListener,
    log: Arc<Notify>,
    /// The answer to requests for the usage.
    usage: PathBuf,
}

impl Node {
    /// `log` makes the container write the fourth line of its log, for the client that follows the log. The usage is in the file
    /// `usage.json` beside the socket.
    pub(crate) fn listen(socket: &Path, log: Arc<Notify>) -> Self {
        let listener = UnixListener::bind(socket).expect("the socket of the node agent");
        Self { listener, log, usage: socket.with_file_name("usage.json") }
    }

    pub(crate) async fn serve(&self) {
        while let Ok((stream, _)) = self.listener.accept().await {
            let (log, usage) = (Arc::clone(&self.log), self.usage.clone());
            tokio::spawn(async move {
                // An error means that the client closed the connection.
                let _ = answer(BufReader::new(stream), &log, &usage).await;
            });
        }
    }
}

async fn answer(mut stream: BufReader<UnixStream>, log: &Notify, usage: &Path) -> std::io::Result<()> {
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    let path = first.split(' ').nth(1).unwrap_or("").to_owned();
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match path.split('?').next().unwrap_or("") {
        "/exec" if body["container"] == "broken" => {
            refuse(&mut stream, "container \"broken\" in pod \"web\" is not running").await
        }
        "/exec" => {
            upgrade(&mut stream).await?;
            exec(&mut stream, &body).await
        }
        "/logs" => logs(&mut stream, &path, log).await,
        "/usage" => {
            let body = tokio::fs::read_to_string(usage).await?;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await
        }
        "/portforward" if body["port"] == 1 => refuse(&mut stream, "connection refused").await,
        "/portforward" => {
            upgrade(&mut stream).await?;
            echo(&mut stream).await
        }
        _ => refuse(&mut stream, "no such path").await,
    }
}

async fn upgrade(stream: &mut BufReader<UnixStream>) -> std::io::Result<()> {
    stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: isthmus-stream\r\n\r\n")
        .await
}

async fn refuse(stream: &mut BufReader<UnixStream>, why: &str) -> std::io::Result<()> {
    let body = json!({"kind": "Status", "status": "Failure", "message": why}).to_string();
    let head = format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await
}

/// Commands: `echo WORDS`, `cat`, `exit CODE`, `tty`, `fail` (to standard error).
async fn exec(stream: &mut BufReader<UnixStream>, request: &Value) -> std::io::Result<()> {
    let words: Vec<&str> = request["command"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut code = 0;
    match words.as_slice() {
        ["echo", words @ ..] => frame(stream, 1, format!("{}\n", words.join(" ")).as_bytes()).await?,
        ["fail"] => frame(stream, 2, b"it went wrong\n").await?,
        ["tty"] => frame(stream, 1, format!("{}\n", request["tty"]).as_bytes()).await?,
        ["exit", given] => code = given.parse().unwrap_or(1),
        ["cat"] => loop {
            let (channel, length) = (stream.read_u8().await?, stream.read_u32().await?);
            let mut data = vec![0; length as usize];
            stream.read_exact(&mut data).await?;
            match channel {
                0 => frame(stream, 1, &data).await?,
                255 => break,
                _ => {}
            }
        },
        _ => code = 127,
    }
    let status = match code {
        0 => json!({"metadata": {}, "status": "Success"}),
        code => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
    };
    frame(stream, 3, status.to_string().as_bytes()).await?;
    stream.shutdown().await
}

async fn frame(stream: &mut BufReader<UnixStream>, channel: u8, data: &[u8]) -> std::io::Result<()> {
    stream.write_u8(channel).await?;
    stream.write_u32(data.len() as u32).await?;
    stream.write_all(data).await?;
    stream.flush().await
}

/// Three lines. A follower receives a fourth when `log` is notified, and no end.
async fn logs(stream: &mut BufReader<UnixStream>, path: &str, log: &Notify) -> std::io::Result<()> {
    let wanted = |key: &str, value: &str| path.contains(&format!("{key}={value}"));
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    let lines: &[&str] = match () {
        () if wanted("previous", "true") => &["from before\n"],
        () if wanted("tailLines", "1") => &["three\n"],
        () => &["one\n", "two\n", "three\n"],
    };
    for line in lines {
        chunk(stream, line).await?;
    }
    if wanted("follow", "true") {
        log.notified().await;
        chunk(stream, "four\n").await?;
        // Until the follower closes the connection.
        let _ = stream.read_u8().await;
        return Ok(());
    }
    stream.write_all(b"0\r\n\r\n").await
}

async fn chunk(stream: &mut BufReader<UnixStream>, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await?;
    stream.flush().await
}

/// Sends the data back in upper case.
async fn echo(stream: &mut BufReader<UnixStream>) -> std::io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..count].to_ascii_uppercase()).await?;
        stream.flush().await?;
    }
}
