//! Deciding which way to go, and saying why.
//!
//! Pure: two offers, a policy and what has failed go in, an order of ways and a verdict on each kind come out.

use std::fmt;

use super::{Offer, Way};
use crate::contract::{Address, Kind};

/// What the person who runs the cluster wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Only ways that encrypt: RDMA does not.
    pub encrypted: bool,
    /// Only this way.
    pub only: Option<Kind>,
}

/// The ways between two peers, best first, and what was thought of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Kinds to try, in this order, with the peer's addresses.
    pub order: Vec<(Kind, Vec<Address>)>,
    /// Every kind either side knows of.
    pub verdicts: Vec<(Kind, Verdict)>,
}

/// What speaks for or against a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both have it.
    Possible {
        /// Paths that both stripe over.
        rails: usize,
    },
    /// It was tried and failed.
    Failed(String),
    /// This side has it not.
    MissingHere(String),
    /// The peer has it not.
    MissingThere(String),
    /// The policy rules it out.
    Ruled(&'static str),
}

/// Chooses between `ours` and `theirs`. `failed` says why a kind has failed with this peer, if it has: it is tried
/// last.
#[must_use]
pub fn choose(
    ours: &Offer,
    theirs: &Offer,
    policy: Policy,
    failed: impl Fn(Kind) -> Option<String>,
) -> Choice {
    let verdicts: Vec<_> = Kind::ALL
        .into_iter()
        .filter(|kind| ours.way(*kind).is_some() || theirs.way(*kind).is_some())
        .map(|kind| (kind, judge(kind, ours, theirs, policy, &failed)))
        .collect();
    let with = |wanted: fn(&Verdict) -> bool| {
        verdicts.iter().filter(move |(_, verdict)| wanted(verdict)).map(|(kind, _)| *kind)
    };
    let possible = with(|verdict| matches!(verdict, Verdict::Possible { .. }));
    let order = possible.chain(with(|verdict| matches!(verdict, Verdict::Failed(_))));
    let order = order.map(|kind| (kind, addresses(theirs, kind))).collect();
    Choice { order, verdicts }
}

fn judge(
    kind: Kind,
    ours: &Offer,
    theirs: &Offer,
    policy: Policy,
    failed: &impl Fn(Kind) -> Option<String>,
) -> Verdict {
    if policy.only.is_some_and(|only| only != kind) {
        return Verdict::Ruled("another was asked for");
    }
    let here = match ready(ours, kind) {
        Ok(here) => here,
        Err(reason) => return Verdict::MissingHere(reason),
    };
    let there = match ready(theirs, kind) {
        Ok(there) => there,
        Err(reason) => return Verdict::MissingThere(reason),
    };
    // What never leaves the process needs no encryption.
    if policy.encrypted && kind != Kind::InProcess && !(here.encrypted && there.encrypted) {
        return Verdict::Ruled("it does not encrypt");
    }
    match failed(kind) {
        Some(reason) => Verdict::Failed(reason),
        None => Verdict::Possible { rails: here.rails.min(there.rails) },
    }
}

struct Readiness {
    encrypted: bool,
    rails: usize,
}

fn ready(offer: &Offer, kind: Kind) -> Result<Readiness, String> {
    match offer.way(kind) {
        None => Err("not known".into()),
        Some(Way::Missing { reason, .. }) => Err(reason.clone()),
        Some(Way::Ready { addresses, .. }) if addresses.is_empty() => Err("no address".into()),
        Some(Way::Ready { encrypted, rails, .. }) => Ok(Readiness { encrypted: *encrypted, rails: *rails }),
    }
}

fn addresses(offer: &Offer, kind: Kind) -> Vec<Address> {
    match offer.way(kind) {
        Some(Way::Ready { addresses, .. }) => addresses.clone(),
        Some(Way::Missing { .. }) | None => Vec::new(),
    }
}

/// As in `rdma: no device; tcp: 3 rails; chosen tcp`.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, verdict) in &self.verdicts {
            write!(f, "{kind}: {verdict}; ")?;
        }
        match self.order.first() {
            Some((kind, _)) => write!(f, "chosen {kind}"),
            None => f.write_str("none is left"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Possible { rails: 1 } => f.write_str("1 rail"),
            Self::Possible { rails } => write!(f, "{rails} rails"),
            Self::Failed(reason) => write!(f, "failed ({reason})"),
            Self::MissingHere(reason) => write!(f, "{reason}"),
            Self::MissingThere(reason) => write!(f, "{reason} at the peer"),
            Self::Ruled(rule) => f.write_str(rule),
        }
    }
}
