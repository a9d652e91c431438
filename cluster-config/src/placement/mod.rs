//! Which devices hold which part of a model: a plan, worked out before anything is loaded.
//!
//! Pure: devices, links and a model's sizes go in, a [`Plan`] or what is missing comes out, the same for every order of
//! the hosts. `cost` says how long a step takes, `fill` shares layers between stages, `search` tries what there is to
//! try. Knows neither how anything was measured nor how a plan is carried out.

mod cluster;
mod cost;
mod fill;
mod model;
mod plan;
mod search;

pub use cluster::{Cluster, ClusterError, Device, Link};
pub use model::{Demand, ModelSize};
pub use plan::{Plan, Rank, Replica, Stage, Unplaceable};

#[cfg(test)]
mod tests;
