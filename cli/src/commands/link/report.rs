//! What `mlxcel link` says in the end.

use anyhow::Result;
use mlxcel_transport::Kind;
use mlxcel_transport::selection::Choice;
use serde_json::{Value, json};

use super::measure::Measured;

/// What came of every way.
#[derive(Default)]
pub(super) struct Report {
    /// What would be taken, and why.
    pub(super) choice: Option<Choice>,
    ways: Vec<(Kind, Result<Measured, String>)>,
}

impl Report {
    pub(super) fn add(&mut self, kind: Kind, measured: Result<Measured, String>) {
        self.ways.push((kind, measured));
    }

    pub(super) fn failed(&mut self, kind: Kind, why: String) {
        self.add(kind, Err(why));
    }

    /// Whether it was tried.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.ways.iter().any(|(tried, _)| *tried == kind)
    }

    /// Whether any way works.
    pub(super) fn has_measured(&self) -> bool {
        self.ways.iter().any(|(_, measured)| measured.is_ok())
    }

    pub(super) fn failure(&self, kind: Kind) -> Option<String> {
        let (_, result) = self.ways.iter().find(|(tried, _)| *tried == kind)?;
        result.as_ref().err().cloned()
    }

    fn measured(&self, kind: Kind) -> Option<Measured> {
        let (_, result) = self.ways.iter().find(|(tried, _)| *tried == kind)?;
        result.as_ref().ok().copied()
    }

    /// For people.
    pub(super) fn print(&self) -> Result<()> {
        let Some(choice) = &self.choice else { return Ok(()) };
        for (kind, verdict) in &choice.verdicts {
            match self.measured(*kind) {
                Some(Measured { round_trip, rate }) => println!(
                    "{kind:<5} {verdict}: 4 KiB there and back in {:.0} us, {:.2} GB/s",
                    round_trip.as_secs_f64() * 1e6,
                    rate / 1e9
                ),
                None => println!("{kind:<5} {verdict}"),
            }
        }
        println!("{choice}");
        Ok(())
    }

    /// For scripts.
    pub(super) fn print_json(&self) -> Result<()> {
        let choice = self.choice.as_ref();
        let ways = choice.iter().flat_map(|choice| &choice.verdicts).map(|(kind, verdict)| {
            let measured = self.measured(*kind);
            json!({
                "kind": kind.name(),
                "verdict": verdict.to_string(),
                "round_trip_us": measured.map(|measured| measured.round_trip.as_secs_f64() * 1e6),
                "bytes_per_second": measured.map(|measured| measured.rate),
            })
        });
        let ways: Vec<Value> = ways.collect();
        let chosen = choice.and_then(|choice| choice.order.first()).map(|(kind, _)| kind.name());
        println!("{}", json!({ "chosen": chosen, "ways": ways }));
        Ok(())
    }
}
