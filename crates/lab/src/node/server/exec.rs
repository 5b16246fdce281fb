//! A command in a container, its streams framed on one connection.
//!
//! A frame is one byte of channel, four of length (big-endian), the bytes. Channels: 0 to 2 the standard streams, 3 how it
//! ended (a `Status`), 4 the size of the terminal (`{"Width":80,"Height":24}`), 255 with one byte the channel that is closed.

use std::io;

use bytes::{BufMut, BytesMut};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use net::process::{Exit, LaunchError, Streams, Terminal};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::reply::{Body, Refusal, pod, upgraded, wanted};
use crate::node::exec::{EndOnDrop, start};
use crate::node::host::Host;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Largest frame taken.
const LARGEST: u32 = 1 << 20;
/// Bytes read from a stream at a time.
const PIECE: usize = 16 << 10;
/// How long output is read on after the command ended, while something it started keeps the stream open.
const LAST_OUTPUT: std::time::Duration = std::time::Duration::from_millis(500);

#[derive(Debug, Deserialize)]
struct Wish {
    namespace: String,
    pod: String,
    container: String,
    command: Vec<String>,
    #[serde(default)]
    tty: bool,
    #[serde(default)]
    stdin: bool,
}

/// Our ends of a command's streams.
enum Ends {
    Terminal(Terminal),
    Pipes { input: Option<pipe::Sender>, output: pipe::Receiver, error: pipe::Receiver },
}

pub(super) async fn serve(host: &Host, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let upgrade = hyper::upgrade::on(&mut request);
    let wish: Wish = wanted(request).await?;
    let pod = pod(host, &wish.namespace, &wish.pod)?;
    let live = pod
        .live(&wish.container)
        .ok_or_else(|| Refusal::bad(format!("container {:?} in pod {:?} does not run", wish.container, wish.pod)))?;
    let (ends, streams) = open(&wish).map_err(|error| Refusal::internal(format!("cannot open streams: {error}")))?;
    let started = start(&live, wish.command, streams, wish.tty).await;
    let tty = wish.tty;
    tokio::spawn(async move {
        let Ok(connection) = upgrade.await else { return };
        let (reader, writer) = tokio::io::split(TokioIo::new(connection));
        match started {
            Ok(process) => carry(EndOnDrop(process), ends, reader, writer).await,
            Err(error) => {
                let mut writer = writer;
                // kubectl shows of the status the exit code alone.
                let channel = if tty { STDOUT } else { STDERR };
                let _ = write_frame(&mut writer, channel, format!("{error}\n").as_bytes()).await;
                let _ = write_frame(&mut writer, STATUS, not_started(&error).to_string().as_bytes()).await;
                let _ = writer.shutdown().await;
            }
        }
    });
    Ok(upgraded())
}

fn open(wish: &Wish) -> io::Result<(Ends, Streams)> {
    if wish.tty {
        let (ours, theirs) = Terminal::open()?;
        let streams = Streams { input: theirs.try_clone()?, output: theirs.try_clone()?, error: theirs, of: None };
        return Ok((Ends::Terminal(ours), streams));
    }
    let mut streams = Streams::none()?;
    let (output, theirs) = io::pipe()?;
    streams.output = theirs.into();
    let (error, theirs) = io::pipe()?;
    streams.error = theirs.into();
    let mut input = None;
    if wish.stdin {
        let (theirs, ours) = io::pipe()?;
        streams.input = theirs.into();
        input = Some(pipe::Sender::from_owned_fd(ours.into())?);
    }
    let (output, error) = (pipe::Receiver::from_owned_fd(output.into())?, pipe::Receiver::from_owned_fd(error.into())?);
    Ok((Ends::Pipes { input, output, error }, streams))
}

/// Carries the streams until the command has ended or the other side is gone.
async fn carry(
    process: EndOnDrop,
    ends: Ends,
    reader: impl AsyncRead + Unpin + Send + 'static,
    mut writer: impl AsyncWrite + Unpin + Send + 'static,
) {
    let (frames, mut outgoing) = mpsc::channel::<(u8, Vec<u8>)>(16);
    let send = tokio::spawn(async move {
        while let Some((channel, data)) = outgoing.recv().await {
            if write_frame(&mut writer, channel, &data).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    });
    let mut outputs = tokio::task::JoinSet::new();
    let mut incoming = match ends {
        Ends::Terminal(terminal) => {
            let (sizes, mut resized) = mpsc::channel::<(u16, u16)>(4);
            let (typed, mut keys) = mpsc::channel::<Vec<u8>>(16);
            let frames = frames.clone();
            outputs.spawn(async move {
                let mut terminal = terminal;
                let mut buffer = vec![0; PIECE];
                loop {
                    tokio::select! {
                        read = terminal.read(&mut buffer) => match read {
                            Ok(length) if length > 0 => {
                                if frames.send((STDOUT, buffer[..length].to_vec())).await.is_err() { return }
                            }
                            _ => return,
                        },
                        Some((width, height)) = resized.recv() => drop(terminal.resize(width, height)),
                        Some(bytes) = keys.recv() => if terminal.write_all(&bytes).await.is_err() { return },
                    }
                }
            });
            tokio::spawn(take(reader, typed, Some(sizes), true))
        }
        Ends::Pipes { input, output, error } => {
            outputs.spawn(forward(output, STDOUT, frames.clone()));
            outputs.spawn(forward(error, STDERR, frames.clone()));
            let (typed, mut keys) = mpsc::channel::<Vec<u8>>(16);
            tokio::spawn(async move {
                let Some(mut input) = input else { return };
                while let Some(bytes) = keys.recv().await {
                    if input.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(take(reader, typed, None, false))
        }
    };
    let exit = tokio::select! {
        exit = process.0.wait() => exit,
        // The other side is gone: nobody waits for the command any more.
        _ = &mut incoming => return,
    };
    let all = async { while outputs.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_OUTPUT, all).await;
    outputs.shutdown().await;
    let status = exit.map_or_else(|error| failure(&error.to_string()), ended);
    let _ = frames.send((STATUS, status.to_string().into_bytes())).await;
    drop(frames);
    let _ = send.await;
    incoming.abort();
}

async fn forward(mut from: pipe::Receiver, channel: u8, frames: mpsc::Sender<(u8, Vec<u8>)>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(length) = from.read(&mut buffer).await {
        if length == 0 || frames.send((channel, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

/// Reads frames until the connection ends. Ends early only if it is broken.
async fn take(
    mut reader: impl AsyncRead + Unpin,
    typed: mpsc::Sender<Vec<u8>>,
    sizes: Option<mpsc::Sender<(u16, u16)>>,
    terminal: bool,
) {
    let mut typed = Some(typed);
    while let Ok((channel, data)) = read_frame(&mut reader).await {
        match channel {
            STDIN => {
                if let Some(typed) = &typed {
                    let _ = typed.send(data).await;
                }
            }
            // On a terminal the end of input is a key of its own, Ctrl-D.
            CLOSE if data == [STDIN] && terminal => {
                if let Some(typed) = &typed {
                    let _ = typed.send(vec![4]).await;
                }
            }
            CLOSE if data == [STDIN] => typed = None,
            RESIZE => {
                let size = serde_json::from_slice::<Value>(&data).unwrap_or_default();
                let number = |name: &str| u16::try_from(size[name].as_u64().unwrap_or_default()).unwrap_or_default();
                if let Some(sizes) = &sizes {
                    let _ = sizes.send((number("Width"), number("Height"))).await;
                }
            }
            _ => {}
        }
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let channel = reader.read_u8().await?;
    let length = reader.read_u32().await?;
    if length > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut data = vec![0; length as usize];
    reader.read_exact(&mut data).await?;
    Ok((channel, data))
}

async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), channel: u8, data: &[u8]) -> io::Result<()> {
    let mut frame = BytesMut::with_capacity(data.len() + 5);
    frame.put_u8(channel);
    frame.put_u32(data.len() as u32);
    frame.extend_from_slice(data);
    writer.write_all(&frame).await?;
    writer.flush().await
}

/// The `Status` that `kubectl exec` takes its own exit code from.
fn ended(exit: Exit) -> Value {
    if exit == Exit::Code(0) {
        return json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success"});
    }
    let code = exit.code();
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn failure(message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "reason": "InternalError", "message": message, "code": 500,
    })
}

/// As a container runtime tells it: 127 for a program that is not there, 126 for one that cannot be executed.
fn not_started(error: &LaunchError) -> Value {
    let message = error.to_string();
    let code = if message.contains("Permission denied") { 126 } else { 127 };
    let mut status = ended(Exit::Code(code));
    status["message"] = format!("error executing command in container: {message}").into();
    status
}
