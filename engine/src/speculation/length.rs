//! How many guesses pay.
//!
//! A step of r rows costs about a + b r: a for reading the weights, b for what grows with rows. A guess adds a row and,
//! when it and all before it are right, a token. The best number maximises tokens per time (section 3.5 of Leviathan et
//! al., 2023, with a measured cost in place of a fixed ratio). Knows no clock: it is told how long steps took.

/// What a step costs by its rows, fitted to the latest steps.
#[derive(Debug, Clone, Copy)]
pub struct StepCost {
    /// Weighted sums of 1, r, r^2, t and r t.
    weight: f64,
    rows: f64,
    rows_squared: f64,
    seconds: f64,
    rows_seconds: f64,
}

impl Default for StepCost {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

impl StepCost {
    /// Of which no step has been seen.
    pub const UNKNOWN: Self =
        Self { weight: 0.0, rows: 0.0, rows_squared: 0.0, seconds: 0.0, rows_seconds: 0.0 };

    /// Records a decode step of `rows` rows.
    pub fn record(&mut self, rows: usize, seconds: f64) {
        let rows = rows as f64;
        for (sum, new) in [
            (&mut self.weight, 1.0),
            (&mut self.rows, rows),
            (&mut self.rows_squared, rows * rows),
            (&mut self.seconds, seconds),
            (&mut self.rows_seconds, rows * seconds),
        ] {
            *sum = *sum * MEMORY + new;
        }
    }

    /// Seconds of a step, of late, once any was seen.
    pub fn seconds(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.seconds / self.weight)
    }

    /// The cost of one more row relative to that of a step without it: b / (a + b rows). Until steps of different
    /// sizes have been seen, a cautious guess.
    fn of_a_row(&self, rows: usize) -> f64 {
        let spread = self.weight * self.rows_squared - self.rows * self.rows;
        if spread < 1e-3 * self.weight * self.rows_squared || self.weight < 4.0 {
            return UNKNOWN_ROW_COST;
        }
        let slope = (self.weight * self.rows_seconds - self.rows * self.seconds) / spread;
        let base = (self.seconds - slope * self.rows) / self.weight + slope * rows as f64;
        if base > 0.0 { (slope / base).max(0.0) } else { UNKNOWN_ROW_COST }
    }
}

/// How often one sequence's guesses are right.
#[derive(Debug, Clone, Copy)]
pub struct AcceptanceRate {
    right: f64,
    tried: f64,
    /// Tokens since the last guess was tried.
    idle: u32,
}

impl Default for AcceptanceRate {
    /// As if two of four guesses had been right.
    fn default() -> Self {
        Self { right: 2.0, tried: 4.0, idle: 0 }
    }
}

impl AcceptanceRate {
    /// Records a step in which `kept` of `guessed` guesses were right. Guesses behind a wrong one do not count.
    pub fn record(&mut self, guessed: usize, kept: usize) {
        if guessed == 0 {
            self.idle += 1;
            return;
        }
        self.idle = 0;
        let tried = guessed.min(kept + 1);
        self.right = self.right * MEMORY.powi(tried as i32) + kept as f64;
        self.tried = self.tried * MEMORY.powi(tried as i32) + tried as f64;
    }

    /// The chance that the next guess is right.
    pub fn chance(&self) -> f64 {
        self.right / self.tried
    }

    /// Whether to try again although guesses did not pay: text changes.
    fn probes(&self) -> bool {
        self.idle >= PROBE_EVERY
    }
}

/// How many of at most `most` guesses to check for a sequence in a step that has `rows` rows without them.
pub fn best_length(rate: &AcceptanceRate, cost: &StepCost, rows: usize, most: usize) -> usize {
    best_drafted_length(rate, cost, rows, (most, 0.0))
}

/// As [`best_length`], of guesses each of which costs `each` steps to make.
pub fn best_drafted_length(
    rate: &AcceptanceRate,
    cost: &StepCost,
    rows: usize,
    (most, each): (usize, f64),
) -> usize {
    if rate.probes() {
        return most.min(1);
    }
    let (chance, row) = (rate.chance().min(MOST_CERTAIN), cost.of_a_row(rows));
    // The rows of other sequences give their tokens with or without guesses.
    let others = rows.saturating_sub(1) as f64;
    let speed = |guesses: usize| {
        let own = (1.0 - chance.powi(guesses as i32 + 1)) / (1.0 - chance);
        (others + own) / (1.0 + (row + each) * guesses as f64)
    };
    let best = (0..=most).fold(0, |best, guesses| if speed(guesses) > speed(best) { guesses } else { best });
    if speed(best) > speed(0) * MARGIN { best } else { 0 }
}

/// Weight of a record after the next one.
const MEMORY: f64 = 0.97;

/// Tokens after which a sequence that does not guess tries again.
const PROBE_EVERY: u32 = 48;

/// Assumed before steps of different sizes were seen.
const UNKNOWN_ROW_COST: f64 = 0.3;

/// No guess is certain.
const MOST_CERTAIN: f64 = 0.99;

/// Guessing must gain this much: it also delays the step after, which cannot be prepared meanwhile.
const MARGIN: f64 = 1.05;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cost(base: f64, row: f64) -> StepCost {
        let mut cost = StepCost::default();
        (0..40).for_each(|n| cost.record(1 + n % 4, base + row * (1 + n % 4) as f64));
        cost
    }

    fn rate(guessed: usize, kept: usize) -> AcceptanceRate {
        let mut rate = AcceptanceRate::default();
        (0..100).for_each(|_| rate.record(guessed, kept));
        rate
    }

    #[test]
    fn many_guesses_pay_where_rows_are_cheap_and_guesses_right() {
        assert_eq!(best_length(&rate(4, 4), &cost(10.0, 0.01), 1, 8), 8);
    }

    #[test]
    fn no_guess_pays_where_all_are_wrong() {
        assert_eq!(best_length(&rate(4, 0), &cost(10.0, 1.0), 1, 8), 0);
    }

    #[test]
    fn no_guess_pays_where_a_row_costs_as_much_as_a_token() {
        assert_eq!(best_length(&rate(4, 3), &cost(0.0, 1.0), 16, 8), 0);
    }

    #[test]
    fn a_sequence_that_does_not_guess_tries_again_after_a_while() {
        let mut rate = rate(4, 0);
        (0..PROBE_EVERY).for_each(|_| rate.record(0, 0));
        assert_eq!(best_length(&rate, &cost(10.0, 1.0), 1, 8), 1);
        rate.record(1, 0);
        assert_eq!(best_length(&rate, &cost(10.0, 1.0), 1, 8), 0);
    }

    #[test]
    fn the_cost_of_a_row_is_learned_from_steps_of_different_sizes() {
        assert!((cost(9.0, 1.0).of_a_row(1) - 0.1).abs() < 1e-6);
        let mut same = StepCost::default();
        (0..40).for_each(|_| same.record(1, 5.0));
        assert_eq!(same.of_a_row(1), UNKNOWN_ROW_COST);
    }

    proptest! {
        #[test]
        fn better_guesses_are_never_checked_less(kept in 0usize..4, row in 0.01f64..2.0, rows in 1usize..20) {
            let cost = cost(10.0, row);
            let worse = best_length(&rate(4, kept), &cost, rows, 8);
            let better = best_length(&rate(4, kept + 1), &cost, rows, 8);
            prop_assert!(better >= worse, "{better} < {worse}");
        }

        #[test]
        fn dearer_rows_are_never_used_more(kept in 0usize..=4, row in 0.01f64..1.0, rows in 1usize..20) {
            let cheap = best_length(&rate(4, kept), &cost(10.0, row), rows, 8);
            let dear = best_length(&rate(4, kept), &cost(10.0, row * 2.0), rows, 8);
            prop_assert!(dear <= cheap, "{dear} > {cheap}");
        }
    }
}
