//! Where a model's files come from: a path, an alias, or a model hub.
//!
//! [`ModelRef`] says what was asked for, [`Store`] turns it into files on this host, downloading
//! what is missing. The store reads no checkpoint and knows no architecture; whether the files
//! make a model is decided by the engine. Which files a hub repository contributes is decided
//! by `hub::select`, what the environment says by [`StoreOptions`].

mod alias;
mod error;
mod hub;
mod listing;
mod lock;
mod options;
mod progress;
mod reference;
mod store;
mod sys;
mod wheel;

pub use error::{ImportError, OpenError, RemoveError, ResolveError};
pub use listing::{Source, StoredModel};
pub use options::StoreOptions;
pub use progress::{Event, Progress, TerminalProgress};
pub use reference::{HubFile, HubRef, ModelRef, ParseRefError};
pub use store::{ResolvedModel, Store};

pub use alias::{Alias, aliases, default_alias};
