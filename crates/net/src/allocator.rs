//! The memory allocator of the programs: jemalloc, set up for a proxy that shares a machine with what it serves.
//!
//! A program takes it with two lines in its `main.rs`:
//!
//! ```
//! # use isthmus_net as net;
//! #[global_allocator]
//! static ALLOCATOR: net::Allocator = net::Allocator;
//! # fn main() {}
//! ```
//!
//! Measured on two processors in November 2026, of two sidecars between 256 HTTP/1.1 connections (100 µs of processor time
//! per request and pair, of which what the allocator takes could not be told from noise):
//!
//! | allocator | anonymous memory of a sidecar at rest | two minutes after the burst, with all connections closed |
//! | --- | --- | --- |
//! | glibc 2.36 | 2.1 MiB | 19 MiB, after two minutes |
//! | jemalloc 5.3 | 2.8 MiB | 5 to 6 MiB |
//! | mimalloc 2.0, 3.x | 3.1 MiB, 19 MiB | 13 to 17 MiB |

use std::cell::Cell;
use std::ffi::CStr;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

pub use tikv_jemallocator::Jemalloc as Allocator;

/// What jemalloc reads before it hands out its first byte; it takes the words one by one, and skips what it does not know.
///
/// - `narenas`: 4 for each processor of the *machine* by default, each with memory of its own to hoard. A proxy has one or
///   two threads that work.
/// - `thp`: a huge page for a few small objects is what made idle proxies large elsewhere.
/// - `dirty_decay_ms`: how long freed pages wait for another use before the kernel gets them back.
/// - `muzzy_decay_ms`: at once, and not only when the kernel runs short (`MADV_FREE`): what people see is resident memory.
/// - `cache_oblivious`: large allocations do not begin at a page's first byte, but somewhere in it. That takes a page more
///   each, and is worth it: `rep movsb`, with which the C library copies from 2 KiB on, is thirty times slower on AMD's Zen 3
///   where the destination is up to 64 bytes further into its page than the source is into its own. A TLS record's
///   payload, five bytes into its buffer, sealed from a buffer that begins with its page, is just that.
const CONFIGURATION: &CStr = c"narenas:2,thp:never,dirty_decay_ms:5000,muzzy_decay_ms:0,cache_oblivious:true";

/// A pointer to constant text.
#[repr(transparent)]
struct Text(*const std::ffi::c_char);

// SAFETY: what it points to is never written.
unsafe impl Sync for Text {}

/// The name by which jemalloc finds its configuration (`malloc_conf` in its manual, with the prefix of this build).
// SAFETY: nothing else in the program has this name but jemalloc's own weak definition, which this one is meant to replace,
// and it is of the type that jemalloc declares: `const char *`.
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: Text = Text(CONFIGURATION.as_ptr());

/// How often memory was given back so far.
static GIVEN_BACK: AtomicU32 = AtomicU32::new(0);

/// Gives back all memory that was freed and not yet used again, without waiting for its time: but for what other threads keep
/// at hand for themselves, which they let go of when they next wait ([`before_waiting`]).
///
/// Errors: those of jemalloc's control interface, none of which are expected.
pub fn give_back() -> io::Result<()> {
    GIVEN_BACK.fetch_add(1, Ordering::Relaxed);
    control(c"thread.tcache.flush")?;
    // 4096 is `MALLCTL_ARENAS_ALL`.
    control(c"arena.4096.purge")
}

/// To be called by a thread that is about to wait: after a burst it may keep a megabyte of small pieces at hand, and the pages
/// that they lie in from being given back.
pub fn before_waiting() {
    thread_local! {
        static SEEN: Cell<u32> = const { Cell::new(0) };
    }
    let given_back = GIVEN_BACK.load(Ordering::Relaxed);
    if SEEN.replace(given_back) != given_back {
        // Refused where the thread keeps nothing at hand.
        let _ = control(c"thread.tcache.flush");
    }
}

/// Gives this thread memory of its own to allocate from, and has it keep nothing at hand of what it frees: for one that holds
/// for long what it makes of what others hand it in passing. Otherwise what stays lies scattered among what has gone, in pages
/// that are mostly empty and cannot be given back.
///
/// Errors: those of jemalloc's control interface, none of which are expected but a shortage of memory.
pub fn keep_apart() -> io::Result<()> {
    let mut arena: std::ffi::c_uint = 0;
    exchange(c"arenas.create", Some(&mut arena), None)?;
    exchange(c"thread.arena", None, Some(&mut arena))?;
    // What it frees of other threads' memory it would use again itself.
    exchange(c"thread.tcache.enabled", None, Some(&mut false))
}

/// A control of jemalloc that returns a value, or takes one. The caller names the type that jemalloc's manual does.
fn exchange<T: Copy>(name: &CStr, old: Option<&mut T>, new: Option<&mut T>) -> io::Result<()> {
    let (mut length, mut given) = (size_of::<T>(), 0);
    let new = new.map_or(ptr::null_mut(), |new| {
        given = size_of::<T>();
        ptr::from_mut(new).cast()
    });
    let (old, length) = match old {
        Some(old) => (ptr::from_mut(old).cast(), ptr::from_mut(&mut length)),
        None => (ptr::null_mut(), ptr::null_mut()),
    };
    // SAFETY: the name ends with a zero byte, `old` has room for `length` bytes, and `new` has the bytes that are said.
    let code = unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), old, length, new, given) };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// A control of jemalloc that takes and returns no value.
fn control(name: &CStr) -> io::Result<()> {
    // SAFETY: the name ends with a zero byte, and null pointers say that no value is read or written.
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
        exchange(name, Some(&mut value), None).expect("a control that jemalloc has");
        value
    }

    #[test]
    fn a_thread_may_have_memory_of_its_own() {
        let arena = || option::<std::ffi::c_uint>(c"thread.arena");
        let before = option::<std::ffi::c_uint>(c"arenas.narenas");
        std::thread::spawn(move || {
            assert!(arena() < before);
            keep_apart().expect("controls that jemalloc has");
            assert!(arena() >= before);
            assert_eq!(option::<u8>(c"thread.tcache.enabled"), 0);
            let kept: Vec<String> = (0..1000).map(|number| format!("number {number}")).collect();
            assert_eq!(kept[999], "number 999");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_configuration_is_read() {
        assert_eq!(option::<u32>(c"opt.narenas"), 2);
        assert_eq!(option::<isize>(c"opt.dirty_decay_ms"), 5000);
        assert_eq!(option::<isize>(c"opt.muzzy_decay_ms"), 0);
        assert_eq!(option::<u8>(c"opt.cache_oblivious"), 1);
    }

    #[test]
    fn what_was_freed_is_given_back() {
        const MANY: usize = 64 << 20;
        let blocks: Vec<Vec<u8>> = (0..MANY >> 16).map(|_| vec![1; 1 << 16]).collect();
        let before = crate::memory::resident().expect("/proc");
        drop(blocks);
        give_back().expect("controls that jemalloc has");
        let after = crate::memory::resident().expect("/proc");
        assert!(before > after + MANY / 2, "{before} bytes resident, then {after}");
    }
}
