use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::OpError;

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn peer() -> PeerId {
    PeerId::random()
}

fn kick() -> (Kick, Arc<AtomicUsize>) {
    let kicks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&kicks);
    let kick = Kick(Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    (kick, kicks)
}

mod regions {
    use super::*;

    #[test]
    fn a_key_admits_to_its_region_and_nothing_else() {
        let domain = Domain::with_manual_clock(PeerId::random());
        let region = domain.register(Memory::zeroed(100).expect("there is memory"), Access::WRITE);
        let key = region.key();
        let grant = Grant { region: key.region, capability: key.capability };
        let admit =
            |grant, offset, len, wanted| domain.admit(grant, offset, len, wanted).map(|slice| slice.len());
        assert_eq!(admit(grant, 90, 10, Use::Write), Ok(10));
        assert_eq!(admit(grant, 90, 11, Use::Write), Err(Denial::OutOfRange));
        assert_eq!(admit(grant, u64::MAX, 2, Use::Write), Err(Denial::OutOfRange));
        assert_eq!(admit(grant, 0, 10, Use::Read), Err(Denial::NotAllowed));
        let forged = Grant { capability: grant.capability ^ 1, ..grant };
        assert_eq!(admit(forged, 0, 10, Use::Write), Err(Denial::UnknownKey));
    }

    #[test]
    fn a_dropped_region_admits_nobody_while_its_memory_lives_on() {
        let domain = Domain::with_manual_clock(PeerId::random());
        let region = domain.register(Memory::zeroed(100).expect("there is memory"), Access::WRITE);
        let key = region.key();
        let in_flight = region.slice(0..10);
        drop(region);
        let grant = Grant { region: key.region, capability: key.capability };
        assert_eq!(domain.admit(grant, 0, 10, Use::Write).map(|_| ()), Err(Denial::UnknownKey));
        in_flight.fill_from(&[1; 10]);
    }
}

mod counters {
    use super::*;

    #[test]
    fn a_counter_resolves_when_as_many_batches_arrived() {
        let (domain, peer, tag) = (Domain::with_manual_clock(PeerId::random()), peer(), Tag::new(7));
        let counter = domain.expect(tag, &[peer]).expect("the tag is free");
        let op = counter.reached(2, later());
        assert!(domain.arrived(tag, peer));
        assert_eq!(op.outcome(), None);
        assert!(domain.arrived(tag, peer));
        assert_eq!(op.outcome(), Some(Ok(())));
        assert_eq!((counter.count(), counter.count_from(peer)), (2, 2));
    }

    #[test]
    fn a_tag_counts_only_while_it_is_open_and_only_from_its_peers() {
        let (domain, tag) = (Domain::with_manual_clock(PeerId::random()), Tag::new(7));
        let (wanted, stranger) = (peer(), peer());
        assert!(!domain.arrived(tag, wanted));
        let counter = domain.expect(tag, &[wanted]).expect("the tag is free");
        assert!(!domain.arrived(tag, stranger));
        assert!(!domain.arrived(Tag { epoch: 1, ..tag }, wanted));
        assert_eq!(domain.expect(tag, &[wanted]).map(|_| ()), Err(TagInUse(tag)));
        let op = counter.reached(1, later());
        drop(counter);
        assert_eq!(op.outcome(), Some(Err(OpError::Cancelled)));
        assert!(!domain.arrived(tag, wanted));
    }

    #[test]
    fn the_loss_of_a_contributor_fails_who_still_waits() {
        let (domain, tag) = (Domain::with_manual_clock(PeerId::random()), Tag::new(7));
        let (dies, lives) = (peer(), peer());
        let counter = domain.expect(tag, &[dies, lives]).expect("the tag is free");
        domain.arrived(tag, dies);
        let waits = counter.reached(2, later());
        domain.peer_lost(dies, PeerLoss::Broken);
        assert_eq!(waits.outcome(), Some(Err(OpError::PeerLost)));
        assert_eq!(counter.reached(1, later()).outcome(), Some(Ok(())));
        assert_eq!(counter.reached(2, later()).outcome(), Some(Err(OpError::PeerLost)));
        assert_eq!(counter.lost(), Some(dies));
    }

    #[test]
    fn a_counter_of_a_peer_that_is_lost_already_does_not_wait() {
        let (domain, peer) = (Domain::with_manual_clock(PeerId::random()), peer());
        domain.peer_lost(peer, PeerLoss::Silent);
        let counter = domain.expect(Tag::new(1), &[peer]).expect("the tag is free");
        assert_eq!(counter.reached(1, later()).outcome(), Some(Err(OpError::PeerLost)));
    }
}

mod messages {
    use super::*;

    const CHANNEL: Channel = Channel(3);

    #[test]
    fn messages_are_read_in_order_by_channel() {
        let (domain, peer) = (Domain::with_manual_clock(PeerId::random()), peer());
        let waiting = domain.readable(peer, CHANNEL, later());
        for (channel, text) in [(CHANNEL, "a"), (Channel(4), "x"), (CHANNEL, "b")] {
            domain.deliver(peer, channel, Bytes::from_static(text.as_bytes())).expect("there is room");
        }
        assert_eq!(waiting.outcome(), Some(Ok(())));
        let read: Vec<Bytes> = std::iter::from_fn(|| domain.try_receive(peer, CHANNEL)).collect();
        assert_eq!(read, ["a", "b"]);
    }

    #[test]
    fn a_full_window_opens_when_it_has_been_read_and_told() {
        let (domain, peer) = (Domain::with_manual_clock(PeerId::random()), peer());
        let (kick, kicks) = kick();
        domain.peer_connected(peer, Kind::Tcp, kick);
        let message = Bytes::from(vec![0; 32 * 1024]);
        let fits = std::iter::repeat_with(|| domain.deliver(peer, CHANNEL, message.clone()));
        assert_eq!(fits.take_while(Result::is_ok).count(), 7);
        for _ in 0..7 {
            domain.try_receive(peer, CHANNEL).expect("it is there");
        }
        assert_eq!(kicks.load(Ordering::Relaxed), 1);
        assert_eq!(domain.deliver(peer, CHANNEL, message.clone()), Err(Overflow::Window));
        assert_eq!(domain.take_credit(peer), Some((CHANNEL, 7 * (32 * 1024 + 64))));
        assert_eq!(domain.take_credit(peer), None);
        assert_eq!(domain.deliver(peer, CHANNEL, message), Ok(()));
    }

    #[test]
    fn what_arrived_can_be_read_after_its_sender_was_lost() {
        let (domain, peer) = (Domain::with_manual_clock(PeerId::random()), peer());
        domain.deliver(peer, CHANNEL, Bytes::from_static(b"last words")).expect("there is room");
        domain.peer_lost(peer, PeerLoss::Closed);
        let receive = || futures::executor::block_on(domain.receive(peer, CHANNEL, later()));
        assert_eq!(receive(), Ok(Bytes::from_static(b"last words")));
        assert_eq!(receive(), Err(OpError::PeerLost));
    }
}

mod deadlines {
    use super::*;

    #[test]
    fn operations_end_when_their_deadline_passes_and_not_before() {
        let domain = Domain::with_manual_clock(PeerId::random());
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let (early, late) = (domain.connected(peer(), at(1)), domain.connected(peer(), at(5)));
        assert_eq!(domain.expire(at(0)), Some(at(1)));
        assert_eq!(domain.expire(at(1)), Some(at(5)));
        assert_eq!((early.outcome(), late.outcome()), (Some(Err(OpError::Timeout)), None));
        assert_eq!(domain.expire(at(6)), None);
        assert_eq!(late.outcome(), Some(Err(OpError::Timeout)));
    }

    #[test]
    fn a_thread_watches_them_where_the_clock_is_real() {
        let domain = Domain::new();
        let op = domain.connected(peer(), Instant::now() + Duration::from_millis(5));
        assert_eq!(futures::executor::block_on(op), Err(OpError::Timeout));
    }

    #[test]
    fn ended_operations_do_not_pile_up() {
        let domain = Domain::with_manual_clock(PeerId::random());
        for _ in 0..10_000 {
            domain.connected(peer(), later()).cancel();
        }
        assert_eq!(domain.expire(Instant::now()), None);
    }
}
