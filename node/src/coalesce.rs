//! A queue in which newer output of one source joins what is still waiting from it.
//!
//! A reader that lags receives fewer, longer messages instead of a growing queue: entries are
//! bounded by the number of sources, bytes by what a request can generate at all. Knows nothing of
//! threads; `worker::outbox` and `events` put a lock and a wake-up around it.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use mlxcel_protocol::v1::{
    ChoiceDelta, Delta, GenerateEvent, LoadProgress, ToolCallDelta, WorkerEvent, generate_event,
    load_progress, worker_event,
};

/// A message that may join an earlier one of the same source.
pub(crate) trait Coalesce: Sized {
    /// Names the source; messages of one source stay in order.
    type Key: Eq + Hash + Clone;

    /// What this message may join, and be joined by. `None` keeps it alone, and closes every
    /// earlier message of [`Coalesce::closes`].
    fn key(&self) -> Option<Self::Key>;

    /// The source whose waiting message nothing may join any more once this one is queued.
    fn closes(&self) -> Option<Self::Key>;

    /// Takes in a newer message with the same key.
    fn absorb(&mut self, newer: Self);
}

/// First in, first out, but for messages that join one still waiting.
pub(crate) struct CoalescingQueue<T: Coalesce> {
    entries: VecDeque<(Option<T::Key>, T)>,
    /// Sequence number of the front entry.
    first: u64,
    /// Where each source's open message waits.
    open: HashMap<T::Key, u64>,
}

impl<T: Coalesce> CoalescingQueue<T> {
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::new(), first: 0, open: HashMap::new() }
    }

    pub(crate) fn push(&mut self, message: T) {
        if let Some(closed) = message.closes() {
            self.open.remove(&closed);
        }
        let key = message.key();
        let waiting = key
            .as_ref()
            .and_then(|key| self.open.get(key))
            .and_then(|sequence| self.entries.get_mut((sequence - self.first) as usize));
        if let Some((_, waiting)) = waiting {
            waiting.absorb(message);
            return;
        }
        if let Some(key) = &key {
            self.open.insert(key.clone(), self.first + self.entries.len() as u64);
        }
        self.entries.push_back((key, message));
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let (key, message) = self.entries.pop_front()?;
        if let Some(key) = key
            && self.open.get(&key) == Some(&self.first)
        {
            self.open.remove(&key);
        }
        self.first += 1;
        Some(message)
    }
}

/// What a worker's messages are about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Request(String),
    Load(String),
    Models,
    Beat,
}

impl Coalesce for WorkerEvent {
    type Key = Source;

    fn key(&self) -> Option<Source> {
        match self.kind.as_ref()? {
            worker_event::Kind::Generate(generate) => {
                generate.event.as_ref()?.key().map(|()| Source::Request(generate.request_id.clone()))
            }
            worker_event::Kind::Load(load) => {
                load.progress.as_ref()?.key().map(|()| Source::Load(load.served_name.clone()))
            }
            worker_event::Kind::Models(_) => Some(Source::Models),
            worker_event::Kind::Beat(_) => Some(Source::Beat),
            worker_event::Kind::Ready(_) | worker_event::Kind::MovedPrefix(_) => None,
        }
    }

    fn closes(&self) -> Option<Source> {
        match (self.key(), self.kind.as_ref()?) {
            (Some(_), _) => None,
            (None, worker_event::Kind::Generate(it)) => Some(Source::Request(it.request_id.clone())),
            (None, worker_event::Kind::Load(it)) => Some(Source::Load(it.served_name.clone())),
            (None, _) => None,
        }
    }

    fn absorb(&mut self, newer: Self) {
        match (&mut self.kind, newer.kind) {
            (Some(worker_event::Kind::Generate(waiting)), Some(worker_event::Kind::Generate(newer))) => {
                if let (Some(waiting), Some(newer)) = (&mut waiting.event, newer.event) {
                    waiting.absorb(newer);
                }
            }
            (_, newer) => self.kind = newer,
        }
    }
}

impl Coalesce for GenerateEvent {
    type Key = ();

    fn key(&self) -> Option<()> {
        matches!(self.kind, Some(generate_event::Kind::Delta(_))).then_some(())
    }

    fn closes(&self) -> Option<()> {
        self.key().is_none().then_some(())
    }

    fn absorb(&mut self, newer: Self) {
        if let (
            Some(generate_event::Kind::Delta(waiting)),
            Some(generate_event::Kind::Delta(Delta { choices })),
        ) = (&mut self.kind, newer.kind)
        {
            for newer in choices {
                match waiting.choices.iter_mut().find(|waiting| waiting.choice == newer.choice) {
                    Some(waiting) => join(waiting, newer),
                    None => waiting.choices.push(newer),
                }
            }
        }
    }
}

fn join(waiting: &mut ChoiceDelta, newer: ChoiceDelta) {
    let ChoiceDelta { choice: _, text, token_ids, logprobs, ended, reasoning, tool_calls } = newer;
    waiting.text.push_str(&text);
    waiting.token_ids.extend(token_ids);
    waiting.logprobs.extend(logprobs);
    waiting.ended = ended;
    waiting.reasoning.push_str(&reasoning);
    join_calls(&mut waiting.tool_calls, tool_calls);
}

/// A part of the call that came last becomes part of its last part.
fn join_calls(waiting: &mut Vec<ToolCallDelta>, newer: Vec<ToolCallDelta>) {
    for newer in newer {
        match waiting.last_mut().filter(|waiting| waiting.index == newer.index) {
            Some(waiting) => waiting.arguments.push_str(&newer.arguments),
            None => waiting.push(newer),
        }
    }
}

impl Coalesce for LoadProgress {
    type Key = ();

    fn key(&self) -> Option<()> {
        matches!(self.kind, Some(load_progress::Kind::Step(_))).then_some(())
    }

    fn closes(&self) -> Option<()> {
        self.key().is_none().then_some(())
    }

    fn absorb(&mut self, newer: Self) {
        *self = newer;
    }
}

#[cfg(test)]
mod tests {
    use mlxcel_protocol::v1::{FinishReason, Finished, WorkerGenerate, WorkerModels};

    use super::*;

    fn event(id: &str, kind: generate_event::Kind) -> WorkerEvent {
        let event = Some(GenerateEvent { kind: Some(kind) });
        let generate = WorkerGenerate { request_id: id.into(), event };
        WorkerEvent { kind: Some(worker_event::Kind::Generate(generate)) }
    }

    fn choice(choice: u32, text: &str, token_ids: &[u32]) -> ChoiceDelta {
        ChoiceDelta { choice, text: text.into(), token_ids: token_ids.to_vec(), ..ChoiceDelta::default() }
    }

    fn deltas(id: &str, choices: &[ChoiceDelta]) -> WorkerEvent {
        event(id, generate_event::Kind::Delta(Delta { choices: choices.to_vec() }))
    }

    fn delta(id: &str, text: &str, token: u32) -> WorkerEvent {
        deltas(id, &[choice(0, text, &[token])])
    }

    fn finished(id: &str) -> WorkerEvent {
        event(id, generate_event::Kind::Finished(Finished::default()))
    }

    fn drain(queue: &mut CoalescingQueue<WorkerEvent>) -> Vec<WorkerEvent> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn waiting_deltas_of_one_request_become_one() {
        let mut queue = CoalescingQueue::new();
        for message in [delta("a", "x", 1), delta("b", "q", 9), delta("a", "y", 2)] {
            queue.push(message);
        }
        let joined = deltas("a", &[choice(0, "xy", &[1, 2])]);
        assert_eq!(drain(&mut queue), [joined, delta("b", "q", 9)]);
    }

    #[test]
    fn choices_of_one_request_are_joined_apart() {
        let mut queue = CoalescingQueue::new();
        let ended = ChoiceDelta { ended: FinishReason::Stop.into(), ..choice(1, "!", &[4]) };
        for piece in [choice(0, "x", &[1]), choice(1, "a", &[2]), choice(0, "y", &[3]), ended.clone()] {
            queue.push(deltas("a", &[piece]));
        }
        let second = ChoiceDelta { text: "a!".into(), token_ids: vec![2, 4], ..ended };
        assert_eq!(drain(&mut queue), [deltas("a", &[choice(0, "xy", &[1, 3]), second])]);
    }

    #[test]
    fn parts_of_a_call_are_joined_to_it() {
        let call = |index, id: &str, arguments: &str| ToolCallDelta {
            index,
            id: id.into(),
            arguments: arguments.into(),
            ..ToolCallDelta::default()
        };
        let part = |calls: &[ToolCallDelta]| ChoiceDelta { tool_calls: calls.to_vec(), ..choice(0, "", &[]) };
        let mut queue = CoalescingQueue::new();
        for calls in [&[call(0, "a", "{")][..], &[call(0, "", "}"), call(1, "b", "")], &[call(1, "", "{}")]] {
            queue.push(deltas("r", &[part(calls)]));
        }
        let joined = part(&[call(0, "a", "{}"), call(1, "b", "{}")]);
        assert_eq!(drain(&mut queue), [deltas("r", &[joined])]);
    }

    #[test]
    fn a_delta_already_taken_is_not_joined() {
        let mut queue = CoalescingQueue::new();
        queue.push(delta("a", "x", 1));
        assert_eq!(queue.pop(), Some(delta("a", "x", 1)));
        queue.push(delta("a", "y", 2));
        assert_eq!(drain(&mut queue), [delta("a", "y", 2)]);
    }

    #[test]
    fn nothing_joins_across_the_end_of_a_request() {
        let mut queue = CoalescingQueue::new();
        let messages = [delta("a", "x", 1), finished("a"), delta("a", "new", 7)];
        for message in messages.clone() {
            queue.push(message);
        }
        assert_eq!(drain(&mut queue), messages);
    }

    #[test]
    fn only_the_latest_state_waits() {
        let mut queue = CoalescingQueue::new();
        for count in 1..4 {
            let models = vec![Default::default(); count];
            queue.push(WorkerEvent { kind: Some(worker_event::Kind::Models(WorkerModels { models })) });
        }
        let left = drain(&mut queue);
        assert!(matches!(
            left.as_slice(),
            [WorkerEvent { kind: Some(worker_event::Kind::Models(it)) }] if it.models.len() == 3
        ));
    }
}
