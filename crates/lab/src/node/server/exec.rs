//! Commands in containers, with their streams in frames on one connection.
//!
//! A frame is one byte with the channel, four bytes with the length (big-endian), and the data. Channels: 0 to 2 are
//! the standard streams, 3 is the result (a `Status`), 4 is the size of the terminal (`{"Width":80,"Height":24}`), and
//! 255 with one byte of data closes the channel of that number.

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

use super::reply::{AgentBody, ErrorResponse, pod, read_body, upgraded};
use crate::node::exec::{EndOnDrop, start};
use crate::node::host::Host;

pub(super) const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
pub(super) const CLOSE: u8 = 255;
/// Largest accepted frame, in bytes.
const LARGEST: u32 = 1 << 20;
/// Bytes read from a stream at a time.
const PIECE: usize = 16 << 10;
/// How long output is read after the command has ended, while a process that it started keeps the stream open.
const LAST_OUTPUT: std::time::Duration = std::time::Duration::from_millis(500);

#[derive(Debug, Deserialize)]
struct ExecRequest {
    namespace: String,
    pod: String,
    container: String,
    command: Vec<String>,
    #[serde(default)]
    tty: bool,
    #[serde(default)]
    stdin: bool,
}

/// The agent's ends of a command's streams.
enum StreamEnds {
    Terminal(Terminal),
    Pipes { input: Option<pipe::Sender>, output: pipe::Receiver, error: pipe::Receiver },
}

pub(super) async fn serve(host: &Host, mut request: Request<Incoming>) -> Result<Response<AgentBody>, ErrorResponse> {
    let upgrade = hyper::upgrade::on(&mut request);
    let request_body: ExecRequest = read_body(request).await?;
    let pod = pod(host, &request_body.namespace, &request_body.pod)?;
    let live = pod.live(&request_body.container).ok_or_else(|| {
        ErrorResponse::bad(format!("container {:?} in pod {:?} does not run", request_body.container, request_body.pod))
    })?;
    let (ends, streams) =
        open(&request_body).map_err(|error| ErrorResponse::internal(format!("cannot open streams: {error}")))?;
    let started = start(&live, request_body.command, streams, request_body.tty).await;
    let tty = request_body.tty;
    tokio::spawn(async move {
        let Ok(connection) = upgrade.await else { return };
        let (reader, writer) = tokio::io::split(TokioIo::new(connection));
        match started {
            Ok(process) => carry(EndOnDrop(process), ends, reader, writer).await,
            Err(error) => {
                let mut writer = writer;
                // kubectl prints only the exit code of the status.
                let channel = if tty { STDOUT } else { STDERR };
                let _ = write_frame(&mut writer, channel, format!("{error}\n").as_bytes()).await;
                let _ = write_frame(&mut writer, STATUS, not_started(&error).to_string().as_bytes()).await;
                let _ = writer.shutdown().await;
            }
        }
    });
    Ok(upgraded())
}

fn open(request_body: &ExecRequest) -> io::Result<(StreamEnds, Streams)> {
    if request_body.tty {
        let (ours, theirs) = Terminal::open()?;
        let streams = Streams { input: theirs.try_clone()?, output: theirs.try_clone()?, error: theirs, of: None };
        return Ok((StreamEnds::Terminal(ours), streams));
    }
    let mut streams = Streams::none()?;
    let (output, theirs) = io::pipe()?;
    streams.output = theirs.into();
    let (error, theirs) = io::pipe()?;
    streams.error = theirs.into();
    let mut input = None;
    if request_body.stdin {
        let (theirs, ours) = io::pipe()?;
        streams.input = theirs.into();
        input = Some(pipe::Sender::from_owned_fd(ours.into())?);
    }
    let (output, error) = (pipe::Receiver::from_owned_fd(output.into())?, pipe::Receiver::from_owned_fd(error.into())?);
    Ok((StreamEnds::Pipes { input, output, error }, streams))
}

/// Copies the streams until the command ends or the client disconnects.
async fn carry(
    process: EndOnDrop,
    ends: StreamEnds,
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
        StreamEnds::Terminal(terminal) => {
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
        StreamEnds::Pipes { input, output, error } => {
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
        // The client has disconnected.
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

/// Reads frames until the connection ends or is broken.
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
            // On a terminal, the end of input is a key: Ctrl-D.
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

pub(super) async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
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

/// Returns the `Status` from which `kubectl exec` takes its exit code.
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

/// Returns the exit code of a container runtime: 127 for a missing program, 126 for one that cannot be executed.
fn not_started(error: &LaunchError) -> Value {
    let message = error.to_string();
    let code = if message.contains("Permission denied") { 126 } else { 127 };
    let mut status = ended(Exit::Code(code));
    status["message"] = format!("error executing command in container: {message}").into();
    status
}
