//! The launcher: starts the start helper, sends it instructions and receives its reports.

use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;

use super::{ENTER, Launch, LaunchError, Process, Streams, watch};
use crate::namespace::{NamespaceError, process_handle};

/// Starts a process and returns when its program runs. The kernel kills the process when the calling process ends.
///
/// # Errors
/// Returns [`LaunchError::Refused`] with the reason if the program, directory or user is invalid.
pub async fn launch(launch: Launch, streams: Streams) -> Result<Process, LaunchError> {
    let started = tokio::task::spawn_blocking(move || start(&launch, streams));
    let (pid, handle) = started.await.map_err(|error| LaunchError::System {
        action: "wait for a process to start",
        source: io::Error::other(error),
    })??;
    let handle = watch(handle, Interest::READABLE).map_err(system("watch a process"))?;
    Ok(Process { pid, handle })
}

fn start(launch: &Launch, streams: Streams) -> Result<(u32, OwnedFd), LaunchError> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| system("create a socket")(error.into()))?;
    let mut helper = spawn(theirs)?;
    let instructed = instruct(&ours, launch, &streams);
    drop(streams);
    let report = instructed.and_then(|()| receive_report(&ours));
    // The helper has forked or failed, and exits.
    let _ = helper.wait();
    let report = report?;
    let pid = report.pid.ok_or_else(|| {
        LaunchError::Refused(report.failure.clone().unwrap_or_else(|| "the start helper ended unexpectedly".into()))
    })?;
    let handle =
        process_handle(pid).map_err(|error: NamespaceError| system("open a process")(io::Error::other(error)))?;
    match report.failure {
        None => Ok((pid, handle)),
        Some(failure) => {
            // The process has ended, so its exit status must be taken here.
            let _ = rustix::process::waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED);
            Err(LaunchError::Refused(failure))
        }
    }
}

/// Starts the helper on a thread that lives as long as the process: the kernel delivers `PDEATHSIG` when the *thread*
/// that started a child ends.
fn spawn(socket: OwnedFd) -> Result<std::process::Child, LaunchError> {
    type SpawnRequest = (OwnedFd, mpsc::SyncSender<io::Result<std::process::Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<SpawnRequest>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<SpawnRequest>();
        let run = move || {
            for (socket, started) in requests {
                let mut command = Command::new("/proc/self/exe");
                command.arg(ENTER).env_clear().stdin(socket).stdout(Stdio::null()).stderr(Stdio::inherit());
                let _ = started.send(command.spawn());
            }
        };
        // If the thread cannot be started, the request below fails, which is reported.
        let _ = std::thread::Builder::new().name("spawner".into()).spawn(run);
        sender
    });
    let (sender, started) = mpsc::sync_channel(1);
    let ended = || io::Error::other("the spawner thread has ended");
    spawner.send((socket, sender)).map_err(|_| system("start a process")(ended()))?;
    started.recv().map_err(|_| system("start a process")(ended()))?.map_err(system("start a process"))
}

/// Sends the instructions and the open files. The instructions are a memory file, as they may be large.
fn instruct(socket: &OwnedFd, launch: &Launch, streams: &Streams) -> Result<(), LaunchError> {
    let text = serde_json::to_vec(launch).map_err(|error| system("write instructions")(error.into()))?;
    let memory = rustix::fs::memfd_create("launch", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|error| system("create a memory file")(error.into()))?;
    let mut file = std::fs::File::from(memory);
    file.write_all(&text).map_err(system("write instructions"))?;
    let mut files = vec![file.as_fd(), streams.input.as_fd(), streams.output.as_fd(), streams.error.as_fd()];
    files.extend(streams.of.as_ref().map(OwnedFd::as_fd));
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    rustix::net::sendmsg(socket, &[IoSlice::new(b"launch")], &mut control, SendFlags::NOSIGNAL)
        .map_err(|error| system("instruct the start helper")(error.into()))?;
    Ok(())
}

/// A report of the helper, or of the process that it forked.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct StartReport {
    pub(super) pid: Option<u32>,
    pub(super) failure: Option<String>,
}

/// Receives reports until the socket closes, which happens when the program is executed or the start has failed.
fn receive_report(socket: &OwnedFd) -> Result<StartReport, LaunchError> {
    let mut whole = StartReport::default();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let (length, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty()))
                .map_err(|error| system("receive from the start helper")(error.into()))?;
        if length == 0 {
            return Ok(whole);
        }
        let part: StartReport = serde_json::from_slice(&buffer[..length])
            .map_err(|error| system("parse the report of the start helper")(error.into()))?;
        whole.pid = whole.pid.or(part.pid);
        whole.failure = whole.failure.or(part.failure);
    }
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::System { action, source }
}
