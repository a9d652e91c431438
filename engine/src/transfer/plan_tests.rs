//! Plans against a plain copy: every row of every target rank is what the model's row is when it is stored as the
//! target stores it, whatever the division of either side.

use proptest::prelude::*;

use super::layout::{CacheLayout, LayerHeads, RowOrder};
use super::plan::{MappingError, TransferPlan};
use super::storage::RowStorage;

/// How one side divides a model.
#[derive(Debug, Clone)]
struct Division {
    ranks: usize,
    /// The first layer of the second stage; one stage where it is 0.
    cut: usize,
    block_tokens: usize,
    storage: RowStorage,
    order: RowOrder,
}

#[derive(Debug, Clone)]
struct Case {
    layers: usize,
    heads: usize,
    head_dim: usize,
    source: Division,
    target: Division,
    /// Blocks of the target.
    blocks: std::ops::Range<usize>,
}

impl Division {
    fn layouts(&self, case: &Case) -> Vec<CacheLayout> {
        let cut = self.cut.min(case.layers - 1);
        let bounds = if cut == 0 { vec![0, case.layers] } else { vec![0, cut, case.layers] };
        let rank = |layers: std::ops::Range<usize>, rank: usize| {
            let first = case.heads * rank / self.ranks;
            let heads = first..(case.heads * (rank + 1) / self.ranks).max(first + 1);
            CacheLayout {
                first_layer: layers.start,
                layers: layers
                    .map(|_| LayerHeads { heads: heads.clone(), head_dim: case.head_dim })
                    .collect(),
                block_tokens: self.block_tokens,
                storage: self.storage,
                order: self.order,
            }
        };
        let stages = bounds.windows(2).map(|bounds| bounds[0]..bounds[1]);
        stages.flat_map(|layers| (0..self.ranks).map(move |at| rank(layers.clone(), at))).collect()
    }
}

/// What the model computed: some number for every place, unlike its neighbours'.
fn row(layer: usize, head: usize, token: usize, head_dim: usize) -> Vec<f32> {
    let seed = layer * 7919 + head * 104_729 + token * 1301;
    (0..head_dim).map(|at| ((seed + at * 37) as f32 * 0.731).sin() * 3.0).collect()
}

/// A row's bytes, numbers and scales.
fn stored(storage: RowStorage, values: &[f32]) -> [Vec<u8>; 2] {
    let d = values.len();
    let (mut numbers, mut scales) = (vec![0; storage.number_bytes(d)], vec![0; storage.scale_bytes(d)]);
    storage.encode(values, &mut numbers, &mut scales);
    [numbers, scales]
}

/// The image of a rank's block.
fn image(layout: &CacheLayout, layer: usize, block: usize) -> Vec<u8> {
    let held = layout.layer(layer).expect("it is held");
    let mut image = vec![0; layout.image_bytes(held)];
    for token in 0..layout.block_tokens {
        for head in held.heads.clone() {
            let place = layout.place(held, head - held.heads.start, token);
            let values = row(layer, head, block * layout.block_tokens + token, held.head_dim);
            let [numbers, scales] = stored(layout.storage, &values);
            image[place.numbers].copy_from_slice(&numbers);
            image[place.scales].copy_from_slice(&scales);
        }
    }
    image
}

/// What a target's row must be, by a plain copy or conversion of the source's.
fn expected(case: &Case, layer: usize, head: usize, token: usize) -> [Vec<u8>; 2] {
    let [numbers, scales] = stored(case.source.storage, &row(layer, head, token, case.head_dim));
    if case.source.storage == case.target.storage {
        return [numbers, scales];
    }
    let mut values = vec![0.0; case.head_dim];
    case.source.storage.decode(&numbers, &scales, &mut values);
    stored(case.target.storage, &values)
}

fn check_layer(case: &Case, plan: &TransferPlan, target: usize, layer: usize) -> Result<(), TestCaseError> {
    let layout = &plan.targets()[target];
    let held = layout.layer(layer).expect("it is held");
    let bytes = layout.image_bytes(held);
    let tokens = case.blocks.start * layout.block_tokens..case.blocks.end * layout.block_tokens;
    let mut room = vec![0xAA; case.blocks.len() * bytes];
    let mut written = vec![0u8; room.len()];
    for (source, from) in plan.sources().iter().enumerate() {
        for portion in plan.portions(source, layer).filter(|portion| portion.target == target) {
            for block in tokens.start / from.block_tokens..tokens.end.div_ceil(from.block_tokens) {
                let image = image(from, layer, block);
                let ranges = plan.carry(portion, (block, &image), tokens.clone(), &mut room);
                ranges.into_iter().flatten().for_each(|at| written[at] += 1);
            }
        }
    }
    prop_assert!(written.iter().all(|times| *times == 1), "every byte is written once");
    for token in tokens.clone() {
        for head in held.heads.clone() {
            let place = layout.place(held, head - held.heads.start, token % layout.block_tokens);
            let base = (token / layout.block_tokens - case.blocks.start) * bytes;
            let [numbers, scales] = expected(case, layer, head, token);
            let found = |part: &std::ops::Range<usize>| &room[base + part.start..base + part.end];
            prop_assert_eq!(
                found(&place.numbers),
                &numbers[..],
                "layer {} head {} token {}",
                layer,
                head,
                token
            );
            prop_assert_eq!(found(&place.scales), &scales[..]);
        }
    }
    Ok(())
}

fn division() -> impl Strategy<Value = Division> {
    let tokens = prop::sample::select(vec![4usize, 8, 12]);
    let storage = prop::sample::select(RowStorage::ALL.to_vec());
    let order = prop::sample::select(vec![RowOrder::HeadMajor, RowOrder::TokenMajor]);
    (1usize..4, 0usize..3, tokens, storage, order).prop_map(|(ranks, cut, block_tokens, storage, order)| {
        Division { ranks, cut, block_tokens, storage, order }
    })
}

fn case() -> impl Strategy<Value = Case> {
    let head_dim = prop::sample::select(vec![2usize, 20, 32, 64]);
    (1usize..4, 1usize..7, head_dim, division(), division(), 0usize..3, 1usize..4).prop_map(
        |(layers, heads, head_dim, source, target, first, count)| Case {
            layers,
            heads,
            head_dim,
            source,
            target,
            blocks: first..first + count,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_row_arrives_where_it_belongs_whatever_the_division(case in case()) {
        let plan = TransferPlan::new(case.source.layouts(&case), case.target.layouts(&case)).expect("one model");
        for (target, layout) in plan.targets().iter().enumerate() {
            for layer in layout.layer_numbers() {
                check_layer(&case, &plan, target, layer)?;
            }
        }
    }
}

fn whole(layers: usize, heads: usize, head_dim: usize) -> CacheLayout {
    CacheLayout {
        first_layer: 0,
        layers: vec![LayerHeads { heads: 0..heads, head_dim }; layers],
        block_tokens: 32,
        storage: RowStorage::F32,
        order: RowOrder::HeadMajor,
    }
}

#[test]
fn what_cannot_be_mapped_is_refused_by_name() {
    let refused = |from: CacheLayout, to: CacheLayout| {
        TransferPlan::new(vec![from], vec![to]).expect_err("these are of different models")
    };
    assert_eq!(
        refused(whole(2, 3, 64), whole(4, 3, 64)),
        MappingError::Layers { source_layers: 2, target_layers: 4 }
    );
    assert_eq!(refused(whole(2, 2, 64), whole(2, 3, 64)), MappingError::Missing { layer: 0, head: 2 });
    assert_eq!(
        refused(whole(2, 3, 64), whole(2, 3, 128)),
        MappingError::HeadDim { layer: 0, source_dim: 64, target_dim: 128 }
    );
    let late = CacheLayout { first_layer: 1, ..whole(1, 3, 64) };
    assert_eq!(refused(late, whole(2, 3, 64)), MappingError::Missing { layer: 0, head: 0 });
}

#[test]
fn numbers_that_would_overflow_are_refused() {
    for malformed in [
        CacheLayout { first_layer: usize::MAX, ..whole(2, 3, 64) },
        CacheLayout { block_tokens: usize::MAX, ..whole(2, 3, 64) },
        CacheLayout { block_tokens: 0, ..whole(2, 3, 64) },
        whole(0, 3, 64),
        whole(2, usize::MAX, 64),
        whole(2, 3, usize::MAX),
    ] {
        assert!(
            matches!(malformed.check(), Err(error) if error.to_string().starts_with("a cache must have"))
        );
        assert!(TransferPlan::new(vec![malformed], vec![whole(2, 3, 64)]).is_err());
    }
}

#[test]
fn caches_alike_exchange_whole_images() {
    let plan = TransferPlan::new(vec![whole(1, 3, 64)], vec![whole(1, 3, 64)]).expect("they are alike");
    let portions: Vec<_> = plan.portions(0, 0).collect();
    let image = image(&plan.sources()[0], 0, 5);
    let mut room = vec![0; 2 * image.len()];
    let written = plan.carry(portions[0], (5, &image), 4 * 32..6 * 32, &mut room);
    assert_eq!((portions.len(), written.len()), (1, 1));
    assert_eq!(written[0], image.len()..2 * image.len());
    assert_eq!(&room[image.len()..], image);
}
