//! Memory the loops work in: scratch of each thread, and outputs that several tasks fill.
//!
//! Scratch is kept from call to call, because a decode step would otherwise allocate hundreds of times. Knows no
//! kernel: each decides how much it needs, and which task writes which part.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

/// A buffer of this thread's `f32`, returned to it on drop: for what one kernel leaves to the next.
///
/// Holds whatever was left in it, and begins at a cache line: vector loads that straddle two lines run at half
/// speed.
#[derive(Debug)]
pub struct Scratch {
    buffer: Vec<Line>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Scratch {
    /// A buffer of `len` values.
    pub fn new(len: usize) -> Self {
        let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        if buffer.len() < len.div_ceil(16) {
            buffer.resize(len.div_ceil(16), Line([0.0; 16]));
        }
        Self { buffer, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // Fails only while the thread ends, when there is nobody to keep it for.
        let _ = FREE.try_with(|free| free.borrow_mut().push(buffer));
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        debug_assert!(self.len <= self.buffer.len() * 16);
        // SAFETY: a `Line` is 16 floats and nothing else, and `new` made enough of them.
        unsafe { std::slice::from_raw_parts(self.buffer.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        debug_assert!(self.len <= self.buffer.len() * 16);
        // SAFETY: a `Line` is 16 floats and nothing else, and `new` made enough of them.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.as_mut_ptr().cast(), self.len) }
    }
}

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// A slice whose parts are written by different tasks.
pub(crate) struct Disjoint<'a, T = f32> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through the unsafe methods below, whose callers promise that no two threads touch
// the same element.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// # Safety
    /// `range` is in bounds and overlaps nothing another task uses.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }

    /// # Safety
    /// `index` is in bounds; what is written through the pointer no other task uses.
    #[inline(always)]
    pub(crate) unsafe fn at(&self, index: usize) -> *mut T {
        debug_assert!(index <= self.len);
        // SAFETY: promised by the caller.
        unsafe { self.start.add(index) }
    }
}
