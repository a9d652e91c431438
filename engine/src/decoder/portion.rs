//! A rank's part of a decoder, as a description of its own: fewer layers, narrower matrices.
//!
//! Follows from how the description says each weight is cut, so that no family knows of ranks (Shoeybi et al.,
//! "Megatron-LM", 2019: attention by heads, feed-forward by columns and then rows, one sum after each). Cuts fall on
//! boundaries of quantisation groups and of whole KV heads; where there are fewer KV heads than ranks, those that
//! share one hold a copy each. Parts need not be equal. Pure: knows neither tensors nor transports.

use std::ops::Range;

use super::description::{Attention, Decoder, FeedForward, Layer, Linear, Mixer, Share, ShortConv};
use super::source::share_of;

/// A rank's place in a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The layers of its stage.
    pub layers: Range<usize>,
    /// Which of the ranks of the stage it is.
    pub rank: usize,
    /// How many ranks the stage has.
    pub ranks: usize,
}

/// Why a decoder cannot be divided so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortionError {
    /// The layers are not there.
    #[error("layers {first} to {last} were asked for, the model has {layers}", first = .asked.start, last = .asked.end)]
    Layers {
        /// What was asked for.
        asked: Range<usize>,
        /// What there is.
        layers: usize,
    },
    /// Some rank would be left with nothing.
    #[error("{what} can be divided between at most {most} ranks, {ranks} were asked for")]
    TooManyRanks {
        /// What is divided.
        what: String,
        /// Between how many it could be.
        most: usize,
        /// Between how many it was to be.
        ranks: usize,
    },
}

/// Input features that belong together in a matrix: a quantisation group, 1 in a float matrix.
pub type Grain<'a> = &'a dyn Fn(&Linear) -> usize;

impl Place {
    /// The only place of a replica of one rank.
    #[must_use]
    pub fn alone(decoder: &Decoder) -> Self {
        Self { layers: 0..decoder.layers.len(), rank: 0, ranks: 1 }
    }
}

impl Decoder {
    /// The part of this decoder, which is a whole one, for the rank at `place`.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn portion(&self, place: &Place, grain: Grain<'_>) -> Result<Self, PortionError> {
        let (asked, layers) = (place.layers.clone(), self.layers.len());
        if asked.is_empty() || asked.end > layers || place.rank >= place.ranks {
            return Err(PortionError::Layers { asked, layers });
        }
        let (first, last) = (asked.start == 0, asked.end == layers);
        let vocabulary = |table: &Linear| vocabulary(table, place);
        let embedding = self.embedding.as_ref().filter(|_| first).map(vocabulary).transpose()?;
        let output = self
            .output
            .clone()
            .filter(|_| last)
            .map(|output| Ok(super::description::Output { head: vocabulary(&output.head)?, ..output }));
        Ok(Self {
            embedding,
            layers: self.layers[asked].iter().map(|of| layer(of, place, grain)).collect::<Result<_, _>>()?,
            output: output.transpose()?,
            ..self.clone()
        })
    }
}

impl Decoder {
    /// Elements of all matrices.
    #[must_use]
    pub fn elements(&self) -> usize {
        let of = |linear: &Linear| linear.inputs * linear.outputs;
        let tied = self.embedding.is_some();
        let output = self.output.as_ref().filter(|output| !(output.tied && tied));
        let layers = self.layers.iter().map(|layer| {
            let FeedForward::Gated { gate, up, down, .. } = &layer.feed_forward;
            let mixer = layer.mixer.linears().into_iter();
            mixer.chain([gate, up, down]).map(of).sum::<usize>()
        });
        let tables = self.embedding.as_ref().map_or(0, of) + output.map_or(0, |output| of(&output.head));
        tables + layers.sum::<usize>()
    }
}

fn vocabulary(table: &Linear, place: &Place) -> Result<Linear, PortionError> {
    let part = share(table.outputs, place.rank, place.ranks);
    let most = || too_many("the vocabulary", table.outputs, place.ranks);
    if part.is_empty() { Err(most()) } else { Ok(by_outputs(table, part)) }
}

fn layer(layer: &Layer, place: &Place, grain: Grain<'_>) -> Result<Layer, PortionError> {
    let FeedForward::Gated { gate, up, down, activation } = &layer.feed_forward;
    let inner = in_units(down.inputs, grain(down), place)
        .ok_or_else(|| too_many(&down.name, down.inputs.div_ceil(grain(down)), place.ranks))?;
    let feed_forward = FeedForward::Gated {
        gate: by_outputs(gate, inner.clone()),
        up: by_outputs(up, inner.clone()),
        down: by_inputs(down, inner, place),
        activation: *activation,
    };
    let mixer = match &layer.mixer {
        Mixer::Attention(mixer) => Mixer::Attention(attention(mixer, place, grain(&mixer.output))?),
        Mixer::ShortConv(mixer) => Mixer::ShortConv(short_conv(mixer, place, grain(&mixer.output))?),
    };
    Ok(Layer { mixer, feed_forward, ..layer.clone() })
}

/// Channels know nothing of each other.
fn short_conv(whole: &ShortConv, place: &Place, grain: usize) -> Result<ShortConv, PortionError> {
    let channels = in_units(whole.channels, grain, place)
        .ok_or_else(|| too_many(&whole.output.name, whole.channels.div_ceil(grain), place.ranks))?;
    let part = |linear: &Linear| by_outputs(linear, channels.clone());
    Ok(ShortConv {
        channels: channels.len(),
        input_gate: part(&whole.input_gate),
        output_gate: part(&whole.output_gate),
        value: part(&whole.value),
        output: by_inputs(&whole.output, channels.clone(), place),
        share: Some((channels, whole.channels)),
        ..whole.clone()
    })
}

fn attention(whole: &Attention, place: &Place, grain: usize) -> Result<Attention, PortionError> {
    // Ranks that share a KV head are not equally many everywhere: what one of them cannot do none does.
    let of = |rank| heads(whole, grain, &Place { rank, ..place.clone() });
    (0..place.ranks).try_for_each(|rank| of(rank).map(drop))?;
    let (heads, kv_heads) = of(place.rank)?;
    let features = |heads: &Range<usize>| heads.start * whole.head_dim..heads.end * whole.head_dim;
    let (queries, keys) = (features(&heads), features(&kv_heads));
    Ok(Attention {
        heads: heads.len(),
        kv_heads: kv_heads.len(),
        query: by_outputs(&whole.query, queries.clone()),
        key: by_outputs(&whole.key, keys.clone()),
        value: by_outputs(&whole.value, keys),
        output: by_inputs(&whole.output, queries, place),
        share: Some((heads, whole.heads)),
        ..whole.clone()
    })
}

/// Query and KV heads of a rank: whole groups of query heads with their KV head, or, where there are more ranks than
/// KV heads, part of one group with a copy of its KV head.
fn heads(
    whole: &Attention,
    grain: usize,
    place: &Place,
) -> Result<(Range<usize>, Range<usize>), PortionError> {
    let group = whole.heads / whole.kv_heads;
    let unit = grain / gcd(grain, group * whole.head_dim);
    if let Some(kv_heads) = in_units(whole.kv_heads, unit, place) {
        return Ok((kv_heads.start * group..kv_heads.end * group, kv_heads));
    }
    let grain_of_heads = grain / gcd(grain, whole.head_dim);
    let shared = if group.is_multiple_of(grain_of_heads) { whole.heads / grain_of_heads } else { 0 };
    let most = whole.kv_heads.div_ceil(unit).max(shared);
    let refusal = || too_many(&format!("the heads of {}", whole.output.name), most, place.ranks);
    if place.ranks < whole.kv_heads || place.ranks > most {
        return Err(refusal());
    }
    let sharing = |kv_head| share(place.ranks, kv_head, whole.kv_heads);
    let kv_head = (0..whole.kv_heads).find(|&kv_head| sharing(kv_head).contains(&place.rank));
    let kv_head = kv_head.unwrap_or_default();
    let ranks = sharing(kv_head);
    let within = Place { rank: place.rank - ranks.start, ranks: ranks.len(), layers: 0..0 };
    let first = kv_head * group;
    let part = in_units(group, grain_of_heads, &within).ok_or_else(refusal)?;
    Ok((first + part.start..first + part.end, kv_head..kv_head + 1))
}

/// The part of `0..whole` of a rank, cut between units; `None` where there are more ranks than units.
fn in_units(whole: usize, unit: usize, place: &Place) -> Option<Range<usize>> {
    let units = share(whole.div_ceil(unit), place.rank, place.ranks);
    (!units.is_empty() && whole.div_ceil(unit) >= place.ranks)
        .then(|| units.start * unit..(units.end * unit).min(whole))
}

/// The part of `0..whole` of one of `of`, as even as it can be.
fn share(whole: usize, part: usize, of: usize) -> Range<usize> {
    part * whole / of..(part + 1) * whole / of
}

/// Some of the outputs of a layer, which may itself be a part of a larger matrix.
fn by_outputs(linear: &Linear, outputs: Range<usize>) -> Linear {
    let of = share_of(linear);
    let outputs = of.outputs.start + outputs.start..of.outputs.start + outputs.end;
    let share = Share { outputs, ..of };
    Linear { outputs: share.outputs.len(), share: Some(share), ..linear.clone() }
}

/// A matrix whose results the ranks sum: the first of them adds the bias.
fn by_inputs(linear: &Linear, inputs: Range<usize>, place: &Place) -> Linear {
    let share = Share { outputs: 0..linear.outputs, whole: [linear.outputs, linear.inputs], inputs };
    let bias = linear.bias && place.rank == 0;
    Linear { inputs: share.inputs.len(), bias, share: Some(share), ..linear.clone() }
}

fn too_many(what: &str, most: usize, ranks: usize) -> PortionError {
    PortionError::TooManyRanks { what: what.to_owned(), most, ranks }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::families;

    fn decoder(heads: usize, kv_heads: usize, intermediate: usize) -> Decoder {
        let config = json!({
            "model_type": "qwen2", "hidden_size": 64, "intermediate_size": intermediate, "head_dim": 16,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "num_hidden_layers": 3,
            "vocab_size": 101, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
        });
        families::describe(&config).expect("it is a model")
    }

    fn convolution(channels: usize) -> Decoder {
        let config = json!({
            "model_type": "lfm2", "hidden_size": channels, "num_hidden_layers": 1, "num_attention_heads": 4,
            "vocab_size": 101, "norm_eps": 1e-5, "conv_L_cache": 3, "block_ff_dim": 512,
            "block_auto_adjust_ff_dim": false, "layer_types": ["conv"],
        });
        families::describe(&config).expect("it is a model")
    }

    fn parts(whole: &Decoder, ranks: usize, grain: usize) -> Result<Vec<Decoder>, PortionError> {
        let place = |rank| Place { layers: 0..whole.layers.len(), rank, ranks };
        (0..ranks).map(|rank| whole.portion(&place(rank), &|_| grain)).collect()
    }

    fn mixer(part: &Decoder) -> &Attention {
        part.layers[0].mixer.attention().expect("it is attention")
    }

    fn inputs(of: &Linear) -> Range<usize> {
        of.share.as_ref().map_or(0..of.inputs, |share| share.inputs.clone())
    }

    proptest! {
        #[test]
        fn parts_cover_the_whole_once_and_are_cut_between_groups(
            group in 1_usize..5, kv_heads in 1_usize..6, units in 1_usize..9, rest in 0_usize..32,
            ranks in 1_usize..9, grain in prop::sample::select(vec![1_usize, 16, 32]),
        ) {
            let whole = decoder(group * kv_heads, kv_heads, units * 32 + rest);
            let Ok(parts) = parts(&whole, ranks, grain) else { return Ok(()) };
            let (mut head, mut inner) = (0, 0);
            for part in &parts {
                let attention = mixer(part);
                prop_assert_eq!(attention.heads % attention.kv_heads, 0);
                let share = inputs(&attention.output);
                prop_assert_eq!(share.start, head * 16);
                prop_assert_eq!(share.start % grain, 0);
                // The KV heads it has are those of its query heads.
                let keys = attention.key.share.as_ref().expect("it is a part").outputs.start / 16;
                prop_assert_eq!(head / group, keys);
                prop_assert_eq!((head + attention.heads - 1) / group, keys + attention.kv_heads - 1);
                head += attention.heads;
                let FeedForward::Gated { gate, down, .. } = &part.layers[0].feed_forward;
                prop_assert_eq!(inputs(down).start, inner);
                prop_assert_eq!(inner % grain, 0);
                prop_assert_eq!(gate.outputs, down.inputs);
                inner += down.inputs;
            }
            prop_assert_eq!((head, inner), (whole_heads(&whole), units * 32 + rest));
        }

        #[test]
        fn channels_of_a_convolution_are_cut_between_groups_and_once(
            units in 1_usize..9, ranks in 1_usize..9, grain in prop::sample::select(vec![1_usize, 16, 32]),
        ) {
            let whole = convolution(units * 32);
            let Ok(parts) = parts(&whole, ranks, grain) else {
                prop_assert!(ranks > (units * 32).div_ceil(grain).min(16));
                return Ok(())
            };
            let mut next = 0;
            for part in &parts {
                let conv = part.layers[0].mixer.short_conv().expect("it is a convolution");
                let own = inputs(&conv.output);
                prop_assert_eq!((own.start, own.start % grain, own.len()), (next, 0, conv.channels));
                // The three matrices are thirds of one tensor.
                for (third, linear) in [&conv.input_gate, &conv.output_gate, &conv.value].into_iter().enumerate() {
                    let share = linear.share.as_ref().expect("it is a part");
                    prop_assert_eq!(share.whole, [3 * units * 32, units * 32]);
                    let rows = third * units * 32 + own.start..third * units * 32 + own.end;
                    prop_assert_eq!(share.outputs.clone(), rows);
                }
                prop_assert_eq!(conv.share.clone(), Some((own.clone(), units * 32)));
                next = own.end;
            }
            prop_assert_eq!(next, units * 32);
        }

        #[test]
        fn ranks_that_each_could_have_a_head_get_one(group in 1_usize..5, kv_heads in 1_usize..6, ranks in 1_usize..9) {
            let whole = decoder(group * kv_heads, kv_heads, 256);
            prop_assert_eq!(parts(&whole, ranks, 1).is_ok(), ranks <= kv_heads.max(kv_heads * group));
        }
    }

    fn whole_heads(whole: &Decoder) -> usize {
        mixer(whole).heads
    }

    #[test]
    fn stages_have_their_layers_and_only_the_ends_what_belongs_there() {
        let whole = decoder(4, 2, 64);
        let stage =
            |layers| whole.portion(&Place { layers, rank: 0, ranks: 1 }, &|_| 1).expect("it is a part");
        let (first, last) = (stage(0..2), stage(2..3));
        assert_eq!((first.layers.len(), first.embedding.is_some(), first.output.is_some()), (2, true, false));
        assert_eq!((last.layers.len(), last.embedding.is_some(), last.output.is_some()), (1, false, true));
        assert_eq!(last.layers[0].mixer_norm, whole.layers[2].mixer_norm);
    }

    #[test]
    fn more_ranks_than_heads_are_refused_by_name() {
        let error = parts(&decoder(4, 2, 256), 5, 1).expect_err("there are four heads");
        assert_eq!(
            error.to_string(),
            "the heads of model.layers.0.self_attn.o_proj can be divided between at most 4 ranks, 5 were asked for"
        );
    }

    #[test]
    fn only_the_first_rank_adds_a_bias_that_would_be_summed() {
        let mut whole = decoder(4, 2, 64);
        let Mixer::Attention(attention) = &mut whole.layers[0].mixer else { panic!("it is attention") };
        attention.output.bias = true;
        let parts = parts(&whole, 2, 1).expect("it can be divided");
        assert_eq!(parts.iter().map(|part| mixer(part).output.bias).collect::<Vec<_>>(), [true, false]);
        assert!(parts.iter().all(|part| mixer(part).query.bias), "each has its part of the others");
    }
}
