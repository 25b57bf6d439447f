//! An allocator that counts.
#![expect(unsafe_code, reason = "a global allocator cannot be made without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

/// Returns the bytes that this thread has asked for since its start, given back or not: the test
/// harness has threads of its own.
pub(crate) fn asked() -> u64 {
    ASKED.with(Cell::get)
}

struct Counting;

// SAFETY: all is the system allocator's; counting touches no memory of its callers.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: what the caller promises is passed on as it is.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has none any more.
        let _ = ASKED.try_with(|asked| asked.set(asked.get() + layout.size() as u64));
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
