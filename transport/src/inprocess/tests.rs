use std::time::{Duration, Instant};

use super::*;
use crate::contract::block_on;
use crate::domain::PeerState;
use crate::{
    Access, Batch, Channel, Denial, Memory, Op, OpError, PeerLoss, Region, Tag, Transport, TransportExt,
};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn pair() -> [Arc<InProcess>; 2] {
    let network = Network::new();
    let [one, other] = [network.endpoint(), network.endpoint()];
    block_on(one.connect(other.id(), &other.addresses(), soon())).expect("it is in this process");
    [one, other]
}

fn region(end: &InProcess, access: Access) -> Region {
    end.register(Memory::zeroed(4096).expect("there is memory"), access).expect("host memory")
}

fn outcome(op: &Op) -> Result<(), OpError> {
    op.outcome().expect("in one process nothing takes time")
}

#[test]
fn a_write_is_there_when_it_is_counted() {
    let [one, other] = pair();
    let (source, target) = (region(&one, Access::LOCAL), region(&other, Access::WRITE));
    source.write_at(10, b"bytes");
    let counter = other.domain().expect(Tag::new(1), &[one.id()]).expect("the tag is free");
    let batch = Batch::single((&source, 10), (&target.key(), 100), 5).expect("it lies within");
    assert_eq!(outcome(&one.write(&batch, Tag::new(1), soon())), Ok(()));
    assert_eq!(counter.count(), 1);
    let mut bytes = [0; 5];
    target.read_at(100, &mut bytes);
    assert_eq!(&bytes, b"bytes");
}

#[test]
fn what_is_refused_is_neither_written_nor_counted() {
    let [one, other] = pair();
    let (source, target) = (region(&one, Access::LOCAL), region(&other, Access::READ));
    source.write_at(0, &[1; 10]);
    let counter = other.domain().expect(Tag::new(1), &[one.id()]).expect("the tag is free");
    let batch = Batch::single((&source, 0), (&target.key(), 0), 10).expect("it lies within");
    let write = |tag| outcome(&one.write(&batch, Tag::new(tag), soon()));
    assert_eq!(write(1), Err(OpError::AccessDenied(Denial::NotAllowed)));
    assert_eq!(write(2), Err(OpError::Cancelled));
    assert_eq!(counter.count(), 0);
    let mut bytes = [9; 10];
    target.read_at(0, &mut bytes);
    assert_eq!(bytes, [0; 10]);
}

#[test]
fn messages_wait_for_room_and_keep_their_order() {
    let [one, other] = pair();
    let send = |number: u8| one.send(other.id(), Channel(1), vec![number; 60_000].into(), soon());
    let sent: Vec<Op> = (0..20).map(send).collect();
    assert_eq!(sent.iter().filter(|op| op.outcome().is_some()).count(), 4);
    for number in 0..20 {
        let message = block_on(other.domain().receive(one.id(), Channel(1), soon())).expect("it was sent");
        assert_eq!(message[0], number);
    }
    assert!(sent.iter().all(|op| op.outcome() == Some(Ok(()))));
}

#[test]
fn a_killed_end_is_lost_to_its_peers_at_once() {
    let [one, other] = pair();
    let counter = other.domain().expect(Tag::new(1), &[one.id()]).expect("the tag is free");
    let waiting = counter.reached(1, soon());
    one.kill();
    assert_eq!(outcome(&waiting), Err(OpError::PeerLost));
    assert_eq!(other.domain().peer_state(one.id()), PeerState::Lost(PeerLoss::Broken));
    assert_eq!(outcome(&other.send(one.id(), Channel(1), vec![1].into(), soon())), Err(OpError::PeerLost));
}

#[test]
fn a_message_that_nobody_reads_ends_with_its_deadline() {
    let [one, other] = pair();
    let deadline = Instant::now() + Duration::from_millis(20);
    let send = || one.send(other.id(), Channel(1), vec![1; 60_000].into(), deadline);
    let sent: Vec<Op> = (0..5).map(|_| send()).collect();
    let outcomes: Vec<_> = sent.into_iter().map(block_on).collect();
    assert_eq!(outcomes, [Ok(()), Ok(()), Ok(()), Ok(()), Err(OpError::Timeout)]);
}
