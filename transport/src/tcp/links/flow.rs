//! Bytes in, bytes out, and what links want done about their rails.

use std::net::Shutdown;
use std::time::Instant;

use smallvec::SmallVec;

use super::{Links, PeerId};
use crate::core::{LinkEvent, RailId};
#[cfg(target_os = "linux")]
use crate::tcp::rail::Rail;
use crate::tcp::rail::direct::Moved;
use crate::tcp::rail::{RailError, Step};
use crate::{ConnectError, PeerLoss};

impl Links {
    /// Reads what a rail's socket has; whether it had anything.
    pub(in crate::tcp) fn read(&mut self, key: usize, now: Instant) -> bool {
        let mut any = false;
        for _ in 0..READS {
            let Some(rail) = self.rails.get_mut(key).filter(|rail| !rail.closing && !rail.reading) else {
                return any;
            };
            let Some(peer) = self.peers.get_mut(&rail.peer).filter(|peer| peer.closing == 0) else {
                return any;
            };
            let Some(link) = &mut peer.link else { return any };
            match rail.read_directly(link) {
                Ok(Moved::Nothing) => return any,
                Ok(moved) => {
                    any = true;
                    link.heard(rail.id, now);
                    self.digest(key, now);
                    // A socket that gave less than it was asked for has no more, and says so again when it has; on
                    // Windows only after it has refused.
                    if moved == Moved::Some && !cfg!(windows) {
                        return true;
                    }
                }
                Err(error) => {
                    self.close_rail(key, Some(&error), now);
                    return true;
                }
            }
        }
        self.unread.push(key);
        any
    }

    /// Reads what the sockets of all rails have; whether any had anything.
    pub(in crate::tcp) fn read_all(&mut self, now: Instant) -> bool {
        self.unread.clear();
        let rails: SmallVec<[usize; 32]> = self.rails.iter().map(|(key, _)| key).collect();
        let mut any = false;
        for key in rails {
            any |= self.read(key, now);
        }
        any
    }

    /// The kernel has read `count` bytes of a rail to where `request` said.
    #[cfg(target_os = "linux")]
    pub(in crate::tcp) fn filled(&mut self, key: usize, count: usize, now: Instant) {
        let rail = &mut self.rails[key];
        rail.filled(count);
        if let Some(link) = self.peers.get_mut(&rail.peer).and_then(|peer| peer.link.as_mut()) {
            link.heard(rail.id, now);
        }
        self.digest(key, now);
    }

    /// Feeds the link with what has come in over a rail.
    pub(in crate::tcp) fn digest(&mut self, key: usize, now: Instant) {
        loop {
            let Some(rail) = self.rails.get_mut(key).filter(|rail| !rail.closing) else { return };
            let id = rail.peer;
            let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.closing == 0) else { return };
            let Some(link) = &mut peer.link else { return };
            match rail.step(link, now) {
                Ok(Step::Told) => {
                    let event = link.poll();
                    self.touch(id);
                    if let Some(event) = event {
                        self.heed(id, event, now);
                        self.settle(id, now);
                    }
                }
                Ok(Step::Starved) => return,
                Err(error) => {
                    self.close_rail(key, Some(&error), now);
                    return;
                }
            }
        }
    }

    /// Writes what there is to be sent to peers that something happened to, by calls that do not block.
    pub(in crate::tcp) fn pump(&mut self, now: Instant) {
        while let Some(id) = self.touched.pop() {
            self.settle(id, now);
            let rails = self.peers.get(&id).map(|peer| peer.rails.clone()).unwrap_or_default();
            for key in rails {
                self.write(key, now);
            }
        }
    }

    /// As `pump`, but has somebody else write: `send` is given every rail that has something to be sent.
    #[cfg(target_os = "linux")]
    pub(in crate::tcp) fn offer(&mut self, now: Instant, mut send: impl FnMut(usize, &mut Rail)) {
        while let Some(id) = self.touched.pop() {
            self.settle(id, now);
            let rails = self.peers.get(&id).map(|peer| peer.rails.clone()).unwrap_or_default();
            for key in rails {
                let Some(link) = self.peers.get_mut(&id).and_then(|peer| peer.link.as_mut()) else { break };
                let Some(rail) = self.rails.get_mut(key).filter(|rail| !rail.closing && !rail.writing) else {
                    continue;
                };
                match rail.list_contents(link, now) {
                    Ok(true) => send(key, rail),
                    Ok(false) => {}
                    Err(error) => self.close_rail(key, Some(&error), now),
                }
            }
        }
    }

    /// Has somebody else read: `receive` is given every rail that may be read from. Its `scatter` is empty where the
    /// next bytes go to a region: these are to be read by `read` when they are there, and still wanted.
    #[cfg(target_os = "linux")]
    pub(in crate::tcp) fn request(&mut self, mut receive: impl FnMut(usize, &mut Rail)) {
        for (key, rail) in &mut self.rails {
            let paused = self.peers.get(&rail.peer).is_none_or(|peer| peer.closing > 0);
            if !rail.closing && !rail.reading && !paused {
                rail.scatter.clear();
                if !rail.is_at_region() {
                    rail.list_space();
                }
                receive(key, rail);
            }
        }
    }

    /// A rail's socket took what `offer` gave, or some of it.
    #[cfg(target_os = "linux")]
    pub(in crate::tcp) fn drained(&mut self, key: usize, count: usize, now: Instant) {
        let rail = &mut self.rails[key];
        if let Some(link) = self.peers.get_mut(&rail.peer).and_then(|peer| peer.link.as_mut()) {
            rail.drained(count, link, now);
        }
        let peer = rail.peer;
        self.touch(peer);
    }

    /// Tries again where sockets took less than they were offered.
    pub(in crate::tcp) fn retry_blocked(&mut self) {
        let mut blocked = Vec::new();
        for (_, rail) in self.rails.iter_mut().filter(|(_, rail)| rail.blocked && !rail.writing) {
            rail.blocked = false;
            blocked.push(rail.peer);
        }
        for peer in blocked {
            self.touch(peer);
        }
    }

    /// A rail's socket takes more.
    pub(in crate::tcp) fn unblock(&mut self, key: usize) {
        if let Some(rail) = self.rails.get_mut(key) {
            rail.blocked = false;
            let peer = rail.peer;
            self.touch(peer);
        }
    }

    fn write(&mut self, key: usize, now: Instant) {
        loop {
            let Some(rail) = self.rails.get_mut(key) else { return };
            if rail.closing || rail.writing || rail.blocked {
                return;
            }
            let Some(link) = self.peers.get_mut(&rail.peer).and_then(|peer| peer.link.as_mut()) else {
                return;
            };
            match rail.write_directly(link, now) {
                Ok(Moved::All) => {}
                Ok(_) => {
                    self.any_blocked |= self.rails[key].blocked;
                    return;
                }
                Err(error) => {
                    self.write_failed(key, &error, now);
                    return;
                }
            }
        }
    }

    /// A socket that takes nothing more may still have the peer's last words.
    pub(in crate::tcp) fn write_failed(&mut self, key: usize, error: &RailError, now: Instant) {
        self.rails[key].blocked = true;
        if self.rails[key].reading {
            // The kernel, which reads, finds the end.
            return;
        }
        self.read(key, now);
        self.close_rail(key, Some(error), now);
    }

    /// Does what a link wants done.
    pub(super) fn settle(&mut self, id: PeerId, now: Instant) {
        while let Some(event) = self.peers.get_mut(&id).and_then(|peer| peer.link.as_mut()?.poll()) {
            self.heed(id, event, now);
        }
    }

    fn heed(&mut self, id: PeerId, event: LinkEvent, now: Instant) {
        match event {
            LinkEvent::CloseRail(rail, why) => {
                tracing::debug!(target: "mlxcel::transport::tcp", peer = %id, rail, ?why, "closing a rail");
                if let Some(key) = self.key_of(id, rail) {
                    self.close_rail(key, None, now);
                }
            }
            LinkEvent::Lost(why) => self.forget(id, why, now),
        }
    }

    fn key_of(&self, id: PeerId, rail: RailId) -> Option<usize> {
        let peer = self.peers.get(&id)?;
        peer.rails.iter().copied().find(|key| self.rails[*key].id == rail)
    }

    /// Closes a rail. The link is told when the kernel uses none of its memory any more: now, or in `operation_ended`.
    pub(in crate::tcp) fn close_rail(&mut self, key: usize, why: Option<&RailError>, now: Instant) {
        let Some(rail) = self.rails.get_mut(key).filter(|rail| !rail.closing) else { return };
        if let Some(why) = why {
            if let RailError::Protocol(error) = why
                && let Some(link) = self.peers.get_mut(&rail.peer).and_then(|peer| peer.link.as_mut())
            {
                link.fail(*error);
            }
            tracing::debug!(target: "mlxcel::transport::tcp", peer = %rail.peer, rail = rail.id, %why, "a rail broke");
        }
        rail.closing = true;
        // Operations of the kernel end with this; that it fails means that they have.
        let _ = rail.socket.shutdown(Shutdown::Both);
        if !rail.writing {
            rail.release();
        }
        let (id, incarnation, in_use) = (rail.peer, rail.incarnation, rail.is_in_use());
        if let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.ours == incarnation) {
            peer.rails.retain(|up| *up != key);
            peer.closing += 1;
            if peer.rails.is_empty() && matches!(why, Some(RailError::Socket(_))) {
                peer.orphaned = Some(now);
            }
            self.dials_due |= peer.dial.is_some();
        }
        if !in_use {
            self.bury(key, now);
        }
    }

    /// The kernel has finished an operation of a rail; whether the rail is still there.
    #[cfg(target_os = "linux")]
    pub(in crate::tcp) fn operation_ended(&mut self, key: usize, now: Instant) -> bool {
        let rail = &self.rails[key];
        if rail.closing && !rail.is_in_use() {
            self.bury(key, now);
            return false;
        }
        !rail.closing
    }

    /// Closes rails on which the kernel holds up a write that has ended: its owner waits for the memory.
    #[cfg(target_os = "linux")]
    pub(in crate::tcp) fn close_overdue(&mut self, now: Instant) {
        let overdue = self.rails.iter().filter(|(_, rail)| rail.is_overdue()).map(|(key, _)| key);
        for key in overdue.collect::<Vec<_>>() {
            self.close_rail(key, Some(&RailError::Torn), now);
        }
    }

    /// Drops a closed rail, and tells its link.
    fn bury(&mut self, key: usize, now: Instant) {
        let rail = self.rails.remove(key);
        let Some(peer) = self.peers.get_mut(&rail.peer).filter(|peer| peer.ours == rail.incarnation) else {
            return;
        };
        peer.closing -= 1;
        if let Some(link) = &mut peer.link {
            link.rail_down(rail.id, now);
        }
        self.touch(rail.peer);
        if self.peers[&rail.peer].closing == 0 {
            // What came in over other rails meanwhile waits there.
            for key in self.peers[&rail.peer].rails.clone() {
                self.digest(key, now);
                self.unread.push(key);
            }
        }
    }

    /// A link is lost: what it had to say last is sent, as far as sockets take it, and its rails are closed.
    pub(super) fn forget(&mut self, id: PeerId, why: PeerLoss, now: Instant) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        tracing::debug!(target: "mlxcel::transport::tcp", peer = %id, %why, "a link was lost");
        let lost = ConnectError::Unreachable { address: id.to_string(), detail: why.to_string() };
        peer.tell_waiters(&Err(lost));
        for key in std::mem::take(&mut peer.rails) {
            let rail = &mut self.rails[key];
            if let Some(link) = &mut peer.link
                && !rail.writing
            {
                // The rail ends either way.
                let _ = rail.write_directly(link, now);
            }
            self.close_rail(key, None, now);
        }
        peer.add_stats(&mut self.past);
        self.past.rails.clear();
    }
}

/// How often one rail is read from before others have their turn.
const READS: usize = 16;
