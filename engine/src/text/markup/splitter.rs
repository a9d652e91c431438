//! Splits a model's output into what it says, what it thinks and which tools it calls.
//!
//! Works on text as it comes, in pieces of any size, and never gives out part of a marker. What is marked as a
//! call and is none is given back as text, as it was written. Which markers a model uses, `Markup` says.

use super::call_reader::{CallReader, Told};
use super::{CallMarkup, CallPart, Split};

/// Splits one choice's output.
#[derive(Debug)]
pub(crate) struct Splitter {
    calls: Option<CallMarkup>,
    /// Names of the tools that may be called.
    tools: Vec<String>,
    /// Reasoning may begin here with its marker: nothing but white space has been said.
    may_think: bool,
    state: State,
    /// Text not yet given out: perhaps the beginning of a marker.
    held: String,
    /// White space that is given out only if text follows it.
    space: String,
    /// Whether anything but white space has been said.
    said: bool,
    /// Calls begun.
    begun: u32,
}

#[derive(Debug)]
enum State {
    Saying,
    Thinking,
    /// Between the markers of calls. What was read since the last call ended, for the case that it is none.
    Calling(CallReader, String),
    /// After reasoning or a call: white space is the markup's.
    Called,
}

impl Splitter {
    /// For output in which calls are marked in this way, if at all. `thinks` is whether the model marks
    /// reasoning, `thinking` whether its prompt has begun some.
    pub(crate) fn new(calls: Option<CallMarkup>, tools: Vec<String>, thinks: bool, thinking: bool) -> Self {
        Self {
            calls,
            tools,
            may_think: thinks && !thinking,
            state: if thinking { State::Thinking } else { State::Saying },
            held: String::new(),
            space: String::new(),
            said: false,
            begun: 0,
        }
    }

    /// Whether any tool has been called.
    pub(crate) fn has_called(&self) -> bool {
        self.begun > 0
    }

    /// Takes more output.
    pub(crate) fn push(&mut self, text: &str) -> Split {
        let mut split = Split::default();
        self.held.push_str(text);
        while self.step(&mut split) {}
        split
    }

    /// Ends the output: what was held back is what it looks like.
    pub(crate) fn finish(&mut self) -> Split {
        let mut split = Split::default();
        let held = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.state, State::Called) {
            State::Thinking => self.think(&held, &mut split),
            // What has been told of a call cut short stands; what has not been told was text.
            State::Calling(reader, _) if reader.has_told() => {}
            State::Calling(_, raw) => self.say(&(raw + &held), &mut split),
            State::Saying => {
                self.state = State::Saying;
                self.say(&held, &mut split);
                split.text.push_str(&std::mem::take(&mut self.space));
            }
            State::Called => self.say(&held, &mut split),
        }
        split
    }

    /// Does what can be done with the text held; false when more is needed.
    fn step(&mut self, split: &mut Split) -> bool {
        match &self.state {
            State::Thinking => self.step_thinking(split),
            State::Calling(..) => self.step_calling(split),
            State::Saying | State::Called => self.step_saying(split),
        }
    }

    fn step_thinking(&mut self, split: &mut Split) -> bool {
        match find(&self.held, &[THINK_END]) {
            Found::At(at, marker) => {
                let rest = self.held.split_off(at + marker.len());
                let thought = std::mem::replace(&mut self.held, rest);
                self.think(&thought[..at], split);
                self.space.clear();
                self.said = false;
                self.state = State::Called;
                true
            }
            Found::Perhaps(at) => {
                let rest = self.held.split_off(at);
                let thought = std::mem::replace(&mut self.held, rest);
                self.think(&thought, split);
                false
            }
        }
    }

    fn step_saying(&mut self, split: &mut Split) -> bool {
        let bare = self.calls.is_some_and(CallMarkup::is_bare) && !self.said;
        let begin = self.held.trim_start();
        if bare && begin.starts_with('{') {
            self.held = begin.to_owned();
            self.begin_calls(String::new());
            return true;
        }
        let mut markers: Vec<&str> = self.calls.map(CallMarkup::begin).into_iter().collect();
        if self.may_think && !self.said {
            markers.push(THINK_BEGIN);
        }
        match find(&self.held, &markers) {
            Found::At(at, marker) => {
                let rest = self.held.split_off(at + marker.len());
                let said = std::mem::replace(&mut self.held, rest);
                self.say(&said[..at], split);
                if marker == THINK_BEGIN && !self.said {
                    (self.may_think, self.state) = (false, State::Thinking);
                    self.space.clear();
                } else if marker == THINK_BEGIN {
                    self.say(marker, split);
                } else {
                    self.begin_calls(marker.to_owned());
                }
                true
            }
            Found::Perhaps(at) => {
                let rest = self.held.split_off(at);
                let said = std::mem::replace(&mut self.held, rest);
                self.say(&said, split);
                false
            }
        }
    }

    fn begin_calls(&mut self, raw: String) {
        self.state = State::Calling(CallReader::default(), raw);
    }

    fn step_calling(&mut self, split: &mut Split) -> bool {
        let State::Calling(mut reader, mut raw) = std::mem::replace(&mut self.state, State::Called) else {
            return false;
        };
        let end = self.calls.and_then(CallMarkup::end);
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_str();
        while let Some(c) = rest.chars().next() {
            if let Some(end) = end.filter(|_| !reader.is_inside()) {
                if let Some(after) = rest.strip_prefix(end) {
                    self.held = after.to_owned();
                    return true;
                }
                if end.starts_with(rest) {
                    break;
                }
            }
            let told = reader.push(c);
            let done = told == Told::Done;
            if !self.take(told, split) {
                // Not a call, or of no tool there is: it was text. Its marker is not looked for again.
                let text = std::mem::take(&mut raw) + rest;
                self.said = true;
                self.state = State::Saying;
                self.say(&text, split);
                return false;
            }
            if done || reader.has_told() {
                raw.clear();
            } else if reader.is_inside() || !reader.has_completed() {
                raw.push(c);
            }
            rest = &rest[c.len_utf8()..];
        }
        self.held = rest.to_owned();
        self.state = State::Calling(reader, raw);
        false
    }

    /// Passes on what a character of a call told; false where there is no such call.
    fn take(&mut self, told: Told, split: &mut Split) -> bool {
        match told {
            Told::Call(name, arguments) => {
                if !self.tools.contains(&name) {
                    return false;
                }
                self.space.clear();
                split.calls.push(CallPart { index: self.begun, name: Some(name), arguments });
                self.begun += 1;
            }
            Told::Arguments(c) => match split.calls.last_mut() {
                Some(call) => call.arguments.push(c),
                None => {
                    let index = self.begun.saturating_sub(1);
                    split.calls.push(CallPart { index, name: None, arguments: c.into() });
                }
            },
            Told::Nothing | Told::Done => {}
            Told::Broken => return false,
        }
        true
    }

    fn say(&mut self, text: &str, split: &mut Split) {
        // White space after calls is the markup's.
        let text = if matches!(self.state, State::Called) { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        if matches!(self.state, State::Called) {
            self.state = State::Saying;
        }
        self.give(text, |split| &mut split.text, split);
        self.said |= !text.trim().is_empty();
    }

    fn think(&mut self, text: &str, split: &mut Split) {
        let text = if self.said { text } else { text.trim_start() };
        self.give(text, |split| &mut split.reasoning, split);
        self.said |= !text.is_empty();
    }

    /// Gives out text but for the white space at its end.
    fn give(&mut self, text: &str, to: fn(&mut Split) -> &mut String, split: &mut Split) {
        let end = text.trim_end().len();
        if end > 0 {
            let out = to(split);
            out.push_str(&std::mem::take(&mut self.space));
            out.push_str(&text[..end]);
        }
        self.space.push_str(&text[end..]);
    }
}

enum Found<'a> {
    /// A whole marker, here.
    At(usize, &'a str),
    /// From here on it could become one.
    Perhaps(usize),
}

/// The first of `markers` in `text`.
fn find<'a>(text: &str, markers: &[&'a str]) -> Found<'a> {
    let whole = markers.iter().filter_map(|marker| Some((text.find(marker)?, *marker))).min();
    if let Some((at, marker)) = whole {
        return Found::At(at, marker);
    }
    let longest = markers.iter().map(|marker| marker.len()).max().unwrap_or(0);
    let from = text.len().saturating_sub(longest);
    let mut places = text.char_indices().map(|(at, _)| at).filter(|&at| at >= from);
    let begins = |at: &usize| markers.iter().any(|marker| marker.starts_with(&text[*at..]));
    Found::Perhaps(places.find(begins).unwrap_or(text.len()))
}

const THINK_BEGIN: &str = "<think>";
const THINK_END: &str = "</think>";
