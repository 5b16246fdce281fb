//! The first process of a pod: holds its namespaces, takes the exit status of orphans, ends when told to.

use std::process::ExitCode;

/// Runs until SIGTERM or SIGINT. Call it first thing in `main` when the first argument is [`super::PAUSE`].
///
/// As process 1 of a pid namespace its end ends every process of the pod.
pub fn pause() -> ExitCode {
    let _ = rustix::thread::set_name(c"pause");
    let mut awaited = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised by `sigemptyset` before anything reads it; this process has one thread.
    unsafe {
        libc::sigemptyset(awaited.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD] {
            libc::sigaddset(awaited.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, awaited.as_ptr(), std::ptr::null_mut());
    }
    loop {
        let mut signal = 0;
        // SAFETY: the set was initialised above; the number is written before success is returned.
        if unsafe { libc::sigwait(awaited.as_ptr(), &raw mut signal) } != 0 {
            return ExitCode::FAILURE;
        }
        if signal != libc::SIGCHLD {
            return ExitCode::SUCCESS;
        }
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    }
}
