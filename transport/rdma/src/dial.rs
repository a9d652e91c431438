//! Finding a peer that may have several addresses: one after the other, until one answers as the peer that is meant.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlxcel_transport::core::hello::Refusal;
use mlxcel_transport::{ConnectError, Kind, PeerId, PeerState};

use crate::meet::{self, NotMet};
use crate::shared::Shared;

/// Connects to a peer, unless it is connected.
pub(crate) fn reach(
    shared: &Arc<Shared>,
    peer: PeerId,
    addresses: &[SocketAddr],
    until: Instant,
) -> Result<(), ConnectError> {
    let turn = shared.turn(peer);
    let _turn = turn.lock();
    if shared.books().peers.contains_key(&peer) {
        return Ok(());
    }
    let call = Call::begin(shared, peer);
    let mut told = ConnectError::NoAddress(Kind::Rdma);
    let mut crossed = false;
    for (number, address) in addresses.iter().enumerate() {
        // Each has its share of the time that is left.
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - number).unwrap_or(1);
        match meet::call(shared, peer, *address, Instant::now() + share) {
            Ok(met) => {
                shared.link_up(met);
                return Ok(());
            }
            Err(error) => {
                crossed |= matches!(error, NotMet::Refused(Refusal::Unwelcome | Refusal::Forgotten));
                told = telling(told, error.told(*address));
            }
        }
    }
    drop(call);
    if crossed && wait_for_call_of(shared, peer, until) { Ok(()) } else { Err(told) }
}

/// The peer's own call that crossed ours may be about to become a link; whether it has.
fn wait_for_call_of(shared: &Shared, peer: PeerId, until: Instant) -> bool {
    let until = until.min(Instant::now() + CROSSING);
    loop {
        if matches!(shared.adapter.domain.peer_state(peer), PeerState::Connected(Kind::Rdma)) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Somebody who answers and refuses says more than nobody.
fn telling(before: ConnectError, now: ConnectError) -> ConnectError {
    match (&before, &now) {
        (ConnectError::NoAddress(_), _) => now,
        (_, ConnectError::Unreachable { .. } | ConnectError::Timeout) => before,
        _ => now,
    }
}

/// A call that is under way: who is called knows that it crosses its own.
struct Call<'a> {
    shared: &'a Shared,
    peer: PeerId,
}

impl<'a> Call<'a> {
    fn begin(shared: &'a Shared, peer: PeerId) -> Self {
        *shared.books().calling.entry(peer).or_default() += 1;
        Self { shared, peer }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut books = self.shared.books();
        if let Some(calls) = books.calling.get_mut(&self.peer) {
            *calls -= 1;
            if *calls == 0 {
                books.calling.remove(&self.peer);
            }
        }
    }
}

/// How long a call of the peer's that crossed ours may take to become a link here.
const CROSSING: Duration = Duration::from_secs(1);
