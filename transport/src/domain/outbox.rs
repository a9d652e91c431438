//! Messages to one peer that its windows have no room for yet.
//!
//! Pure bookkeeping of what has been sent and what the peer has read, by channel.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::inbox::{Message, WINDOW};
use crate::contract::{Channel, Completion};

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    channels: HashMap<Channel, Window>,
}

#[derive(Debug, Default)]
struct Window {
    sent: u64,
    read: u64,
    /// The number of the next message that is let go.
    number: u64,
    waiting: VecDeque<(Message, Completion)>,
}

impl Outbox {
    pub(crate) fn push(&mut self, channel: Channel, message: Bytes, done: Completion) {
        self.channels.entry(channel).or_default().waiting.push_back((Message(message), done));
    }

    /// Notes how many bytes of a channel the peer has read in all; whether it was sent as many.
    pub(crate) fn read(&mut self, channel: Channel, bytes: u64) -> bool {
        let window = self.channels.entry(channel).or_default();
        // What is told on several rails may arrive in another order.
        window.read = window.read.max(bytes);
        window.read <= window.sent
    }

    /// The next message of a channel that there is room for, and its number there. Those whose operation has ended are left out.
    pub(crate) fn next(&mut self, channel: Channel) -> Option<(u64, Message, Completion)> {
        let window = self.channels.get_mut(&channel)?;
        while window.waiting.front().is_some_and(|(_, done)| done.is_ended()) {
            window.waiting.pop_front();
        }
        let cost = window.waiting.front()?.0.cost();
        if window.sent - window.read + cost > WINDOW {
            return None;
        }
        window.sent += cost;
        window.number += 1;
        let (message, done) = window.waiting.pop_front()?;
        Some((window.number - 1, message, done))
    }

    /// How many messages wait.
    pub(crate) fn len(&self) -> usize {
        self.channels.values().map(|window| window.waiting.len()).sum()
    }

    /// Everything that waits, on any channel.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Completion> + '_ {
        self.channels.values_mut().flat_map(|window| window.waiting.drain(..)).map(|(_, done)| done)
    }
}
