//! An allocator that counts.
#![expect(unsafe_code, reason = "a global allocator cannot be made without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that were asked for since the start, given back or not.
pub(crate) static ASKED: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: all is the system allocator's; counting touches no memory of its callers.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: what the caller promises is passed on as it is.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: what the caller promises is passed on as it is.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: it came from the same allocator, since `alloc` asked that one.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
