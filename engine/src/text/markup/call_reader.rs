//! Reads tool calls as models write them, JSON objects with a name and arguments, while they are being written.
//!
//! Arguments are passed on byte for byte as they come. Knows no markers around calls; the splitter does.

/// Reads one run of calls: objects side by side, in a list, or separated by commas or semicolons.
#[derive(Debug, Default)]
pub(super) struct CallReader {
    place: Place,
    /// The JSON string being read, with its quotes, as written.
    string: String,
    key: String,
    name: Option<String>,
    /// Arguments that came before the name.
    early: String,
    announced: bool,
    /// Whether a call has been read to its end.
    complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// Outside of objects.
    #[default]
    Between,
    /// Inside an object, where a key or its end is due.
    Key,
    /// Inside a string that is a key.
    KeyText {
        escaped: bool,
    },
    Colon,
    /// Where the value of `key` begins.
    Value,
    NameText {
        escaped: bool,
    },
    /// Inside a value that is arguments or of no interest; `depth` brackets are open.
    Raw {
        depth: usize,
        text: bool,
        escaped: bool,
    },
    /// After a value.
    Comma,
}

/// What a character told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing yet.
    Nothing,
    /// A call of this name has begun; these are its arguments so far.
    Call(String, String),
    /// More of the arguments of the call that began last.
    Arguments(char),
    /// The call that began last is complete.
    Done,
    /// This is not a call.
    Broken,
}

impl CallReader {
    /// Whether an object has begun and not ended.
    pub(super) fn is_inside(&self) -> bool {
        self.place != Place::Between
    }

    /// Whether the call being read has been told of.
    pub(super) fn has_told(&self) -> bool {
        self.announced
    }

    /// Whether a call has been read to its end.
    pub(super) fn has_completed(&self) -> bool {
        self.complete
    }

    /// Takes the next character. After `Broken` the reader is of no use.
    pub(super) fn push(&mut self, c: char) -> Told {
        match self.place {
            Place::Between => match c {
                '{' => {
                    *self = Self { place: Place::Key, complete: self.complete, ..Self::default() };
                    Told::Nothing
                }
                '[' | ']' | ',' | ';' => Told::Nothing,
                _ if c.is_whitespace() => Told::Nothing,
                _ => Told::Broken,
            },
            Place::KeyText { escaped } => match self.string(c, escaped) {
                Some(escaped) => self.go(Place::KeyText { escaped }),
                None => {
                    let key = serde_json::from_str(&self.string);
                    self.key = key.unwrap_or_default();
                    self.go(Place::Colon)
                }
            },
            Place::NameText { escaped } => match self.string(c, escaped) {
                Some(escaped) => self.go(Place::NameText { escaped }),
                None => self.named(),
            },
            Place::Raw { depth, text, escaped } => self.raw(c, depth, text, escaped),
            Place::Value => self.value(c),
            _ if c.is_whitespace() => Told::Nothing,
            Place::Key if c == '"' => {
                self.string = c.to_string();
                self.go(Place::KeyText { escaped: false })
            }
            Place::Colon if c == ':' => self.go(Place::Value),
            Place::Comma if c == ',' => self.go(Place::Key),
            Place::Key | Place::Comma if c == '}' => self.close(),
            Place::Key | Place::Colon | Place::Comma => Told::Broken,
        }
    }

    fn go(&mut self, place: Place) -> Told {
        self.place = place;
        Told::Nothing
    }

    /// Takes a character of a string; whether the next is escaped, nothing at its end.
    fn string(&mut self, c: char, escaped: bool) -> Option<bool> {
        self.string.push(c);
        match c {
            _ if escaped => Some(false),
            '"' => None,
            _ => Some(c == '\\'),
        }
    }

    fn is_arguments(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
    }

    fn named(&mut self) -> Told {
        self.place = Place::Comma;
        let Ok(name) = serde_json::from_str::<String>(&self.string) else { return Told::Broken };
        if self.name.is_some() {
            return Told::Broken;
        }
        self.name = Some(name.clone());
        self.announced = true;
        Told::Call(name, std::mem::take(&mut self.early))
    }

    /// The first character of a value.
    fn value(&mut self, c: char) -> Told {
        if c.is_whitespace() {
            return Told::Nothing;
        }
        match (self.key.as_str(), c) {
            ("name", '"') => {
                self.string = c.to_string();
                self.go(Place::NameText { escaped: false })
            }
            ("name", _) => Told::Broken,
            // Arguments are an object; whoever writes something else writes no call.
            _ if self.is_arguments() && c != '{' => Told::Broken,
            _ => {
                let depth = usize::from(matches!(c, '{' | '['));
                self.place = Place::Raw { depth, text: c == '"', escaped: false };
                self.argument(c)
            }
        }
    }

    fn raw(&mut self, c: char, depth: usize, text: bool, escaped: bool) -> Told {
        if text {
            let ends = c == '"' && !escaped;
            self.place = match ends && depth == 0 {
                true => Place::Comma,
                false => Place::Raw { depth, text: !ends, escaped: c == '\\' && !escaped },
            };
            return self.argument(c);
        }
        // A number or a word ends with what follows it.
        if depth == 0 && (matches!(c, ',' | '}') || c.is_whitespace()) {
            self.place = Place::Comma;
            return self.push(c);
        }
        let depth = match c {
            '{' | '[' => depth + 1,
            '}' | ']' if depth > 0 => depth - 1,
            '}' | ']' => return Told::Broken,
            _ => depth,
        };
        self.place = match c {
            '}' | ']' if depth == 0 => Place::Comma,
            _ => Place::Raw { depth, text: c == '"', escaped: false },
        };
        self.argument(c)
    }

    fn argument(&mut self, c: char) -> Told {
        if !self.is_arguments() {
            return Told::Nothing;
        }
        if self.announced {
            return Told::Arguments(c);
        }
        self.early.push(c);
        Told::Nothing
    }

    fn close(&mut self) -> Told {
        self.place = Place::Between;
        if !std::mem::take(&mut self.announced) {
            return Told::Broken;
        }
        self.complete = true;
        Told::Done
    }
}
