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

use std::ffi::CStr;
use std::io;
use std::ptr;

pub use tikv_jemallocator::Jemalloc as Allocator;

/// What jemalloc reads before it hands out its first byte; it takes the words one by one, and skips what it does not know.
///
/// - `narenas`: 4 for each processor of the *machine* by default, each with memory of its own to hoard. A proxy has one or
///   two threads that work.
/// - `thp`: a huge page for a few small objects is what made idle proxies large elsewhere.
/// - `dirty_decay_ms`: how long freed pages wait for another use before the kernel gets them back.
/// - `muzzy_decay_ms`: at once, and not only when the kernel runs short (`MADV_FREE`): what people see is resident memory.
/// - `cache_oblivious`: one more page for each allocation of 16 KiB and more, which is what buffers are.
const CONFIGURATION: &CStr = c"narenas:2,thp:never,dirty_decay_ms:5000,muzzy_decay_ms:0,cache_oblivious:false";

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

/// Gives back all memory that was freed and not yet used again, without waiting for its time.
///
/// Errors: those of jemalloc's control interface, none of which are expected.
pub fn give_back() -> io::Result<()> {
    // What this thread keeps at hand for itself; other threads give theirs back as they go on.
    control(c"thread.tcache.flush")?;
    // 4096 is `MALLCTL_ARENAS_ALL`.
    control(c"arena.4096.purge")
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
        let (mut value, mut length) = (T::default(), size_of::<T>());
        // SAFETY: `value` has room for `length` bytes, and every bit pattern that jemalloc writes is one of the type: the
        // callers name the types that its manual does.
        let code = unsafe {
            tikv_jemalloc_sys::mallctl(name.as_ptr(), ptr::from_mut(&mut value).cast(), &mut length, ptr::null_mut(), 0)
        };
        assert_eq!((code, length), (0, size_of::<T>()), "{name:?}");
        value
    }

    #[test]
    fn the_configuration_is_read() {
        assert_eq!(option::<u32>(c"opt.narenas"), 2);
        assert_eq!(option::<isize>(c"opt.dirty_decay_ms"), 5000);
        assert_eq!(option::<isize>(c"opt.muzzy_decay_ms"), 0);
        assert_eq!(option::<u8>(c"opt.cache_oblivious"), 0);
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
