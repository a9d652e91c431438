//! What the choices of one request share: its events and its account.
//!
//! Each choice tells of itself; this sees to it that the request ends with exactly one event, and that once it
//! has failed nothing follows. Knows no tokens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::api::EventSink;
use crate::event::{Delta, Event, Finish, FinishReason, GenerateError};

/// One request's answer, shared by its choices.
#[derive(Clone)]
pub(super) struct Answer(Arc<Mutex<Account>>);

struct Account {
    events: EventSink,
    choices: u32,
    started: bool,
    /// Choices that have not ended; 0 once the request has.
    open: u32,
    prompt_tokens: u32,
    /// Of the choice that began first.
    cached_tokens: Option<u32>,
    completion_tokens: u32,
    admitted: Instant,
    first_token: Option<Instant>,
}

impl Answer {
    /// The answer to a request for `choices` choices.
    pub(super) fn new(events: EventSink, choices: u32, prompt_tokens: u32, now: Instant) -> Self {
        Self(Arc::new(Mutex::new(Account {
            events,
            choices,
            started: false,
            open: choices,
            prompt_tokens,
            cached_tokens: None,
            completion_tokens: 0,
            admitted: now,
            first_token: None,
        })))
    }

    /// Whether both are of the same request.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Tells that the request has been accepted, when its first choice has been.
    pub(super) fn started(&self) {
        let mut account = self.lock();
        if !std::mem::replace(&mut account.started, true) {
            let prompt_tokens = account.prompt_tokens;
            account.tell(Event::Started { prompt_tokens });
        }
    }

    /// Tells more output. Says why its choice has ended only where there are several.
    pub(super) fn delta(&self, mut delta: Delta) {
        let mut account = self.lock();
        delta.ended = delta.ended.filter(|_| account.choices > 1);
        let Delta { choice, ref ended, .. } = delta;
        if delta != (Delta { choice, ended: *ended, ..Delta::default() }) || ended.is_some() {
            account.tell(Event::Delta(delta));
        }
    }

    /// So much of the prompt was in the KV cache when a choice began.
    pub(super) fn cached(&self, tokens: usize) {
        self.lock().cached_tokens.get_or_insert(u32::try_from(tokens).unwrap_or(u32::MAX));
    }

    /// Counts a token of any choice.
    pub(super) fn token(&self, now: Instant) {
        let mut account = self.lock();
        account.completion_tokens += 1;
        account.first_token.get_or_insert(now);
    }

    /// Counts a choice as ended, and ends the request with the last.
    pub(super) fn end(&self, reason: FinishReason, now: Instant) {
        let mut account = self.lock();
        if account.open == 1 {
            let first = account.first_token.unwrap_or(now);
            let finish = Finish {
                reason,
                prompt_tokens: account.prompt_tokens,
                cached_tokens: account.cached_tokens.unwrap_or(0),
                completion_tokens: account.completion_tokens,
                prefill: first.saturating_duration_since(account.admitted),
                decode: now.saturating_duration_since(first),
            };
            account.tell(Event::Finished(finish));
        }
        account.open = account.open.saturating_sub(1);
    }

    /// Does without choices that have not begun.
    pub(super) fn forgo(&self, choices: u32) {
        let mut account = self.lock();
        account.open = account.open.saturating_sub(choices);
    }

    /// Ends the request with an error, whatever its choices are at.
    pub(super) fn fail(&self, error: GenerateError) {
        let mut account = self.lock();
        account.tell(Event::Failed(error));
        account.open = 0;
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        // A sink that panicked is called no more often than one that did not.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn tell(&mut self, event: Event) {
        if self.open > 0 {
            (self.events)(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn answer(choices: u32) -> (Answer, Receiver<Event>) {
        let (sender, events) = channel();
        (Answer::new(Box::new(move |event| drop(sender.send(event))), choices, 3, Instant::now()), events)
    }

    fn delta(choice: u32, ended: Option<FinishReason>) -> Delta {
        Delta { choice, text: "x".into(), ended, ..Delta::default() }
    }

    #[test]
    fn a_request_ends_with_its_last_choice() {
        let (answer, events) = answer(2);
        answer.delta(delta(1, Some(FinishReason::Stop)));
        answer.end(FinishReason::Stop, Instant::now());
        answer.token(Instant::now());
        answer.delta(delta(0, Some(FinishReason::Length)));
        answer.end(FinishReason::Length, Instant::now());
        let told: Vec<Event> = events.try_iter().collect();
        assert_eq!(told[0], Event::Delta(delta(1, Some(FinishReason::Stop))));
        let Event::Finished(finish) = &told[2] else { panic!("not finished: {told:?}") };
        assert_eq!((finish.reason, finish.completion_tokens), (FinishReason::Length, 1));
        assert_eq!(told.len(), 3);
    }

    #[test]
    fn an_only_choice_ends_with_its_request() {
        let (answer, events) = answer(1);
        answer.delta(delta(0, Some(FinishReason::Stop)));
        assert_eq!(events.try_iter().next(), Some(Event::Delta(delta(0, None))));
    }

    #[test]
    fn nothing_follows_a_failure() {
        let (answer, events) = answer(2);
        let error = GenerateError::Internal("broken".into());
        answer.fail(error.clone());
        answer.fail(error.clone());
        answer.delta(delta(0, None));
        answer.end(FinishReason::Stop, Instant::now());
        answer.end(FinishReason::Stop, Instant::now());
        assert_eq!(events.try_iter().collect::<Vec<_>>(), [Event::Failed(error)]);
    }
}
