//! One model on several ranks, each a process with a device of its own: as an [`Engine`](crate::Engine) on one of them.
//!
//! A replica has stages, which hold consecutive layers, of one rank or several, which share every layer. The first rank
//! of the last stage leads: it has the logits and so chooses tokens, schedules, and tells every other rank the plan of
//! each step (`plans`). Hidden states go from stage to stage as nodes of the graphs on both sides (`hidden`), sums and
//! gathers within a stage likewise (`ranks`). Logits never travel. Who the ranks are, and over which transport they are
//! connected, is decided by whoever makes them.

mod attendance;
mod follower;
mod hidden;
mod layout;
mod leader;
mod member;
mod plans;

pub(crate) use attendance::Attendance;
pub use follower::{Follower, FollowerState, OnFailure};
pub use layout::{Layout, LayoutError, StageLayout};
pub(crate) use leader::Leader;
pub(crate) use member::Member;
pub use member::{JoinError, ReplicaOptions};
