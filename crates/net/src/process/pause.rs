//! The pause process of a pod: it keeps the namespaces alive and reaps orphaned processes.

use std::process::ExitCode;

/// Runs until SIGTERM or SIGINT. To be called at the beginning of `main` if the first argument is [`super::PAUSE`].
///
/// It is process 1 of the pod's pid namespace: when it ends, the kernel kills all processes of the pod.
pub fn pause() -> ExitCode {
    let _ = rustix::thread::set_name(c"pause");
    let mut awaited = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set before it is read; this process has one thread.
    unsafe {
        libc::sigemptyset(awaited.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD] {
            libc::sigaddset(awaited.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, awaited.as_ptr(), std::ptr::null_mut());
    }
    loop {
        let mut signal = 0;
        // SAFETY: the set is initialised above, and `sigwait` writes the number before it returns success.
        if unsafe { libc::sigwait(awaited.as_ptr(), &raw mut signal) } != 0 {
            return ExitCode::FAILURE;
        }
        if signal != libc::SIGCHLD {
            return ExitCode::SUCCESS;
        }
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    }
}
