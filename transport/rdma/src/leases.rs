//! Which of this end's regions a peer may reach directly: kept registered until the peer lets go.
//!
//! Bookkeeping over the domain, which is asked who may what. A region that is dropped is withdrawn at the next look; its
//! memory stays until the peer says that nothing is on its way there any more, for a device that is asked for memory it
//! does not know breaks the connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlxcel_transport::core::ProtocolError;
use mlxcel_transport::domain::{Domain, Grant, Use};
use mlxcel_transport::{Access, Denial, RegionMemory};

use crate::wire::Note;

/// How a device reaches memory.
pub(crate) struct Reached {
    pub(crate) start: u64,
    pub(crate) key: u32,
    /// What keeps it registered.
    pub(crate) kept: Arc<dyn Send + Sync>,
}

/// What one peer was given.
#[derive(Default)]
pub(crate) struct Leases {
    given: HashMap<Grant, Lease>,
}

struct Lease {
    _kept: Arc<dyn Send + Sync>,
    _memory: Arc<RegionMemory>,
    withdrawn: Option<Instant>,
}

impl Leases {
    /// Answers a peer that asks for a region. `reach` finds it a way to the memory, if there is one.
    pub(crate) fn answer(
        &mut self,
        domain: &Domain,
        grant: Grant,
        reach: impl FnOnce(&Arc<RegionMemory>, Access) -> Option<Reached>,
    ) -> Result<Note, ProtocolError> {
        if self.given.len() >= MOST || self.given.contains_key(&grant) {
            return Err(ProtocolError("it asks for what it has"));
        }
        let (write, read) = (domain.admit(grant, 0, 0, Use::Write), domain.admit(grant, 0, 0, Use::Read));
        let access = Access { read: read.is_ok(), write: write.is_ok() };
        let slice = match (write, read) {
            (Ok(slice), _) | (_, Ok(slice)) => slice,
            (Err(Denial::UnknownKey), _) => return Ok(Note::Refused(grant, Denial::UnknownKey)),
            (Err(_), Err(_)) => return Ok(Note::Refused(grant, Denial::NotAllowed)),
        };
        let memory = Arc::clone(slice.memory());
        let Some(Reached { start, key, kept }) = reach(&memory, access) else {
            return Ok(Note::Unreachable(grant));
        };
        let len = memory.memory().len() as u64;
        self.given.insert(grant, Lease { _kept: kept, _memory: memory, withdrawn: None });
        Ok(Note::Admitted { grant, access, start, len, key })
    }

    /// Looks for regions that have been dropped: what to tell the peer.
    pub(crate) fn look(&mut self, domain: &Domain, now: Instant) -> Result<Vec<Note>, ProtocolError> {
        let mut notes = Vec::new();
        for (grant, lease) in &mut self.given {
            match lease.withdrawn {
                Some(since) if now.saturating_duration_since(since) > PATIENCE => {
                    return Err(ProtocolError("it holds on to memory that was withdrawn"));
                }
                Some(_) => {}
                None if is_gone(domain, *grant) => {
                    lease.withdrawn = Some(now);
                    notes.push(Note::Withdrawn(*grant));
                }
                None => {}
            }
        }
        Ok(notes)
    }

    /// The peer has let go.
    pub(crate) fn released(&mut self, grant: Grant) -> Result<(), ProtocolError> {
        match self.given.remove(&grant) {
            Some(Lease { withdrawn: Some(_), .. }) => Ok(()),
            _ => Err(ProtocolError("it lets go of what was not withdrawn")),
        }
    }
}

fn is_gone(domain: &Domain, grant: Grant) -> bool {
    matches!(domain.admit(grant, 0, 0, Use::Write), Err(Denial::UnknownKey))
}

/// More than a connection has work requests, and time for each to be sent again.
const PATIENCE: Duration = Duration::from_secs(2);
const MOST: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use mlxcel_transport::{Memory, PeerId, Region};

    use super::*;

    struct Owner {
        domain: Arc<Domain>,
        leases: Leases,
        now: Instant,
    }

    impl Owner {
        fn new() -> Self {
            let domain = Domain::with_manual_clock(PeerId::random());
            Self { domain, leases: Leases::default(), now: Instant::now() }
        }

        fn region(&self, access: Access) -> (Region, Grant, Weak<RegionMemory>) {
            let region = self.domain.register(Memory::zeroed(100).expect("there is memory"), access);
            let key = region.key();
            let memory = Arc::downgrade(region.memory());
            (region, Grant { region: key.region, capability: key.capability }, memory)
        }

        fn ask(&mut self, grant: Grant) -> Result<Note, ProtocolError> {
            let reach = |_: &_, _| Some(Reached { start: 5, key: 6, kept: Arc::new(()) });
            self.leases.answer(&self.domain, grant, reach)
        }

        fn look(&mut self, after: Duration) -> Result<Vec<Note>, ProtocolError> {
            self.now += after;
            self.leases.look(&self.domain, self.now)
        }
    }

    #[test]
    fn a_region_is_given_with_its_rights_and_nobody_elses() {
        let mut owner = Owner::new();
        let (_writable, grant, _) = owner.region(Access::WRITE);
        let given = Note::Admitted { grant, access: Access::WRITE, start: 5, len: 100, key: 6 };
        assert_eq!(owner.ask(grant), Ok(given));
        let (_local, grant, _) = owner.region(Access::LOCAL);
        assert_eq!(owner.ask(grant), Ok(Note::Refused(grant, Denial::NotAllowed)));
        let forged = Grant { capability: grant.capability ^ 1, ..grant };
        assert_eq!(owner.ask(forged), Ok(Note::Refused(forged, Denial::UnknownKey)));
    }

    #[test]
    fn memory_that_no_device_reaches_is_said_to_be_so() {
        let mut owner = Owner::new();
        let (_region, grant, _) = owner.region(Access::READ);
        let answer = owner.leases.answer(&owner.domain, grant, |_, _| None);
        assert_eq!(answer, Ok(Note::Unreachable(grant)));
    }

    #[test]
    fn a_dropped_region_is_withdrawn_and_its_memory_kept_until_the_peer_lets_go() {
        let mut owner = Owner::new();
        let (region, grant, memory) = owner.region(Access::WRITE);
        owner.ask(grant).expect("the peer has it not yet");
        assert_eq!(owner.look(Duration::ZERO), Ok(vec![]));
        drop(region);
        assert_eq!(owner.look(Duration::ZERO), Ok(vec![Note::Withdrawn(grant)]));
        assert_eq!(owner.look(Duration::ZERO), Ok(vec![]), "it is said once");
        assert!(memory.upgrade().is_some());
        owner.leases.released(grant).expect("it was withdrawn");
        assert!(memory.upgrade().is_none());
    }

    #[test]
    fn a_peer_that_does_not_let_go_breaks_the_protocol() {
        let mut owner = Owner::new();
        let (region, grant, _) = owner.region(Access::WRITE);
        owner.ask(grant).expect("the peer has it not yet");
        assert!(owner.leases.released(grant).is_err(), "it was not withdrawn");
        owner.ask(grant).expect("the peer has it not any more");
        drop(region);
        owner.look(Duration::ZERO).expect("it has time");
        assert!(owner.look(PATIENCE * 2).is_err());
    }
}
