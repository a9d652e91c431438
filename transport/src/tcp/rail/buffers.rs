//! Lists of memory that one call of the system fills or empties.
//!
//! `IoSlice` and `IoSliceMut` are laid out as the system wants them, on every platform, so that a list serves a plain
//! call and an io_uring submission alike. They point into regions, frames and buffers that the rail that owns the list
//! keeps alive until the call, or the submission, has ended.

use std::io::{IoSlice, IoSliceMut};

use crate::RegionSlice;

/// Memory that is filled from a socket.
#[derive(Default)]
pub(in crate::tcp) struct Scatter(Vec<IoSliceMut<'static>>);

/// Memory that a socket is given.
#[derive(Default)]
pub(in crate::tcp) struct Gather(Vec<IoSlice<'static>>);

impl Scatter {
    /// Empties the list.
    pub(in crate::tcp) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds part of a region.
    pub(in crate::tcp) fn region(&mut self, slice: &RegionSlice) {
        // SAFETY: the memory is valid for as long as the slice, which the rail keeps; regions are reached through raw
        // pointers only, so that no other reference to it exists.
        self.0.push(IoSliceMut::new(unsafe { std::slice::from_raw_parts_mut(slice.as_ptr(), slice.len()) }));
    }

    /// Adds a buffer.
    ///
    /// # Safety
    /// The buffer must stay where it is and must not be touched until the list has been used and cleared.
    pub(in crate::tcp) unsafe fn buffer(&mut self, buffer: &mut [u8]) {
        if !buffer.is_empty() {
            // SAFETY: by this function's contract.
            self.0.push(IoSliceMut::new(unsafe {
                std::slice::from_raw_parts_mut(buffer.as_mut_ptr(), buffer.len())
            }));
        }
    }

    /// As the system takes it.
    pub(in crate::tcp) fn list(&mut self) -> &mut [IoSliceMut<'static>] {
        &mut self.0
    }

    /// How many bytes fit.
    pub(in crate::tcp) fn bytes(&self) -> usize {
        self.0.iter().map(|part| part.len()).sum()
    }
}

impl Gather {
    /// Empties the list.
    pub(in crate::tcp) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether it can take more entries.
    pub(in crate::tcp) fn has_room(&self) -> bool {
        self.0.len() < MOST
    }

    /// Adds part of a region.
    pub(in crate::tcp) fn region(&mut self, slice: &RegionSlice) {
        // SAFETY: the memory is valid for as long as the slice, which the rail keeps; while it is read nobody may
        // write to it (`Transport::write`).
        self.0.push(IoSlice::new(unsafe { std::slice::from_raw_parts(slice.as_ptr(), slice.len()) }));
    }

    /// Adds a buffer.
    ///
    /// # Safety
    /// The buffer must stay where it is and must not change until the list has been used and cleared.
    pub(in crate::tcp) unsafe fn buffer(&mut self, buffer: &[u8]) {
        if !buffer.is_empty() {
            // SAFETY: by this function's contract.
            self.0.push(IoSlice::new(unsafe { std::slice::from_raw_parts(buffer.as_ptr(), buffer.len()) }));
        }
    }

    /// As the system takes it.
    pub(in crate::tcp) fn list(&self) -> &[IoSlice<'static>] {
        &self.0
    }

    /// How many bytes there are.
    pub(in crate::tcp) fn bytes(&self) -> usize {
        self.0.iter().map(|part| part.len()).sum()
    }
}

/// A frame of most runs and its neighbours; every system allows 1024.
const MOST: usize = 128;
