//! Registrations by the memory they are of: what is registered is not registered again while it is.
//!
//! Pure bookkeeping over whatever a device gives for memory. A registration is shared by all that use a part of its
//! memory with the same rights, and kept by them alone: memory that nobody uses may be anybody's by the time it is used
//! again, so nothing is remembered of it.

use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Some memory, and what peers may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span<R> {
    /// The address of the first byte.
    pub(crate) start: usize,
    /// How many bytes.
    pub(crate) len: usize,
    /// What peers may do: no more than what they were given for this memory.
    pub(crate) rights: R,
}

/// What is registered now.
#[derive(Debug)]
pub(crate) struct Cache<R, T> {
    live: Mutex<Vec<(Span<R>, Weak<T>)>>,
}

impl<R: Copy + Eq, T> Cache<R, T> {
    pub(crate) const fn new() -> Self {
        Self { live: Mutex::new(Vec::new()) }
    }

    /// The registration of memory that `wanted` is a part of; a new one where there is none.
    pub(crate) fn get(
        &self,
        wanted: Span<R>,
        register: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<Arc<T>> {
        let mut live = self.live.lock();
        let holds = |span: &Span<R>| span.contains(&wanted);
        let known = live.iter().filter(|(span, _)| holds(span)).find_map(|(_, known)| known.upgrade());
        if let Some(known) = known {
            return Ok(known);
        }
        live.retain(|(_, known)| known.strong_count() > 0);
        let made = Arc::new(register()?);
        live.push((wanted, Arc::downgrade(&made)));
        Ok(made)
    }
}

impl<R: Eq> Span<R> {
    fn contains(&self, other: &Self) -> bool {
        let from = other.start.checked_sub(self.start);
        let room = from.and_then(|from| self.len.checked_sub(from));
        self.rights == other.rights && room.is_some_and(|room| other.len <= room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: usize, len: usize, rights: char) -> Span<char> {
        Span { start, len, rights }
    }

    /// Registers, and counts how often.
    fn get(cache: &Cache<char, usize>, wanted: Span<char>, count: &mut usize) -> Arc<usize> {
        let made = cache.get(wanted, || {
            *count += 1;
            Ok(*count)
        });
        made.expect("it is registered")
    }

    #[test]
    fn memory_within_what_is_registered_is_not_registered_again() {
        let (cache, mut count) = (Cache::new(), 0);
        let _whole = get(&cache, span(1000, 500, 'w'), &mut count);
        for part in [span(1000, 500, 'w'), span(1200, 300, 'w'), span(1499, 1, 'w')] {
            assert_eq!(*get(&cache, part, &mut count), 1, "{part:?}");
        }
        for outside in [span(999, 2, 'w'), span(1499, 2, 'w'), span(usize::MAX, 1, 'w')] {
            assert_ne!(*get(&cache, outside, &mut count), 1, "{outside:?}");
        }
    }

    #[test]
    fn a_registration_with_other_rights_is_not_shared() {
        let (cache, mut count) = (Cache::new(), 0);
        let _writable = get(&cache, span(0, 100, 'w'), &mut count);
        assert_eq!(*get(&cache, span(0, 100, 'r'), &mut count), 2);
    }

    #[test]
    fn what_nobody_uses_any_more_is_forgotten() {
        let (cache, mut count) = (Cache::new(), 0);
        drop(get(&cache, span(0, 100, 'w'), &mut count));
        assert_eq!(*get(&cache, span(0, 100, 'w'), &mut count), 2);
        assert_eq!(cache.live.lock().len(), 1, "and takes no room");
    }

    #[test]
    fn a_device_that_refuses_leaves_nothing_behind() {
        let cache: Cache<char, usize> = Cache::new();
        assert!(cache.get(span(0, 1, 'w'), || Err(io::ErrorKind::OutOfMemory.into())).is_err());
        assert!(cache.live.lock().is_empty());
    }
}
