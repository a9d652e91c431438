//! What callers ask of the transport, as it waits in line while another thread holds the lock.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use futures::channel::oneshot;

use super::peer::{Peer, Waiter};
use super::{Links, PeerId};
use crate::core::Link;
use crate::tcp::dial::Dial;
use crate::{Batch, Channel, Completion, ConnectError, OpError, Tag};

/// Something a caller wants.
pub(in crate::tcp) enum Command {
    /// To write a batch.
    Write { batch: Batch, tag: Tag, done: Completion },
    /// To read a batch.
    Read { batch: Batch, done: Completion },
    /// To send a message.
    Send { peer: PeerId, channel: Channel, message: Bytes, done: Completion },
    /// To be connected to a peer.
    Connect {
        peer: PeerId,
        addresses: Vec<SocketAddr>,
        deadline: Instant,
        done: oneshot::Sender<Result<(), ConnectError>>,
    },
    /// To be rid of a peer.
    Disconnect(PeerId),
    /// To tell a peer that messages have been read.
    Credit(PeerId),
}

impl Links {
    /// Does what a caller wants, as far as that needs no socket.
    pub(in crate::tcp) fn obey(&mut self, command: Command, now: Instant) {
        match command {
            Command::Write { batch, tag, done } => {
                if let Some(link) = self.link_or_end(batch.peer(), &done) {
                    link.write(&batch, tag, done);
                }
            }
            Command::Read { batch, done } => {
                if let Some(link) = self.link_or_end(batch.peer(), &done) {
                    link.read(&batch, done);
                }
            }
            Command::Send { peer, channel, message, done } => {
                if let Some(link) = self.link_or_end(peer, &done) {
                    link.send(channel, message, done);
                }
            }
            Command::Connect { peer, addresses, deadline, done } => {
                self.connect(peer, addresses, Waiter { deadline, done }, now);
            }
            Command::Disconnect(peer) => {
                if let Some(link) = self.link(peer) {
                    link.close();
                }
                // At once: whoever connects next is not to find what is left of this link.
                self.settle(peer, now);
            }
            Command::Credit(peer) => self.touch(peer),
        }
    }

    fn link(&mut self, peer: PeerId) -> Option<&mut Link> {
        self.peers.get_mut(&peer)?.link.as_mut()
    }

    fn link_or_end(&mut self, peer: PeerId, done: &Completion) -> Option<&mut Link> {
        self.touch(peer);
        let link = self.link(peer);
        if link.is_none() {
            done.end(Err(OpError::PeerLost));
        }
        link
    }

    fn connect(&mut self, id: PeerId, addresses: Vec<SocketAddr>, waiter: Waiter, now: Instant) {
        // A link that is lost is not to be taken for one.
        self.settle(id, now);
        let incarnation = self.new_incarnation();
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(incarnation));
        peer.waiters.push(waiter);
        if peer.link.is_some() {
            peer.tell_waiters(&Ok(()));
        } else if peer.dial.is_none() {
            peer.dial = Some(Dial::new(addresses, now));
            self.dials_due = true;
        }
    }
}
