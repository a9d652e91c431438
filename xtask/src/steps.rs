//! Named steps, run in order until one fails.
//!
//! Prints what runs and how long it took. Knows no step; `test` lists them.

use std::time::Instant;

use anyhow::{Context, Result, bail};

/// One step of a command.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) run: fn() -> Result<()>,
}

/// Which steps to run.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Selection {
    /// Run only this step; may be repeated.
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Leave this step out; may be repeated.
    #[arg(long, value_name = "STEP")]
    skip: Vec<String>,
}

/// Runs the selected steps; the error names the step that failed.
pub(crate) fn run(steps: &[Step], selection: &Selection) -> Result<()> {
    selection.check(steps)?;
    let begun = Instant::now();
    let mut times = Vec::new();
    for step in steps.iter().filter(|step| selection.takes(step.name)) {
        println!("==> {}", step.name);
        let begun = Instant::now();
        (step.run)().with_context(|| format!("step `{0}` failed (repeat it: --only {0})", step.name))?;
        times.push(format!("{} {:.0} s", step.name, begun.elapsed().as_secs_f64()));
    }
    println!("==> passed in {:.0} s: {}", begun.elapsed().as_secs_f64(), times.join(", "));
    println!("steps: {} passed, 0 failed", times.len());
    Ok(())
}

impl Selection {
    fn takes(&self, name: &str) -> bool {
        let listed = |names: &[String]| names.iter().any(|listed| listed == name);
        (self.only.is_empty() || listed(&self.only)) && !listed(&self.skip)
    }

    fn check(&self, steps: &[Step]) -> Result<()> {
        for name in self.only.iter().chain(&self.skip) {
            if !steps.iter().any(|step| step.name == name) {
                let known: Vec<&str> = steps.iter().map(|step| step.name).collect();
                bail!("no step is called `{name}`; there are: {}", known.join(", "));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: &[Step] =
        &[Step { name: "good", run: || Ok(()) }, Step { name: "bad", run: || bail!("it broke") }];

    fn select(only: &[&str], skip: &[&str]) -> Selection {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Selection { only: owned(only), skip: owned(skip) }
    }

    #[test]
    fn a_failing_step_is_named_with_its_cause() {
        let error = run(STEPS, &Selection::default()).expect_err("a step fails");
        assert_eq!(format!("{error:#}"), "step `bad` failed (repeat it: --only bad): it broke");
    }

    #[test]
    fn steps_can_be_left_out_or_picked() {
        run(STEPS, &select(&[], &["bad"])).expect("the bad step is left out");
        run(STEPS, &select(&["good"], &[])).expect("only the good step runs");
    }

    #[test]
    fn an_unknown_step_is_refused() {
        let error = run(STEPS, &select(&["ugly"], &[])).expect_err("there is no such step");
        assert_eq!(error.to_string(), "no step is called `ugly`; there are: good, bad");
    }
}
