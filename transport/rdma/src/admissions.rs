//! Which of a peer's regions this end may use directly, and where they are: what their owner has said.
//!
//! Pure bookkeeping. A region is asked for once. When its owner withdraws it, nothing more is posted for it, and the
//! owner is told when nothing is on its way there any more.

use std::collections::{HashMap, VecDeque};

use mlxcel_transport::core::ProtocolError;
use mlxcel_transport::domain::Grant;
use mlxcel_transport::{Access, Denial};

use crate::verbs::Remote;
use crate::wire::Note;

/// What this end may do with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its owner has been asked.
    Waiting,
    /// It may be used like this.
    Direct(Place),
    /// No device reaches it.
    Packets,
    /// It may not be used.
    Refused(Denial),
}

/// Where a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) access: Access,
    start: u64,
    len: u64,
    key: u32,
}

impl Place {
    /// Where these bytes of it are, if it has as many.
    pub(crate) fn at(&self, offset: u64, len: u64) -> Result<Remote, Denial> {
        let within = offset.checked_add(len).is_some_and(|end| end <= self.len);
        // An owner may claim memory at the end of all addresses: that is wrong, and its own affair.
        let start = within.then(|| self.start.wrapping_add(offset)).ok_or(Denial::OutOfRange)?;
        Ok(Remote { start, key: self.key })
    }
}

#[derive(Debug)]
enum Entry {
    Asked,
    Direct { place: Place, on_their_way: u32, withdrawn: bool },
    Packets,
    Refused(Denial),
}

/// All that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Admissions {
    known: HashMap<Grant, Entry>,
}

impl Admissions {
    /// What may be done with a region; its owner is asked if that is not known.
    pub(crate) fn of(&mut self, grant: Grant, say: &mut VecDeque<Note>) -> Standing {
        match self.known.get(&grant) {
            Some(Entry::Asked) => Standing::Waiting,
            Some(Entry::Direct { withdrawn: true, .. }) => Standing::Refused(Denial::UnknownKey),
            Some(Entry::Direct { place, .. }) => Standing::Direct(*place),
            Some(Entry::Packets) => Standing::Packets,
            Some(Entry::Refused(denial)) => Standing::Refused(*denial),
            None => {
                if self.known.len() >= REMEMBERED {
                    self.known.retain(|_, entry| !matches!(entry, Entry::Refused(_) | Entry::Packets));
                }
                self.known.insert(grant, Entry::Asked);
                say.push_back(Note::Ask(grant));
                Standing::Waiting
            }
        }
    }

    /// Something goes to, or comes from, a region that may be used directly.
    pub(crate) fn begun(&mut self, grant: Grant) {
        if let Some(Entry::Direct { on_their_way, .. }) = self.known.get_mut(&grant) {
            *on_their_way += 1;
        }
    }

    /// It is not on its way any more.
    pub(crate) fn ended(&mut self, grant: Grant, say: &mut VecDeque<Note>) {
        if let Some(Entry::Direct { on_their_way, .. }) = self.known.get_mut(&grant) {
            *on_their_way -= 1;
        }
        self.release(grant, say);
    }

    /// The owner has answered.
    pub(crate) fn answered(&mut self, note: Note) -> Result<(), ProtocolError> {
        let (grant, entry) = match note {
            Note::Admitted { grant, access, start, len, key } => {
                let place = Place { access, start, len, key };
                (grant, Entry::Direct { place, on_their_way: 0, withdrawn: false })
            }
            Note::Unreachable(grant) => (grant, Entry::Packets),
            Note::Refused(grant, denial) => (grant, Entry::Refused(denial)),
            Note::Ask(_) | Note::Withdrawn(_) | Note::Released(_) => return Err(UNASKED),
        };
        match self.known.get_mut(&grant) {
            Some(asked @ Entry::Asked) => {
                *asked = entry;
                Ok(())
            }
            _ => Err(UNASKED),
        }
    }

    /// The owner has dropped the region.
    pub(crate) fn withdrawn(&mut self, grant: Grant, say: &mut VecDeque<Note>) -> Result<(), ProtocolError> {
        match self.known.get_mut(&grant) {
            Some(Entry::Direct { withdrawn, .. }) => *withdrawn = true,
            _ => return Err(ProtocolError("it withdraws what it has not given")),
        }
        self.release(grant, say);
        Ok(())
    }

    fn release(&mut self, grant: Grant, say: &mut VecDeque<Note>) {
        if let Some(Entry::Direct { on_their_way: 0, withdrawn: true, .. }) = self.known.get(&grant) {
            // It never comes back: another region has another capability.
            self.known.insert(grant, Entry::Refused(Denial::UnknownKey));
            say.push_back(Note::Released(grant));
        }
    }
}

const UNASKED: ProtocolError = ProtocolError("it answers what it was not asked");
/// More refusals than this are forgotten: they will be asked for again.
const REMEMBERED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const GRANT: Grant = Grant { region: 3, capability: 9 };

    fn admitted() -> Note {
        Note::Admitted { grant: GRANT, access: Access::WRITE, start: 5000, len: 100, key: 77 }
    }

    fn asked() -> (Admissions, VecDeque<Note>) {
        let (mut admissions, mut said) = (Admissions::default(), VecDeque::new());
        assert_eq!(admissions.of(GRANT, &mut said), Standing::Waiting);
        (admissions, said)
    }

    #[test]
    fn a_region_is_asked_for_once() {
        let (mut admissions, mut said) = asked();
        assert_eq!(admissions.of(GRANT, &mut said), Standing::Waiting);
        assert_eq!(said, [Note::Ask(GRANT)]);
        admissions.answered(admitted()).expect("it was asked");
        let Standing::Direct(place) = admissions.of(GRANT, &mut said) else { panic!("it was admitted") };
        assert_eq!(place.at(10, 90), Ok(Remote { start: 5010, key: 77 }));
    }

    #[test]
    fn bytes_outside_of_what_the_owner_has_are_refused_here() {
        let (mut admissions, mut said) = asked();
        admissions.answered(admitted()).expect("it was asked");
        let Standing::Direct(place) = admissions.of(GRANT, &mut said) else { panic!("it was admitted") };
        for (offset, len) in [(0, 101), (100, 1), (u64::MAX, 2)] {
            assert_eq!(place.at(offset, len), Err(Denial::OutOfRange));
        }
    }

    #[test]
    fn a_withdrawn_region_is_released_when_nothing_is_on_its_way_there() {
        let (mut admissions, mut said) = asked();
        admissions.answered(admitted()).expect("it was asked");
        (0..2).for_each(|_| admissions.begun(GRANT));
        said.clear();
        admissions.withdrawn(GRANT, &mut said).expect("it was given");
        assert_eq!(admissions.of(GRANT, &mut said), Standing::Refused(Denial::UnknownKey));
        admissions.ended(GRANT, &mut said);
        assert_eq!(said, [], "something is on its way");
        admissions.ended(GRANT, &mut said);
        assert_eq!(said, [Note::Released(GRANT)]);
    }

    #[test]
    fn answers_that_nobody_asked_for_break_the_protocol() {
        let (mut admissions, mut said) = (Admissions::default(), VecDeque::new());
        assert!(admissions.answered(admitted()).is_err());
        assert!(admissions.withdrawn(GRANT, &mut said).is_err());
        let (mut admissions, _) = asked();
        admissions.answered(Note::Refused(GRANT, Denial::NotAllowed)).expect("it was asked");
        assert!(admissions.answered(admitted()).is_err(), "it was answered already");
    }
}
