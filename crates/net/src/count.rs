//! An allocator that counts, for tests with limits on allocations.
//!
//! A test program uses it as its allocator and compares the counts before and after:
//!
//! ```standalone_crate
//! use isthmus_net::count::{self, Counting};
//!
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//!
//! let before = count::allocations();
//! let boxed = Box::new([0_u8; 100]);
//! let made = count::allocations() - before;
//! assert_eq!((made.calls, made.bytes), (1, 100));
//! # drop(boxed);
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);

/// The system's allocator with counters over all threads.
#[derive(Debug, Clone, Copy)]
pub struct Counting;

/// The allocations since the start of the program; frees are not subtracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocations {
    /// The number of allocations and reallocations.
    pub calls: u64,
    /// The number of allocated bytes; a reallocation counts its growth.
    pub bytes: u64,
}

impl Sub for Allocations {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { calls: self.calls - before.calls, bytes: self.bytes - before.bytes }
    }
}

/// Returns the allocations so far, if [`Counting`] is the allocator.
pub fn allocations() -> Allocations {
    Allocations { calls: CALLS.load(Relaxed), bytes: BYTES.load(Relaxed) }
}

/// Returns the number of bytes that are allocated now, if [`Counting`] is the allocator.
pub fn live() -> u64 {
    BYTES.load(Relaxed).saturating_sub(FREED.load(Relaxed))
}

fn freed(bytes: usize) {
    FREED.fetch_add(bytes as u64, Relaxed);
}

fn count(bytes: usize) {
    CALLS.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes as u64, Relaxed);
}

// SAFETY: every call is forwarded to `System` with the same arguments, so its guarantees hold; counting updates three
// atomics and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller meets the requirements on `layout`, which are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.saturating_sub(layout.size()));
        freed(layout.size().saturating_sub(size));
        // SAFETY: one of these functions allocated `block` from `System` with this layout.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        freed(layout.size());
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
