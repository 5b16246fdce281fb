//! Counts what a program allocates, for tests that bound it.
//!
//! A test program makes it its allocator and reads the counts before and after:
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

/// The system's allocator, counted over all threads.
#[derive(Debug, Clone, Copy)]
pub struct Counting;

/// What was allocated since the program began; freeing does not lessen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocations {
    /// Times that memory was asked for, growing included.
    pub calls: u64,
    /// How much in all; of growing, the growth.
    pub bytes: u64,
}

impl Sub for Allocations {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { calls: self.calls - before.calls, bytes: self.bytes - before.bytes }
    }
}

/// What was allocated so far, where [`Counting`] is the allocator.
pub fn allocations() -> Allocations {
    Allocations { calls: CALLS.load(Relaxed), bytes: BYTES.load(Relaxed) }
}

/// Bytes that are allocated now, where [`Counting`] is the allocator.
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

// SAFETY: every call goes to `System` with the arguments that came, so its guarantees are kept; counting touches three
// atomics and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises about `layout` are those that `System` asks for.
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
        // SAFETY: `block` came from `System` with this layout, through one of these functions.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        freed(layout.size());
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
