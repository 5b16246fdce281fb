//! The memory allocator of the programs: jemalloc, configured for a proxy that shares a machine with its application.
//! Reasons and measurements: docs/decisions/allocator.md.
//!
//! A program uses it with two lines in its `main.rs`:
//!
//! ```
//! # use isthmus_net as net;
//! #[global_allocator]
//! static ALLOCATOR: net::Allocator = net::Allocator;
//! # fn main() {}
//! ```

use std::cell::Cell;
use std::ffi::CStr;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

pub use tikv_jemallocator::Jemalloc as Allocator;

/// The configuration, which jemalloc reads before its first allocation. It ignores settings that it does not know.
///
/// - `narenas`: the number of arenas. The default is 4 for each processor of the *machine*, and each arena retains
///   memory. A proxy has one or two worker threads.
/// - `thp`: no transparent huge pages, since a huge page for a few small objects makes an idle proxy large.
/// - `dirty_decay_ms`: how long freed pages wait for reuse before they are returned to the kernel.
/// - `muzzy_decay_ms`: pages are returned at once, and not only when the kernel runs short (`MADV_FREE`), so that
///   resident memory is the memory in use.
/// - `cache_oblivious`: large allocations start anywhere in a page, which costs a page each. On AMD's Zen 3, `rep
///   movsb`, with which the C library copies from 2 KiB on, is thirty times slower if the destination is up to 64 bytes
///   further into its page than the source. A TLS record's payload, five bytes into its buffer, encrypted from a buffer
///   that starts at a page, is such a copy.
const CONFIGURATION: &CStr = c"narenas:2,thp:never,dirty_decay_ms:5000,muzzy_decay_ms:0,cache_oblivious:true";

/// A pointer to a constant string.
#[repr(transparent)]
struct ConstantString(*const std::ffi::c_char);

// SAFETY: the string is never written.
unsafe impl Sync for ConstantString {}

/// The name by which jemalloc finds its configuration (`malloc_conf` in its manual, with the prefix of this build).
// SAFETY: the only other definition of this name is jemalloc's weak one, which this definition replaces. The type is
// that of jemalloc's declaration: `const char *`.
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: ConstantString = ConstantString(CONFIGURATION.as_ptr());

/// The number of purges so far.
static PURGES: AtomicU32 = AtomicU32::new(0);

/// Returns all free memory to the kernel without waiting for its decay, except the thread caches of other threads,
/// which they flush when they next wait ([`before_waiting`]).
///
/// # Errors
/// Returns the errors of jemalloc's control interface, none of which are expected.
pub fn purge() -> io::Result<()> {
    PURGES.fetch_add(1, Ordering::Relaxed);
    control(c"thread.tcache.flush")?;
    // 4096 is `MALLCTL_ARENAS_ALL`.
    control(c"arena.4096.purge")
}

/// Flushes the calling thread's cache once after each [`purge`]. To be called by a thread that is about to wait: after
/// a burst its cache may hold a megabyte of small allocations, whose pages cannot be returned.
pub fn before_waiting() {
    thread_local! {
        static FLUSHED_AT: Cell<u32> = const { Cell::new(0) };
    }
    let purges = PURGES.load(Ordering::Relaxed);
    if FLUSHED_AT.replace(purges) != purges {
        // Fails if the thread has no cache.
        let _ = control(c"thread.tcache.flush");
    }
}

/// Gives the calling thread an arena of its own and disables its cache: for a thread that keeps long-lived records
/// while other threads allocate for a short time. In a shared arena these records would be scattered over pages that
/// are mostly free and cannot be returned.
///
/// # Errors
/// Returns an error of jemalloc's control interface; only a lack of memory is expected.
pub fn keep_apart() -> io::Result<()> {
    let mut arena: std::ffi::c_uint = 0;
    exchange(c"arenas.create", Some(&mut arena), None)?;
    exchange(c"thread.arena", None, Some(&mut arena))?;
    // With a cache, this thread would reuse memory of other arenas that it frees.
    exchange(c"thread.tcache.enabled", None, Some(&mut false))
}

/// Reads and writes a setting of jemalloc. The type must be the one that jemalloc's manual states.
fn exchange<T: Copy>(name: &CStr, old: Option<&mut T>, new: Option<&mut T>) -> io::Result<()> {
    let (mut length, mut new_length) = (size_of::<T>(), 0);
    let new = new.map_or(ptr::null_mut(), |new| {
        new_length = size_of::<T>();
        ptr::from_mut(new).cast()
    });
    let (old, length) = match old {
        Some(old) => (ptr::from_mut(old).cast(), ptr::from_mut(&mut length)),
        None => (ptr::null_mut(), ptr::null_mut()),
    };
    // SAFETY: the name is NUL-terminated, `old` has room for `length` bytes, and `new` has `new_length` bytes.
    let code = unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), old, length, new, new_length) };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// Calls an action of jemalloc's control interface.
fn control(name: &CStr) -> io::Result<()> {
    // SAFETY: the name is NUL-terminated; null pointers mean that no value is read or written.
    let code =
        unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0) };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Allocator = Allocator;

    fn option<T: Copy + Default>(name: &CStr) -> T {
        let mut value = T::default();
        exchange(name, Some(&mut value), None).expect("an existing setting");
        value
    }

    #[test]
    fn a_thread_can_have_an_arena_of_its_own() {
        let arena = || option::<std::ffi::c_uint>(c"thread.arena");
        let before = option::<std::ffi::c_uint>(c"arenas.narenas");
        std::thread::spawn(move || {
            assert!(arena() < before);
            keep_apart().expect("existing settings");
            assert!(arena() >= before);
            assert_eq!(option::<u8>(c"thread.tcache.enabled"), 0);
            let kept: Vec<String> = (0..1000).map(|number| format!("number {number}")).collect();
            assert_eq!(kept[999], "number 999");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn jemalloc_reads_the_configuration() {
        assert_eq!(option::<u32>(c"opt.narenas"), 2);
        assert_eq!(option::<isize>(c"opt.dirty_decay_ms"), 5000);
        assert_eq!(option::<isize>(c"opt.muzzy_decay_ms"), 0);
        assert_eq!(option::<u8>(c"opt.cache_oblivious"), 1);
    }

    #[test]
    fn freed_memory_is_returned_to_the_kernel() {
        const MANY: usize = 64 << 20;
        let blocks: Vec<Vec<u8>> = (0..MANY >> 16).map(|_| vec![1; 1 << 16]).collect();
        let before = crate::memory::resident().expect("/proc");
        drop(blocks);
        purge().expect("existing settings");
        let after = crate::memory::resident().expect("/proc");
        assert!(before > after + MANY / 2, "{before} bytes resident, then {after}");
    }
}
