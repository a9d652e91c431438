//! Random work over random faults, held to a simple model: who is told `Ok` was counted once, with the right bytes;
//! whatever is counted is right; messages come in order; everything ends.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write { slot: usize, bytes: usize, patience: u64 },
    Cancel { which: usize },
    Send { channel: u32, bytes: usize },
    Receive { channel: u32 },
    Read { bytes: usize },
    Reopen,
    Break,
    Cut { milliseconds: u64 },
    Pass { microseconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..SLOTS, 1..SLOT_BYTES, 1_u64..3000)
            .prop_map(|(slot, bytes, patience)| Step::Write { slot, bytes, patience }),
        1 => (0..40_usize).prop_map(|which| Step::Cancel { which }),
        2 => (0..2_u32, 8..4000_usize).prop_map(|(channel, bytes)| Step::Send { channel, bytes }),
        3 => (0..2_u32).prop_map(|channel| Step::Receive { channel }),
        1 => (1..SLOT_BYTES).prop_map(|bytes| Step::Read { bytes }),
        1 => Just(Step::Reopen),
        2 => Just(Step::Break),
        1 => (0..700_u64).prop_map(|milliseconds| Step::Cut { milliseconds }),
        6 => (0..20_000_u64).prop_map(|microseconds| Step::Pass { microseconds }),
    ]
}

const SLOTS: usize = 4;
const SLOT_BYTES: usize = 30_000;

struct Slot {
    target: Region,
    counter: Option<crate::Counter>,
    epoch: u32,
    counted: u64,
    /// Writes in flight and what they carry.
    writes: Vec<(Op, Region, usize)>,
}

struct Run {
    pair: Pair,
    slots: Vec<Slot>,
    sent: [VecDeque<(Op, u64)>; 2],
    numbers: [u64; 2],
    expected: [u64; 2],
    reads: Vec<(Op, Region, usize)>,
    readable: Region,
    seed: u8,
}

impl Run {
    fn new(rails: u16, breaks_per_million: u32) -> Self {
        let conditions = Conditions {
            rate: 5e6,
            jitter: Duration::from_millis(2),
            breaks_per_million,
            ..Conditions::default()
        };
        let pair = Pair::over(rails, conditions);
        let slots = (0..SLOTS).map(|_| Slot {
            target: pair.region(&pair.other, SLOT_BYTES),
            counter: None,
            epoch: 0,
            counted: 0,
            writes: Vec::new(),
        });
        let slots = slots.collect();
        let readable = pair.region(&pair.other, SLOT_BYTES);
        readable.write_at(0, &pattern(SLOT_BYTES));
        let mut run = Self {
            pair,
            slots,
            sent: Default::default(),
            numbers: [0; 2],
            expected: [0; 2],
            reads: Vec::new(),
            readable,
            seed: 0,
        };
        run.reopen();
        run
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write { slot, bytes, patience } => self.write(slot, bytes, patience),
            Step::Cancel { which } => {
                let mut ops = self.slots.iter().flat_map(|slot| slot.writes.iter().map(|(op, ..)| op));
                if let Some(op) = ops.nth(which) {
                    op.cancel();
                }
            }
            Step::Send { channel, bytes } => self.send(channel as usize, bytes),
            Step::Receive { channel } => self.receive(channel as usize),
            Step::Read { bytes } => self.read(bytes),
            Step::Reopen => self.reopen(),
            Step::Break => self.pair.network.break_one(self.pair.one.id(), self.pair.other.id()),
            Step::Cut { milliseconds } => {
                let (one, other) = (self.pair.one.id(), self.pair.other.id());
                self.pair.network.cut(one, other);
                self.pair.network.pass(Duration::from_millis(milliseconds));
                self.pair.network.restore(one, other);
                // Two cuts in a row would be one that is too long.
                self.pair.network.pass(Duration::from_millis(50));
            }
            Step::Pass { microseconds } => self.pair.network.pass(Duration::from_micros(microseconds)),
        }
        self.look();
    }

    /// One write a slot at a time, so that what the slot holds when it is counted is known.
    fn write(&mut self, slot: usize, bytes: usize, patience: u64) {
        if self.slots[slot].writes.iter().any(|(op, ..)| op.outcome().is_none()) {
            return;
        }
        self.seed = self.seed.wrapping_add(1);
        let source = self.pair.region(&self.pair.one, bytes);
        source.write_at(0, &vec![self.seed; bytes]);
        let slot_books = &mut self.slots[slot];
        let batch =
            Batch::single((&source, 0), (&slot_books.target.key(), 0), bytes as u64).expect("it fits");
        let tag = Tag { id: slot as u64, epoch: slot_books.epoch };
        let deadline = self.pair.network.now() + Duration::from_millis(patience);
        let op = self.pair.one.write(&batch, tag, deadline);
        slot_books.writes.push((op, source, bytes));
    }

    fn send(&mut self, channel: usize, bytes: usize) {
        let mut message = vec![0; bytes];
        message[..8].copy_from_slice(&self.numbers[channel].to_le_bytes());
        self.numbers[channel] += 1;
        let deadline = self.pair.network.now() + Duration::from_secs(3600);
        let op = self.pair.one.send(self.pair.other.id(), Channel(channel as u32), message.into(), deadline);
        self.sent[channel].push_back((op, self.numbers[channel]));
    }

    fn receive(&mut self, channel: usize) {
        let domain = self.pair.other.domain();
        while let Some(message) = domain.try_receive(self.pair.one.id(), Channel(channel as u32)) {
            let number = u64::from_le_bytes(message[..8].try_into().expect("eight bytes"));
            assert_eq!(number, self.expected[channel], "messages keep their order");
            self.expected[channel] += 1;
        }
    }

    fn read(&mut self, bytes: usize) {
        let local = self.pair.region(&self.pair.one, bytes);
        let batch = Batch::single((&local, 0), (&self.readable.key(), 0), bytes as u64).expect("it fits");
        let op = self.pair.one.read(&batch, self.pair.network.now() + 20 * SECOND);
        self.reads.push((op, local, bytes));
    }

    /// The next attempt at everything: what was written for the last is unwanted.
    fn reopen(&mut self) {
        let (one, other) = (self.pair.one.id(), self.pair.other.domain());
        for (id, slot) in self.slots.iter_mut().enumerate() {
            slot.counter = None;
            slot.epoch += 1;
            slot.counted = 0;
            let tag = Tag { id: id as u64, epoch: slot.epoch };
            slot.counter = Some(other.expect(tag, &[one]).expect("the epoch is new"));
        }
    }

    /// Whatever was counted since is right; whatever was told is true.
    fn look(&mut self) {
        for slot in &mut self.slots {
            let count = slot.counter.as_ref().map_or(0, crate::Counter::count);
            if count > slot.counted {
                // Writes of a slot follow each other, but one that was given up may still be counted: the bytes are
                // of one write, all of them.
                let held = contents(&slot.target);
                let whole =
                    slot.writes.iter().any(|(_, source, bytes)| held[..*bytes] == contents(source)[..]);
                assert!(whole, "what is counted is there whole");
            }
            let told = |op: &Op| op.outcome() == Some(Ok(()));
            if slot.writes.last().is_some_and(|(op, ..)| told(op)) && count == slot.counted {
                assert!(slot.epoch > 0);
            }
            slot.counted = count;
        }
        for (op, local, bytes) in &self.reads {
            if op.outcome() == Some(Ok(())) {
                assert_eq!(contents(local), pattern(*bytes), "a read that is done is right");
            }
        }
        self.reads.retain(|(op, ..)| op.outcome().is_none());
    }

    /// With all faults mended everything ends, and nothing is left behind.
    fn finish(mut self) {
        for _ in 0..40 {
            self.pair.network.pass(SECOND);
            self.receive(0);
            self.receive(1);
            self.look();
        }
        let lost = matches!(self.pair.one.domain().peer_state(self.pair.other.id()), PeerState::Lost(_));
        assert!(!lost, "no cut was longer than a link bears");
        assert_eq!(self.expected, self.numbers, "every message was read");
        assert!(self.sent.iter().flatten().all(|(op, _)| op.outcome() == Some(Ok(()))));
        assert!(self.slots.iter().flat_map(|slot| &slot.writes).all(|(op, ..)| op.outcome().is_some()));
        assert!(self.reads.is_empty());
        assert_eq!(self.pair.one.stats().in_flight, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_work_over_random_faults_ends_as_promised(
        rails in 1_u16..4,
        breaks in prop_oneof![Just(0_u32), Just(5_000), Just(50_000)],
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut run = Run::new(rails, breaks);
        for step in steps {
            run.take(step);
        }
        run.finish();
    }
}
