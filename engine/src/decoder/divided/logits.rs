//! Every family, beside mlx-lm's logits.

use mlxcel_mlx_bridge::{Array, Dtype};

use super::member::{self, Member};
use super::{Division, Execution};
use crate::decoder::model::{Model, StepOutput};
use crate::decoder::parity::{BLOCKS, Case, Prompt, RaggedStep, cases, described, ragged_steps, store};
use crate::decoder::{Part, length};
use crate::schedule::{Span, StepPlan};
use crate::state::MixerCache;

fn check(division: Division) {
    let names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    let ends = member::said_by(division, "logits");
    let mut computed = 0;
    for name in &names {
        let first = ends[0].get(name).unwrap_or_else(|| panic!("nothing is said of {name}"));
        // Two heads are not for three ranks.
        computed += usize::from(!first.starts_with("refused"));
        assert!(!first.starts_with("wrong"), "{division:?}, {name}: {first}");
        assert!(ends.iter().all(|end| end[name] == *first), "{division:?}, {name}: ranks differ");
    }
    assert!(computed > names.len() / 3, "{division:?}: only {computed} cases can be divided so");
}

/// What a rank does: every case, in turn.
pub(super) fn logits(member: &Member) {
    for (number, case) in (1..).zip(cases()) {
        println!("says {} {}", case.name, member.run(number, &case));
    }
}

impl Member {
    /// Runs a case to its end; what is to be said of it.
    fn run(&self, number: u32, case: &Case) -> String {
        let mut model = None;
        let seen = self.steps(number, case, &mut model);
        self.meet(number);
        match seen {
            Ok(seen) => verdict(&seen, case, self.division.execution),
            Err(error) if error.contains("can be divided between at most") => "refused".to_owned(),
            Err(error) => format!("wrong: {error}"),
        }
    }

    fn steps(&self, number: u32, case: &Case, model: &mut Option<Model>) -> Result<Vec<Row>, String> {
        let (checkpoint, description) = described(&case.model)?;
        let place = self.place(description.layers.len());
        // Refused before anybody waits for it.
        description.portion(&place, &|_| 1).map_err(|error| error.to_string())?;
        let (part, execution) =
            (Part { whole: description, place, ranks: self.group(number) }, self.division.execution);
        let loaded = Model::load_part(part, &checkpoint, execution, None, &mut |_| {});
        let model = model.insert(loaded.map_err(|error| error.to_string())?);
        let mut cache = model.cache(BLOCKS);
        let mut seen = Vec::new();
        for RaggedStep { spans, ends } in ragged_steps(&case.prompts, &mut store()) {
            let (output, values) =
                self.step(number, model, spans, &mut cache).map_err(|error| error.to_string())?;
            match output {
                StepOutput::Logits(_) => {
                    let rows = values.chunks(model.description.vocab_size);
                    seen.extend(ends.into_iter().zip(rows).map(|((p, at), row)| (p, at, row.to_vec())));
                }
                _ => self.pass_on(number, &values),
            }
        }
        Ok(seen)
    }

    fn step(
        &self,
        number: u32,
        model: &Model,
        spans: Vec<Span>,
        cache: &mut MixerCache,
    ) -> mlxcel_mlx_bridge::Result<(StepOutput, Vec<f32>)> {
        let tokens: usize = spans.iter().map(|span| span.tokens.len()).sum();
        let plan = StepPlan { spans, copies: Vec::new() };
        let output = if self.stage() == 0 {
            model.forward(plan, None, cache)?
        } else {
            let hidden = self.hidden(number)?;
            let shape = [tokens, hidden.len() / tokens].map(length);
            model.forward_hidden(plan, Array::from_slice(&hidden, &shape)?.astype(model.dtype)?, cache)?
        };
        let (StepOutput::Logits(array) | StepOutput::Hidden(array) | StepOutput::Computed(array)) = &output;
        let values = array.astype(Dtype::Float32)?.to_vec()?;
        Ok((output, values))
    }
}

/// Prompt, place and logits.
type Row = (usize, usize, Vec<f32>);

fn verdict(seen: &[Row], case: &Case, execution: Execution) -> String {
    let tolerance = if execution == Execution::Graph { case.tolerance * 3.0 } else { case.tolerance };
    let worst = worst(seen, &case.prompts);
    if worst > tolerance {
        return format!("wrong: off by {worst}, allowed {tolerance}");
    }
    let mut hash = std::hash::DefaultHasher::new();
    for (_, _, row) in seen {
        row.iter().for_each(|value| std::hash::Hash::hash(&value.to_bits(), &mut hash));
    }
    format!("right {:x}", std::hash::Hasher::finish(&hash))
}

fn worst(seen: &[Row], prompts: &[Prompt]) -> f32 {
    let mut worst = 0.0f32;
    for (prompt, at, row) in seen {
        for (ours, theirs) in row.iter().zip(&prompts[*prompt].logits[*at]) {
            let error = (ours - theirs).abs();
            worst = if error.is_nan() { f32::INFINITY } else { worst.max(error) };
        }
    }
    worst
}

#[test]
fn two_ranks_give_mlx_lms_logits() {
    check(Division { stages: 1, ranks: 2, execution: Execution::Host });
}

#[test]
fn three_ranks_give_mlx_lms_logits() {
    check(Division { stages: 1, ranks: 3, execution: Execution::Host });
}

#[test]
fn two_stages_give_mlx_lms_logits() {
    check(Division { stages: 2, ranks: 1, execution: Execution::Host });
}

#[test]
fn two_stages_of_two_ranks_give_mlx_lms_logits() {
    check(Division { stages: 2, ranks: 2, execution: Execution::Host });
}

#[test]
fn two_ranks_of_mlx_graphs_give_mlx_lms_logits() {
    check(Division { stages: 1, ranks: 2, execution: Execution::Graph });
}
