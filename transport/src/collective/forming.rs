//! Making a group: every rank opens its counters, registers its slots, and tells every other rank their key.
//!
//! Who the ranks are and in which order is agreed on by the control plane. Tags and the channel of a group follow from
//! its number and epoch, so that a group formed anew after a failure never counts what was meant for the old one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::exchange::Exchange;
use super::group::Group;
use super::lane::{Incoming, Outgoing};
use super::slots::{LANE_SLOTS, Slots};
use crate::contract::{
    Access, Channel, Key, KeyError, Memory, OpError, PeerId, Region, RegisterError, Tag, Transport,
    TransportExt,
};
use crate::domain::{Counter, TagInUse};

/// What the ranks of a group agree on.
#[derive(Clone, Copy, Debug)]
pub struct GroupConfig {
    /// Which group of these processes: 24 bits.
    pub id: u32,
    /// Which attempt at forming it.
    pub epoch: u32,
    /// How long an operation may take before the ranks that are missing count as late.
    pub timeout: Duration,
    /// How long a rank that waits keeps a processor busy before it sleeps.
    pub spin: Duration,
}

impl GroupConfig {
    /// Group `id`, with ten seconds for each operation.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        Self { id, epoch: 0, timeout: Duration::from_secs(10), spin: Duration::from_millis(2) }
    }
}

/// Why a group could not be formed.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// A process is a rank of its groups.
    #[error("this process, {0}, is not one of the ranks")]
    NotARank(PeerId),
    /// Ranks have numbers of 8 bits.
    #[error("a group has at most {MAX_RANKS} ranks, got {0}")]
    TooMany(usize),
    /// The slots could not be registered.
    #[error("cannot register the group's slots: {0}")]
    Register(#[from] RegisterError),
    /// A group of this number is there already.
    #[error("group {id} of epoch {epoch} exists already: {cause}")]
    InUse {
        /// Its number.
        id: u32,
        /// Its epoch.
        epoch: u32,
        /// Which tag is open.
        cause: TagInUse,
    },
    /// A rank did not answer.
    #[error("rank {rank} did not take part in forming the group: {error}")]
    Rank {
        /// Which rank.
        rank: usize,
        /// How telling it, or hearing from it, ended.
        error: OpError,
    },
    /// A rank sent something else than a key of its own.
    #[error("rank {rank} sent no key of its own{}", cause.map(|cause| format!(": {cause}")).unwrap_or_default())]
    Key {
        /// Which rank.
        rank: usize,
        /// What is wrong with it, unless it is another's.
        cause: Option<KeyError>,
    },
}

impl Group {
    /// Forms the group of `ranks`, of which this process is one, over a transport that is connected to all others.
    /// Blocks until every rank has done so.
    ///
    /// # Errors
    /// When a rank does not take part before the configured timeout, or memory cannot be registered.
    pub fn form(
        transport: Arc<dyn Transport>,
        ranks: &[PeerId],
        config: GroupConfig,
    ) -> Result<Self, FormError> {
        let me = transport.domain().id();
        let rank = ranks.iter().position(|peer| *peer == me).ok_or(FormError::NotARank(me))?;
        if ranks.len() > MAX_RANKS {
            return Err(FormError::TooMany(ranks.len()));
        }
        let forming = Forming { transport: &transport, ranks, rank, config };
        let slots = Slots { ranks: ranks.len() };
        let register = |bytes, access| transport.register(Memory::zeroed(bytes)?, access).map(Arc::new);
        let incoming = register(slots.incoming_bytes(), Access::WRITE)?;
        let staging = register(slots.staging_bytes(), Access::LOCAL)?;
        // Before anybody has the key with which to write: what arrives is counted.
        let counters = forming.counters()?;
        let keys = forming.exchange_keys(&incoming)?;
        Ok(Self::assemble(&forming, counters, keys, [incoming, staging]))
    }

    fn assemble(
        forming: &Forming<'_>,
        counters: Counters,
        keys: Vec<Option<Key>>,
        memory: [Arc<Region>; 2],
    ) -> Self {
        let Forming { transport, ranks, rank, config } = *forming;
        let lanes = counters.lanes.map(|(data, credit)| {
            let [left, right] = forming.neighbours();
            let key = |rank: usize| keys[rank].as_ref().expect("every other rank has sent its key");
            let [incoming, staging] = &memory;
            let credit_tag = forming.tag(Purpose::Credit, rank, 0);
            let tags = std::array::from_fn(|slot| forming.tag(Purpose::Lane, rank, slot));
            let from_left = Incoming::new(left, [incoming, staging], key(left), credit_tag, data);
            (from_left, Outgoing::new(right, Arc::clone(staging), key(right).clone(), tags, credit))
        });
        let tags = std::array::from_fn(|parity| forming.tag(Purpose::Exchange, rank, parity));
        let exchange = Exchange::new(rank, memory, keys, counters.exchange, tags);
        Self::new(Arc::clone(transport), (rank, ranks), config, exchange, lanes)
    }
}

struct Forming<'a> {
    transport: &'a Arc<dyn Transport>,
    ranks: &'a [PeerId],
    rank: usize,
    config: GroupConfig,
}

/// Everything that peers' arrivals are counted in.
struct Counters {
    /// Of every other rank, by parity.
    exchange: Vec<Option<[Counter; 2]>>,
    /// Of the left neighbour's data by slot, and of the right neighbour's credit.
    lanes: Option<([Counter; LANE_SLOTS], Counter)>,
}

impl Forming<'_> {
    /// The ranks to the left and to the right.
    const fn neighbours(&self) -> [usize; 2] {
        let size = self.ranks.len();
        [(self.rank + size - 1) % size, (self.rank + 1) % size]
    }

    fn others(&self) -> impl Iterator<Item = (usize, &PeerId)> {
        self.ranks.iter().enumerate().filter(|(rank, _)| *rank != self.rank)
    }

    fn counters(&self) -> Result<Counters, FormError> {
        let size = self.ranks.len();
        let exchange = (0..size)
            .map(|from| (from != self.rank).then(|| self.open_each(Purpose::Exchange, from)).transpose())
            .collect::<Result<_, _>>()?;
        if size == 1 {
            return Ok(Counters { exchange, lanes: None });
        }
        let [left, right] = self.neighbours();
        let lanes = (self.open_each(Purpose::Lane, left)?, self.open(Purpose::Credit, right, 0)?);
        Ok(Counters { exchange, lanes: Some(lanes) })
    }

    fn open_each<const N: usize>(&self, purpose: Purpose, from: usize) -> Result<[Counter; N], FormError> {
        let counters = (0..N).map(|slot| self.open(purpose, from, slot)).collect::<Result<Vec<_>, _>>()?;
        Ok(counters.try_into().expect("as many as there are slots"))
    }

    fn open(&self, purpose: Purpose, from: usize, slot: usize) -> Result<Counter, FormError> {
        let (id, epoch) = (self.config.id, self.config.epoch);
        // Everyone, since a rank waits in vain for one that waits in vain for a third that was lost.
        let others: Vec<PeerId> = self.others().map(|(_, peer)| *peer).collect();
        let opened = self.transport.domain().expect(self.tag(purpose, from, slot), &others);
        opened.map_err(|cause| FormError::InUse { id, epoch, cause })
    }

    /// Tags of groups have the highest bit set; the rest says which group, what for, who writes, and to which slot.
    fn tag(&self, purpose: Purpose, from: usize, slot: usize) -> Tag {
        let group = u64::from(self.config.id & 0xff_ffff);
        let id = 1 << 63 | group << 32 | (purpose as u64) << 24 | (from as u64) << 8 | slot as u64;
        Tag { id, epoch: self.config.epoch }
    }

    fn exchange_keys(&self, incoming: &Region) -> Result<Vec<Option<Key>>, FormError> {
        let deadline = Instant::now() + self.config.timeout;
        let channel = Channel(1 << 31 | self.config.id & 0xff_ffff);
        let key = Bytes::from(incoming.key().to_bytes());
        let sent: Vec<_> = self
            .others()
            .map(|(rank, peer)| (rank, self.transport.send(*peer, channel, key.clone(), deadline)))
            .collect();
        for (rank, op) in sent {
            self.transport.wait(op).map_err(|error| FormError::Rank { rank, error })?;
        }
        let mut keys = vec![None; self.ranks.len()];
        for (rank, peer) in self.others() {
            let received =
                crate::contract::block_on(self.transport.domain().receive(*peer, channel, deadline));
            let bytes = received.map_err(|error| FormError::Rank { rank, error })?;
            let key = Key::from_bytes(&bytes).map_err(|cause| FormError::Key { rank, cause: Some(cause) })?;
            if key.owner != *peer || key.len != incoming.len() as u64 {
                return Err(FormError::Key { rank, cause: None });
            }
            keys[rank] = Some(key);
        }
        Ok(keys)
    }
}

#[derive(Clone, Copy)]
enum Purpose {
    Exchange,
    Lane,
    Credit,
}

const MAX_RANKS: usize = 256;
