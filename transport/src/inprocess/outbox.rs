//! Messages to one peer that its windows have no room for yet.
//!
//! Pure bookkeeping of what has been sent and what the peer has read, by channel.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::contract::{Channel, Completion};
use crate::domain::{Message, WINDOW};

#[derive(Debug, Default)]
pub(super) struct Outbox {
    channels: HashMap<Channel, Window>,
}

#[derive(Debug, Default)]
struct Window {
    sent: u64,
    read: u64,
    waiting: VecDeque<(Message, Completion)>,
}

impl Outbox {
    pub(super) fn push(&mut self, channel: Channel, message: Bytes, done: Completion) {
        self.channels.entry(channel).or_default().waiting.push_back((Message(message), done));
    }

    /// Notes how many bytes of a channel the peer has read in all.
    pub(super) fn read(&mut self, channel: Channel, bytes: u64) {
        self.channels.entry(channel).or_default().read = bytes;
    }

    /// The next message of a channel that there is room for. Those whose operation has ended are left out.
    pub(super) fn next(&mut self, channel: Channel) -> Option<(Message, Completion)> {
        let window = self.channels.get_mut(&channel)?;
        while window.waiting.front().is_some_and(|(_, done)| done.is_ended()) {
            window.waiting.pop_front();
        }
        let cost = window.waiting.front()?.0.cost();
        if window.sent - window.read + cost > WINDOW {
            return None;
        }
        window.sent += cost;
        window.waiting.pop_front()
    }

    /// How many messages wait.
    pub(super) fn len(&self) -> usize {
        self.channels.values().map(|window| window.waiting.len()).sum()
    }

    /// Everything that waits, on any channel.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Completion> + '_ {
        self.channels.values_mut().flat_map(|window| window.waiting.drain(..)).map(|(_, done)| done)
    }
}
