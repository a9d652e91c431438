//! Which guesses the model agrees with.

/// How many of `guesses` to keep, given the tokens the model `chose` at their places and after the last.
///
/// `chose[i]` is the choice after the tokens before `guesses[i]`; it is meaningful as long as all guesses before are
/// right. The sequence goes on with `chose[..=kept]`: the right guesses, and the model's own next token.
pub fn accepted(guesses: &[u32], chose: &[u32]) -> usize {
    guesses.iter().zip(chose).take_while(|(guess, choice)| guess == choice).count()
}

#[cfg(test)]
mod tests {
    use rand::distr::{Distribution, weighted::WeightedIndex};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn guesses_are_kept_up_to_the_first_that_differs() {
        assert_eq!(accepted(&[4, 5, 6], &[4, 5, 6, 7]), 3);
        assert_eq!(accepted(&[4, 5, 6], &[4, 9, 6, 7]), 1);
        assert_eq!(accepted(&[4], &[5, 1]), 0);
        assert_eq!(accepted(&[], &[5]), 0);
    }

    /// Chi-square of tokens emitted with guesses against the model's own distribution.
    #[test]
    fn the_distribution_of_the_output_is_that_of_the_model() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        // A model of four tokens whose next token depends on the last.
        let weights = [[8, 1, 1, 6], [1, 5, 3, 7], [2, 2, 2, 10], [9, 3, 3, 1]];
        let models = weights.map(|row| WeightedIndex::new(row).expect("weights are positive"));
        let mut counts = [[0u32; 4]; 4];
        let mut last = 0;
        for _ in 0..40_000 {
            // Guesses without regard to the model, as often wrong as right.
            let guesses: Vec<u32> = (0..3).map(|_| random.random_range(0..4)).collect();
            let mut context = last;
            let mut chose = Vec::new();
            for at in 0..=guesses.len() {
                chose.push(models[context as usize].sample(&mut random) as u32);
                context = guesses.get(at).copied().unwrap_or(0);
            }
            for &token in &chose[..=accepted(&guesses, &chose)] {
                counts[last as usize][token as usize] += 1;
                last = token;
            }
        }
        for (row, weights) in counts.iter().zip(weights) {
            let (total, mass) = (f64::from(row.iter().sum::<u32>()), f64::from(weights.iter().sum::<i32>()));
            let statistic: f64 = row
                .iter()
                .zip(weights)
                .map(|(&seen, weight)| {
                    let expected = total * f64::from(weight) / mass;
                    (f64::from(seen) - expected).powi(2) / expected
                })
                .sum();
            // The 99.9th percentile for three degrees of freedom.
            assert!(statistic < 16.27, "chi-square {statistic} of {row:?}");
        }
    }
}
