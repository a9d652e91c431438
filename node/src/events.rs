//! The way from a worker to one caller: a stream that never makes the sender wait.
//!
//! A caller that reads slowly receives fewer, longer messages (`coalesce`) and holds nobody else
//! up. Knows nothing of workers or connections.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::Stream;
use futures::task::AtomicWaker;

use crate::coalesce::{Coalesce, CoalescingQueue};

/// A sender and its stream; the stream ends after the sender is dropped and everything is read.
pub(crate) fn channel<T: Coalesce>() -> (EventSender<T>, EventStream<T>) {
    let state = State { waiting: CoalescingQueue::new(), ended: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), reader: AtomicWaker::new() });
    (EventSender { shared: Arc::clone(&shared) }, EventStream { shared })
}

pub(crate) struct EventSender<T: Coalesce> {
    shared: Arc<Shared<T>>,
}

/// Messages for one caller, in order.
pub(crate) struct EventStream<T: Coalesce> {
    shared: Arc<Shared<T>>,
}

struct Shared<T: Coalesce> {
    state: Mutex<State<T>>,
    reader: AtomicWaker,
}

struct State<T: Coalesce> {
    waiting: CoalescingQueue<T>,
    ended: bool,
}

impl<T: Coalesce> Shared<T> {
    /// A panic elsewhere leaves the queue whole: every change to it is one call.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Coalesce> EventSender<T> {
    pub(crate) fn send(&self, message: T) {
        self.shared.lock().waiting.push(message);
        self.shared.reader.wake();
    }
}

impl<T: Coalesce> Drop for EventSender<T> {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.reader.wake();
    }
}

impl<T: Coalesce> Stream for EventStream<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.shared.reader.register(context.waker());
        let mut state = self.shared.lock();
        match state.waiting.pop() {
            Some(message) => Poll::Ready(Some(message)),
            None if state.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use mlxcel_protocol::v1::{ChoiceDelta, Delta, Finished, GenerateEvent, generate_event::Kind};

    use super::*;

    fn delta(text: &str) -> GenerateEvent {
        let choice = ChoiceDelta { text: text.into(), ..ChoiceDelta::default() };
        GenerateEvent { kind: Some(Kind::Delta(Delta { choices: vec![choice] })) }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_longer_deltas_and_then_the_end() {
        let (sender, stream) = channel();
        for text in ["a", "b", "c"] {
            sender.send(delta(text));
        }
        let finished = GenerateEvent { kind: Some(Kind::Finished(Finished::default())) };
        sender.send(finished.clone());
        drop(sender);
        assert_eq!(stream.collect::<Vec<_>>().await, [delta("abc"), finished]);
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let (sender, mut stream) = channel();
        let reader = tokio::spawn(async move { stream.next().await });
        tokio::task::yield_now().await;
        sender.send(delta("x"));
        assert_eq!(reader.await.expect("reads"), Some(delta("x")));
    }
}
