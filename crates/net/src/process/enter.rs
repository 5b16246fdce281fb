//! The start helper between [`super::launch`] and the program. It has a single thread, so that it may fork and change
//! its namespaces.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::CapabilitySet;

use super::launch::StartReport;
use super::{Launch, Program, User};
use crate::namespace::{Namespaces, join, unshare};

/// Runs the start helper. To be called at the beginning of `main` if the first argument is [`super::ENTER`].
pub fn enter() -> ExitCode {
    // The program needs standard input, so the socket gets another number.
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 10) else {
        eprintln!("this command is internal to labs and cannot be used directly");
        return ExitCode::from(2);
    };
    match prepare(&socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&socket, &StartReport { pid: None, failure: Some(failure) });
            ExitCode::FAILURE
        }
    }
}

fn report(socket: &OwnedFd, report: &StartReport) {
    let text = serde_json::to_vec(report).expect("a number and a text are valid JSON");
    // If the launcher has ended, no process needs the report.
    let _ = rustix::net::send(socket, &text, SendFlags::NOSIGNAL);
}

/// Receives the instructions, enters the namespaces and forks. Returns in the helper; the fork executes the program or
/// exits.
fn prepare(socket: &OwnedFd) -> Result<(), String> {
    let (launch, files) = receive(socket)?;
    let own = match launch.program {
        Program::Own => {
            Some(File::open("/proc/self/exe").map_err(|error| format!("cannot open this executable: {error}"))?)
        }
        Program::Named(_) => None,
    };
    let [input, output, error] = &files[..3] else { return Err("received too few open files".into()) };
    if launch.join != Namespaces::default() {
        let process = files.get(3).ok_or("the process whose namespaces to join is missing")?;
        join(process.as_fd(), launch.join).map_err(|error| error.to_string())?;
    }
    if launch.make != Namespaces::default() {
        unshare(launch.make).map_err(|error| error.to_string())?;
    }
    rustix::stdio::dup2_stdin(input)
        .and_then(|()| rustix::stdio::dup2_stdout(output))
        .and_then(|()| rustix::stdio::dup2_stderr(error))
        .map_err(|error| format!("cannot set up the standard streams: {error}"))?;
    drop(files);

    // SAFETY: this process has one thread, so the child's memory is consistent. `CLONE_PARENT` makes the launcher the
    // child's parent; without a stack argument the child continues on a copy of this stack, as after fork.
    let forked = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
    match forked {
        -1 => Err(format!("cannot fork: {}", io::Error::last_os_error())),
        0 => {
            let failure = become_program(&launch, own, socket).expect_err("success does not return");
            report(socket, &StartReport { pid: None, failure: Some(failure) });
            // SAFETY: `_exit` ends the process at once, without running destructors of this copy.
            unsafe { libc::_exit(127) }
        }
        pid => {
            report(socket, &StartReport { pid: u32::try_from(pid).ok(), failure: None });
            Ok(())
        }
    }
}

fn receive(socket: &OwnedFd) -> Result<(Launch, Vec<OwnedFd>), String> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0; 16];
    rustix::net::recvmsg(socket, &mut [io::IoSliceMut::new(&mut word)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|error| format!("cannot receive the instructions: {error}"))?;
    let mut files: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    if files.is_empty() {
        return Err("received no instructions".into());
    }
    let mut instructions = File::from(files.remove(0));
    let mut text = Vec::new();
    instructions.rewind().and_then(|()| instructions.read_to_end(&mut text)).map_err(|error| error.to_string())?;
    let launch = serde_json::from_slice(&text).map_err(|error| format!("cannot parse the instructions: {error}"))?;
    Ok((launch, files))
}

/// Executes the program in the new namespaces. Returns only on failure.
fn become_program(launch: &Launch, own: Option<File>, socket: &OwnedFd) -> Result<std::convert::Infallible, String> {
    let step = |what: &'static str| move |error: rustix::io::Errno| format!("cannot {what}: {error}");
    if let Some(tree) = &launch.file_tree {
        tree.enter().map_err(|error| error.to_string())?;
    }
    if let Some(name) = &launch.host_name {
        rustix::system::sethostname(name.as_bytes()).map_err(step("set the host name"))?;
    }
    rustix::process::setsid().map_err(step("start a session"))?;
    if launch.terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).map_err(step("take the terminal"))?;
    }
    if let Some(wanted) = launch.open_files {
        raise_open_files(wanted);
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Some(directory) = &launch.directory {
        // As in container runtimes, a working directory that does not exist is created, in the container's tree.
        if !directory.is_dir() {
            std::fs::create_dir_all(directory)
                .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
        }
        rustix::process::chdir(directory).map_err(|error| format!("cannot enter {}: {error}", directory.display()))?;
    }
    if let Some(user) = &launch.user {
        become_user(user)?;
    }
    reset_signals();
    // After the change of the user, which clears the signal.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(step("tie the process to its parent"))?;
    if launcher_has_ended(socket) {
        return Err("the launcher has ended".into());
    }
    // SAFETY: the call marks descriptors close-on-exec and closes none.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Err(execute(launch, own))
}

fn launcher_has_ended(socket: &OwnedFd) -> bool {
    let mut byte = [0; 1];
    matches!(rustix::net::recv(socket, &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK), Ok((0, _)))
}

fn raise_open_files(wanted: u64) {
    let now = rustix::process::getrlimit(Resource::Nofile);
    if now.current.is_some_and(|current| current < wanted) {
        let hard = Rlimit { current: Some(wanted), maximum: Some(now.maximum.map_or(wanted, |max| max.max(wanted))) };
        let soft = Rlimit { current: Some(now.maximum.map_or(wanted, |max| max.min(wanted))), maximum: now.maximum };
        // Without privilege the hard limit stays, and the soft limit is raised up to it.
        let _ = rustix::process::setrlimit(Resource::Nofile, hard)
            .or_else(|_| rustix::process::setrlimit(Resource::Nofile, soft));
    }
}

fn become_user(user: &User) -> Result<(), String> {
    use rustix::thread::{Gid, Uid};
    let step = |what: &'static str| move |error: rustix::io::Errno| format!("cannot {what} {}: {error}", user.uid);
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if (rustix::process::geteuid(), rustix::process::getegid()) == (uid, gid) && user.groups.is_empty() {
        // The process already runs as this user. In a user namespace there is no other user, and groups cannot be set.
        return Ok(());
    }
    let groups: Vec<_> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let mut kept = CapabilitySet::empty();
    if !uid.is_root() {
        for name in &user.capabilities {
            let plain = name.strip_prefix("CAP_").unwrap_or(name);
            kept |= CapabilitySet::from_name(plain).ok_or_else(|| format!("unknown capability {name:?}"))?;
        }
        rustix::thread::set_keep_capabilities(true).map_err(step("keep capabilities for user"))?;
    }
    rustix::thread::set_thread_groups(&groups).map_err(step("set the groups of user"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(step("set the group of user"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(step("become user"))?;
    if !kept.is_empty() {
        let sets = rustix::thread::CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
        rustix::thread::set_capabilities(None, sets).map_err(step("set the capabilities of user"))?;
        for capability in kept.iter() {
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .map_err(step("pass on a capability of user"))?;
        }
    }
    Ok(())
}

/// Resets signal dispositions and the signal mask: Rust programs ignore `SIGPIPE`, and a launcher may have blocked
/// signals.
fn reset_signals() {
    // SAFETY: the process has one thread, and `sigemptyset` initialises the set.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Executes the program. Returns the reason of the failure.
fn execute(launch: &Launch, own: Option<File>) -> String {
    let own_name = || "isthmus".to_owned();
    let name = match &launch.program {
        Program::Own => own_name(),
        Program::Named(name) => name.clone(),
    };
    let text = |text: &str| CString::new(text.as_bytes()).map_err(|_| format!("{text:?} contains a NUL"));
    let arguments: Result<Vec<_>, _> =
        std::iter::once(name.as_str()).chain(launch.arguments.iter().map(String::as_str)).map(text).collect();
    let environment: Result<Vec<_>, _> =
        launch.environment.iter().map(|(name, value)| text(&format!("{name}={value}"))).collect();
    let (arguments, environment) = match (arguments, environment) {
        (Ok(arguments), Ok(environment)) => (arguments, environment),
        (Err(error), _) | (_, Err(error)) => return error,
    };
    if let Some(own) = own {
        return format!("cannot execute this executable: {}", exec_file(&own, &arguments, &environment));
    }
    if name.contains('/') {
        return format!("exec: {name:?}: {}", exec_path(OsStr::new(&name), &arguments, &environment));
    }
    let path = launch.environment.iter().find(|(key, _)| key == "PATH").map_or("/usr/bin:/bin", |(_, value)| value);
    let mut reason = None;
    for directory in path.split(':').filter(|directory| !directory.is_empty()) {
        let error = exec_path(OsStr::new(&format!("{directory}/{name}")), &arguments, &environment);
        if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) {
            reason = Some(error);
        }
    }
    match reason {
        Some(error) => format!("exec: {name:?}: {error}"),
        None => format!("exec: {name:?}: executable file not found in $PATH"),
    }
}

fn exec_path(path: &OsStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let Ok(path) = CString::new(path.as_bytes()) else { return io::ErrorKind::InvalidInput.into() };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: all strings are NUL-terminated and both lists end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

fn exec_file(file: &File, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: as in `exec_path`. The empty path with `AT_EMPTY_PATH` refers to the open file itself, which works even
    // if the file is not in the new tree.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}
