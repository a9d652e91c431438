//! What becomes of a frame that arrives.

use bytes::Bytes;
use smallvec::SmallVec;
use std::time::Instant;

use super::ProtocolError;
use super::frame::{Head, Header, Verb};
use super::incoming::Status;
use super::link::{Link, LinkEvent};
use super::rails::RailId;
use crate::contract::{Channel, Denial, OpError, PeerLoss, RegionSlice};
use crate::domain::{MAX_MESSAGE, Use};

/// Where the payload of a frame goes.
#[derive(Debug)]
pub enum Target {
    /// There is none: the frame has been dealt with.
    Nothing,
    /// To these bytes of regions, one after the other.
    Regions(SmallVec<[RegionSlice; 2]>),
    /// To a buffer of this many bytes, to be shown to `placed`.
    Buffer(usize),
    /// Nowhere: this many bytes are read and forgotten.
    Discard(usize),
}

/// A frame whose payload is on its way.
#[derive(Debug)]
pub struct Placement {
    /// Where it goes.
    pub target: Target,
    header: Header,
    token: Option<u64>,
}

impl Link {
    /// A frame's head has arrived on `rail`: says where its payload goes. `placed` follows when it is there, for
    /// [`Target::Nothing`] too.
    ///
    /// # Errors
    /// When no correct peer sends this. The driver then calls `fail`.
    pub fn receive(&mut self, rail: RailId, head: &Head, now: Instant) -> Result<Placement, ProtocolError> {
        self.rails.heard(rail, now);
        let header = head.header;
        let plain = |target| Ok(Placement { target, header, token: None });
        let payload = header.payload as usize;
        if self.lost.is_some() {
            return plain(if payload > 0 { Target::Discard(payload) } else { Target::Nothing });
        }
        match header.verb {
            Verb::Data | Verb::Answer => return self.receive_slice(rail, head),
            Verb::Message if payload > MAX_MESSAGE => return Err(ProtocolError("a message is too long")),
            Verb::Request if payload > MAX_MESSAGE => return Err(ProtocolError("a request is too long")),
            Verb::Message | Verb::Request => return plain(Target::Buffer(payload)),
            Verb::Ack => self.acknowledged(header)?,
            Verb::Credit => self.hear_credit(header)?,
            Verb::Cancel => self.cancelled(header.item)?,
            Verb::Query => {
                if let Some(status) = self.arrivals.settled(header.item) {
                    self.acknowledge(header.item, status);
                }
            }
            Verb::RailDown => self.hear_rail_down(rail, header)?,
            Verb::RailClosed => {
                self.rails.bury(rail_of(header)?);
            }
            Verb::Alive => {}
            Verb::Goodbye => self.lose(PeerLoss::Closed),
        }
        plain(Target::Nothing)
    }

    /// Whether the payload is still to go where `placement` says: else the driver reads the rest and forgets it, for
    /// the batch has been dropped.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn wants(&mut self, placement: &Placement) -> Result<bool, ProtocolError> {
        let Some(token) = placement.token else { return Ok(true) };
        let Some(partial) = self.arrivals.placing_of(token) else { return Ok(false) };
        let admitted = |grant: &_| self.domain.admit(*grant, 0, 0, Use::Write).map(drop);
        let status = if let Some(denial) = partial.grants.iter().map(admitted).find_map(Result::err) {
            Status::Denied(denial)
        } else if partial.tag.is_none_or(|tag| self.domain.is_expected(tag, self.peer)) {
            return Ok(true);
        } else {
            Status::Unwanted
        };
        self.settle(placement.header.item, status)?;
        Ok(false)
    }

    /// The payload of a frame is where it was to go; `buffered` is what went to a buffer.
    ///
    /// # Errors
    /// When no correct peer sends this. The driver then calls `fail`.
    pub fn placed(
        &mut self,
        rail: RailId,
        placement: Placement,
        buffered: Option<Bytes>,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        self.rails.heard(rail, now);
        if self.lost.is_some() {
            return Ok(());
        }
        match (placement.header.verb, placement.token) {
            (Verb::Data | Verb::Answer, Some(token)) => match self.arrivals.finish(token) {
                Some(item) => self.complete(item),
                None => Ok(()),
            },
            (Verb::Message, _) => self.message(placement.header, buffered.unwrap_or_default()),
            (Verb::Request, _) => self.requested(placement.header, &buffered.unwrap_or_default()),
            _ => Ok(()),
        }
    }

    fn receive_slice(&mut self, rail: RailId, head: &Head) -> Result<Placement, ProtocolError> {
        let header = head.header;
        let target = Target::Discard(header.payload as usize);
        let discarded = Placement { target, header, token: None };
        if let Some(status) = self.arrivals.settled(header.item) {
            self.acknowledge(header.item, status);
            return Ok(discarded);
        }
        let tag = (header.verb == Verb::Data).then_some(header.tag);
        if tag.is_some_and(|tag| !self.domain.is_expected(tag, self.peer)) {
            self.settle(header.item, Status::Unwanted)?;
            return Ok(discarded);
        }
        let places = match self.admit(head) {
            Ok(places) => places,
            Err(denial) => {
                self.settle(header.item, Status::Denied(denial))?;
                return Ok(discarded);
            }
        };
        let partial = self.arrivals.partial(header.item, header.slices, || (tag, header.tag.id))?;
        for run in &head.runs {
            if !partial.grants.contains(&run.grant) {
                partial.grants.push(run.grant);
            }
        }
        match self.arrivals.begin(rail, header.item, header.slice, header.payload) {
            Some(token) => Ok(Placement { target: Target::Regions(places), header, token: Some(token) }),
            None => Ok(discarded),
        }
    }

    fn admit(&self, head: &Head) -> Result<SmallVec<[RegionSlice; 2]>, Denial> {
        let admit = |run: &super::frame::WireRun| {
            self.domain.admit(run.grant, run.offset, u64::from(run.len), Use::Write)
        };
        head.runs.iter().map(admit).collect()
    }

    /// All slices of a batch are in place.
    fn complete(&mut self, item: u64) -> Result<(), ProtocolError> {
        let partial = self.arrivals.partials.get(&item).expect("a batch is known until it is settled");
        // A region that was dropped meanwhile has bytes of this batch that nobody will look at.
        let admitted = |grant: &_| self.domain.admit(*grant, 0, 0, Use::Write).map(drop);
        let refused = partial.grants.iter().map(admitted).find_map(Result::err);
        let (tag, request, bytes) = (partial.tag, partial.request, partial.bytes);
        let counted = match (refused, tag) {
            (Some(denial), _) => Status::Denied(denial),
            (None, Some(tag)) if !self.domain.arrived(tag, self.peer) => Status::Unwanted,
            (None, _) => Status::Done,
        };
        if counted == Status::Done {
            self.bytes_in += bytes;
            if tag.is_none() {
                self.reads.answered(&self.domain, request, Ok(()));
            }
        }
        self.settle(item, counted)
    }

    /// Deals with an item, and tells its sender how.
    pub(super) fn settle(&mut self, item: u64, status: Status) -> Result<(), ProtocolError> {
        self.acknowledge(item, status);
        self.arrivals.settle(item, status)
    }

    pub(super) fn acknowledge(&mut self, item: u64, status: Status) {
        self.queues.control.push_back(Header { slice: status.code(), ..Header::new(Verb::Ack, item) });
    }

    fn acknowledged(&mut self, header: Header) -> Result<(), ProtocolError> {
        let status =
            Status::from_code(header.slice).ok_or(ProtocolError("an acknowledgement says nothing"))?;
        // Unknown ones are of what was given up, or acknowledged twice because it was sent twice.
        self.given_up.remove(&header.item);
        let Some(outgoing) = self.outgoing.get(&header.item) else { return Ok(()) };
        if !outgoing.was_sent() {
            return Err(ProtocolError("it acknowledges what it was not sent"));
        }
        let outgoing = self.outgoing.remove(&header.item).expect("it was there a moment ago");
        let bytes = outgoing.bytes;
        let result = match status {
            Status::Done => Ok(()),
            Status::Unwanted => Err(OpError::Cancelled),
            Status::Denied(denial) => Err(OpError::AccessDenied(denial)),
        };
        if status == Status::Done {
            self.bytes_out += bytes;
        }
        self.answers -= usize::from(matches!(outgoing.what, super::outgoing::What::Answer { .. }));
        let request = matches!(outgoing.what, super::outgoing::What::Request { .. });
        if !request {
            outgoing.done.end(result);
        } else if let Err(error) = result {
            self.reads.answered(&self.domain, header.item, Err(error));
        }
        Ok(())
    }

    fn hear_credit(&mut self, header: Header) -> Result<(), ProtocolError> {
        let channel = channel_of(header)?;
        if !self.outbox.read(channel, header.offset) {
            return Err(ProtocolError("it has read more than it was sent"));
        }
        self.send_what_fits(channel);
        Ok(())
    }

    fn cancelled(&mut self, item: u64) -> Result<(), ProtocolError> {
        match self.arrivals.settled(item) {
            Some(status) => {
                self.acknowledge(item, status);
                Ok(())
            }
            None => self.settle(item, Status::Unwanted),
        }
    }

    fn hear_rail_down(&mut self, heard_on: RailId, header: Header) -> Result<(), ProtocolError> {
        let down = rail_of(header)?;
        if down == heard_on {
            return Err(ProtocolError("it says that a rail is lost which is not"));
        }
        // Said when the rail is closed: drivers obey events before they ask for frames.
        self.queues.control.push_back(Header { slice: header.slice, ..Header::new(Verb::RailClosed, 0) });
        if self.rails.bury(down) {
            self.events.push_back(LinkEvent::CloseRail(down, "the peer lost it"));
        }
        Ok(())
    }

    fn message(&mut self, header: Header, message: Bytes) -> Result<(), ProtocolError> {
        if let Some(status) = self.arrivals.settled(header.item) {
            self.acknowledge(header.item, status);
            return Ok(());
        }
        let channel = channel_of(header)?;
        self.bytes_in += message.len() as u64;
        for message in self.arrivals.order(channel, header.offset, message)? {
            let delivered = self.domain.deliver(self.peer, channel, message);
            delivered.map_err(|_| ProtocolError("it sends more messages than there is room for"))?;
        }
        self.settle(header.item, Status::Done)
    }
}

fn rail_of(header: Header) -> Result<RailId, ProtocolError> {
    RailId::try_from(header.slice).map_err(|_| ProtocolError("a rail has no such number"))
}

fn channel_of(header: Header) -> Result<Channel, ProtocolError> {
    u32::try_from(header.tag.id).map(Channel).map_err(|_| ProtocolError("a channel has no such number"))
}
