//! The thread that turns tokens into text and tells clients, beside the thread that steps.
//!
//! Owns every request's `Stream` and so the promise that each ends with exactly one event: whoever
//! ends a request first, a stop string here or the step thread, removes its stream. Knows no
//! scheduler; it names the sequences that a stop string has ended, and the step thread drops them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::recorder::Notes;
use super::stream::{Ending, Stream};
use crate::event::GenerateError;
use crate::sampling::Choice;
use crate::schedule::SequenceId;
use crate::trace::{TimedSpan, Trace, Track};

/// Steps whose tokens may wait to become text. Bounds the memory of a client that is slow to take
/// its events, and how many tokens are computed after a stop string.
const STEPS_BEHIND: usize = 4;

/// Without anything to deliver for this long, the trace is written out.
const QUIET: Duration = Duration::from_millis(100);

/// Something that happened to a request, in order.
pub(super) enum Update {
    /// It was accepted.
    Open(Box<Stream>),
    /// It got a token that does not end it.
    Token(Choice),
    /// It had this token already, which its client was told of elsewhere.
    Resumed(u32),
    /// It ended.
    End(Ending),
}

/// Where the delivery thread writes the trace.
pub(super) struct TraceRows {
    pub(super) trace: Arc<Trace>,
    /// The step thread's spans.
    pub(super) steps: Track,
    /// The delivery thread's own.
    pub(super) delivery: Track,
}

/// What a step leaves to deliver.
#[derive(Default)]
struct Batch {
    /// Updates, whose they are, and when they happened.
    updates: Vec<(SequenceId, Instant, Update)>,
    notes: Option<Notes>,
}

/// The step thread's end of the delivery thread; waits for the thread when dropped.
pub(super) struct Delivery {
    gathered: Batch,
    batches: Option<SyncSender<Batch>>,
    stopped: Receiver<SequenceId>,
    thread: Option<JoinHandle<()>>,
}

impl Delivery {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system does not give one.
    pub(super) fn start(rows: Option<TraceRows>) -> std::io::Result<Self> {
        let (batches, inbox) = sync_channel(STEPS_BEHIND);
        let (stops, stopped) = channel();
        let desk = Desk { streams: BTreeMap::new(), stops, rows };
        let thread =
            std::thread::Builder::new().name("delivery".to_owned()).spawn(move || desk.run(&inbox))?;
        Ok(Self { gathered: Batch::default(), batches: Some(batches), stopped, thread: Some(thread) })
    }

    /// Notes an update; it is on its way after the next `flush`.
    pub(super) fn push(&mut self, sequence: SequenceId, at: Instant, update: Update) {
        self.gathered.updates.push((sequence, at, update));
    }

    /// Sends what was noted, and the notes for the trace. Waits where the thread is `STEPS_BEHIND`
    /// batches behind.
    pub(super) fn flush(&mut self, notes: Option<Notes>) {
        if self.gathered.updates.is_empty() && notes.is_none() {
            return;
        }
        let batch = Batch { notes, ..std::mem::take(&mut self.gathered) };
        if let Some(batches) = &self.batches {
            // The thread ends only after this sender has been dropped.
            drop(batches.send(batch));
        }
    }

    /// Sequences whose requests have ended here since the last call.
    pub(super) fn stopped(&self) -> Vec<SequenceId> {
        self.stopped.try_iter().collect()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.flush(None);
        self.batches.take();
        if let Some(thread) = self.thread.take() {
            // The thread catches its panics; there is nothing to learn from the result.
            drop(thread.join());
        }
    }
}

/// What the thread owns.
struct Desk {
    streams: BTreeMap<SequenceId, Stream>,
    stops: Sender<SequenceId>,
    rows: Option<TraceRows>,
}

impl Desk {
    fn run(mut self, inbox: &Receiver<Batch>) {
        loop {
            match inbox.recv_timeout(QUIET) {
                Ok(batch) => self.deliver(batch),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(rows) = &self.rows {
                        rows.trace.flush();
                    }
                    let Ok(batch) = inbox.recv() else { return };
                    self.deliver(batch);
                }
            }
        }
    }

    fn deliver(&mut self, batch: Batch) {
        // First, so that the trace is complete when a client hears of its end.
        if let (Some(rows), Some(notes)) = (&self.rows, batch.notes) {
            rows.trace.spans(rows.steps, &notes.spans);
            if let Some((at, figures)) = notes.load {
                rows.trace.counters(rows.steps, at, &figures);
            }
        }
        let (begin, updates) = (Instant::now(), batch.updates.len() as u64);
        for (sequence, at, update) in batch.updates {
            self.guarded(sequence, at, update);
        }
        if let Some(rows) = self.rows.as_ref().filter(|_| updates > 0) {
            let (name, figures) = ("detokenise", vec![("updates", updates)]);
            rows.trace.spans(rows.delivery, &[TimedSpan { name, begin, end: Instant::now(), figures }]);
        }
    }

    /// A panic, of a client's event sink perhaps, ends the request it happened in and no other.
    fn guarded(&mut self, sequence: SequenceId, at: Instant, update: Update) {
        if catch_unwind(AssertUnwindSafe(|| self.apply(sequence, at, update))).is_ok() {
            return;
        }
        let Some(mut stream) = self.streams.remove(&sequence) else { return };
        let answer = stream.answer.clone();
        let reason = "delivering the output panicked; this is a defect in mlxcel".to_owned();
        let failed = Ending::Failed(GenerateError::Internal(reason));
        // Where the sink itself panics there is no one left to tell.
        drop(catch_unwind(AssertUnwindSafe(|| stream.end(failed, at))));
        self.report(sequence);
        let siblings = |stream: &Stream| stream.answer.is_of(&answer);
        let names = self.streams.iter().filter(|(_, stream)| siblings(stream)).map(|(name, _)| *name);
        for name in names.collect::<Vec<_>>() {
            self.streams.remove(&name);
            self.report(name);
        }
    }

    /// Updates of a request that has ended here are passed over.
    fn apply(&mut self, sequence: SequenceId, at: Instant, update: Update) {
        match update {
            Update::Open(stream) => {
                let stream = self.streams.entry(sequence).insert_entry(*stream);
                stream.get().answer.started();
            }
            Update::Token(choice) => self.pushed(sequence, |stream| stream.push(choice, at)),
            Update::Resumed(token) => self.pushed(sequence, |stream| stream.resume(token, at)),
            Update::End(ending) => {
                if let Some(mut stream) = self.streams.remove(&sequence) {
                    stream.end(ending, at);
                }
            }
        }
    }

    /// Gives a stream a token, which may end it.
    fn pushed(&mut self, sequence: SequenceId, push: impl FnOnce(&mut Stream) -> bool) {
        if self.streams.get_mut(&sequence).is_some_and(push) {
            self.streams.remove(&sequence);
            self.report(sequence);
        }
    }

    fn report(&self, sequence: SequenceId) {
        // The step thread may have ended; then no sequence is left to drop.
        let _ = self.stops.send(sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EventSink;
    use crate::event::{Event, FinishReason};
    use crate::serving::answer::Answer;
    use crate::text::{Detokenizer, StopMatcher};

    const NAME: SequenceId = SequenceId(3);

    /// A stream whose token `n` is the byte `n`.
    fn open(stop: &str, sink: EventSink) -> Update {
        let text = (Detokenizer::of_bytes(), StopMatcher::new(&[stop.to_owned()]));
        let answer = Answer::new(sink, 1, 1, Instant::now());
        Update::Open(Box::new(Stream::new(answer, 0, text)))
    }

    fn into(events: Sender<Event>) -> EventSink {
        Box::new(move |event| drop(events.send(event)))
    }

    fn deliver(updates: Vec<Update>) -> Vec<SequenceId> {
        let mut delivery = Delivery::start(None).expect("a thread");
        for update in updates {
            delivery.push(NAME, Instant::now(), update);
        }
        delivery.flush(None);
        delivery.batches.take();
        delivery.thread.take().expect("it runs").join().expect("no panic");
        delivery.stopped()
    }

    fn reasons(events: &Receiver<Event>) -> Vec<FinishReason> {
        let ends = events.iter().filter_map(|event| match event {
            Event::Finished(finish) => Some(finish.reason),
            Event::Failed(error) => panic!("{error}"),
            _ => None,
        });
        ends.collect()
    }

    fn token(byte: u8) -> Update {
        Update::Token(Choice { token: byte.into(), ranking: None })
    }

    #[test]
    fn a_stop_string_ends_a_request_once_and_names_its_sequence() {
        let (sender, events) = channel();
        let tokens = b"one stop two".iter().copied().map(token);
        let updates = std::iter::once(open("stop", into(sender))).chain(tokens);
        let stopped = deliver(updates.chain([Update::End(Ending::Length)]).collect());
        assert_eq!(stopped, [NAME]);
        assert_eq!(reasons(&events), [FinishReason::Stop]);
    }

    #[test]
    fn a_request_cancelled_before_its_stop_string_is_only_cancelled() {
        let (sender, events) = channel();
        let updates =
            vec![open("ab", into(sender)), token(b'a'), Update::End(Ending::Cancelled), token(b'b')];
        assert_eq!(deliver(updates), []);
        assert_eq!(reasons(&events), [FinishReason::Cancelled]);
    }

    #[test]
    fn a_sink_that_panics_loses_its_own_request_only() {
        let (sender, events) = channel();
        let mut delivery = Delivery::start(None).expect("a thread");
        let broken = open("x", Box::new(|_| panic!("a defect in a client")));
        delivery.push(SequenceId(1), Instant::now(), broken);
        delivery.push(NAME, Instant::now(), open("x", into(sender)));
        delivery.push(NAME, Instant::now(), Update::End(Ending::Length));
        drop(delivery);
        assert_eq!(reasons(&events), [FinishReason::Length]);
    }
}
