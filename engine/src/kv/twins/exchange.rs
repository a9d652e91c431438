//! Sequences whose blocks go from each cache to the other, to other places: what is attended to afterwards is as before.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use mlxcel_kernels::KvDtype;
use mlxcel_mlx_bridge::Dtype;
use proptest::prelude::*;

use super::{LAYERS, Twins, attention};
use crate::api::DeviceChoice;
use crate::blocks::{BLOCK_TOKENS, BlockId, BlockTable};
use crate::decoder::{Attention, CudaKernels};
use crate::device::Device;
use crate::kv::PutLayer;
use crate::transfer::{
    BlockSink, BlockSource, CacheLayout, ImagePlace, LayerHeads, RowOrder, RowStorage, Tap, TransferPlan,
};

/// What a cache gave: images by layer, side and block.
#[derive(Default)]
struct Images(Mutex<HashMap<(usize, usize, usize), Vec<u8>>>);

impl BlockSink for Images {
    fn image(&self, place: ImagePlace, image: &[u8]) {
        let key = (place.layer, place.side, place.block);
        let before = self.0.lock().expect("no panic").insert(key, image.to_vec());
        assert!(before.is_none(), "{place:?} is given once");
    }

    fn complete(&self, layer: usize, blocks: Range<usize>) {
        let images = self.0.lock().expect("no panic");
        assert!(blocks.into_iter().all(|block| images.contains_key(&(layer, 1, block))));
    }
}

impl BlockSource for Images {
    fn read(&self, place: ImagePlace, image: &mut [u8]) {
        let key = (place.layer, place.side, place.block);
        image.copy_from_slice(&self.0.lock().expect("no panic")[&key]);
    }
}

fn layout(attention: &Attention, storage: RowStorage, order: RowOrder) -> CacheLayout {
    let heads = LayerHeads { heads: 0..attention.kv_heads, head_dim: attention.head_dim };
    CacheLayout { first_layer: 0, layers: vec![heads; LAYERS], block_tokens: BLOCK_TOKENS, storage, order }
}

/// The images of `blocks` blocks as the other cache stores them.
fn mapped(images: &Images, blocks: usize, from: &CacheLayout, to: &CacheLayout) -> Images {
    let plan = TransferPlan::new(vec![from.clone()], vec![to.clone()]).expect("one model");
    let mapped = Images::default();
    for ((layer, side, block), image) in images.0.lock().expect("no panic").iter() {
        let bytes = to.image_bytes(&to.layers[*layer]);
        let mut room = vec![0; blocks * bytes];
        for portion in plan.portions(0, *layer) {
            plan.carry(portion, (*block, image), 0..blocks * BLOCK_TOKENS, &mut room);
        }
        let place = ImagePlace { layer: *layer, side: *side, block: *block };
        mapped.image(place, &room[block * bytes..(block + 1) * bytes]);
    }
    mapped
}

impl Twins {
    /// Moves a sequence to new blocks, through the other cache's layout and the other cache.
    fn exchange(&mut self, at: usize, layouts: &[CacheLayout; 2]) {
        let (table, tokens) = &mut self.sequences[at];
        let mut moved = BlockTable::default();
        if tokens.is_empty() || self.blocks.grow(&mut moved, tokens.len()).is_err() {
            return;
        }
        let count = table.blocks().len();
        let given = [0, 1].map(|cache| {
            let sink = Arc::new(Images::default());
            let tap = Tap { blocks: table.shared(), given: 0..count, sink: sink.clone() };
            self.caches[cache].give(&tap).expect("blocks that were written are given");
            sink
        });
        let places: Vec<(usize, BlockId)> = moved.blocks().iter().copied().enumerate().collect();
        for (to, from) in [(0, 1), (1, 0)] {
            let source = mapped(&given[from], count, &layouts[from], &layouts[to]);
            for (number, heads) in layouts[to].layers.iter().enumerate() {
                let layer = PutLayer { number, heads, layout: &layouts[to] };
                self.caches[to].put(&layer, &places, &source).expect("blocks of the pool are put");
            }
        }
        self.blocks.release(std::mem::replace(table, moved));
    }

    fn steps_with_exchanges(&mut self, layouts: &[CacheLayout; 2]) {
        for round in 0..10 {
            self.step();
            if round % 2 == 1 && !self.sequences.is_empty() {
                self.exchange(round % self.sequences.len(), layouts);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn host_and_graph_take_over_each_others_blocks(
        seed: u64,
        heads in prop::sample::select(vec![[4usize, 4], [6, 2], [8, 1]]),
        head_dim in prop::sample::select(vec![8usize, 64]),
        dtype in prop::sample::select(KvDtype::ALL.as_slice()),
    ) {
        let attention = attention(heads, head_dim);
        let layouts =
            [RowOrder::HeadMajor, RowOrder::TokenMajor].map(|order| layout(&attention, dtype.into(), order));
        Twins::host(seed, attention, dtype).steps_with_exchanges(&layouts);
    }
}

#[test]
#[ignore = "needs an NVIDIA device"]
fn cuda_and_graph_take_over_each_others_blocks() {
    Device::choose(DeviceChoice::Default).expect("a GPU").make_default().expect("it can be used");
    let kernels = std::rc::Rc::new(CudaKernels::new());
    for (dtype, storage) in [(Dtype::Bfloat16, RowStorage::Bf16), (Dtype::Float16, RowStorage::F16)] {
        let attention = attention([8, 2], 128);
        let layouts = [storage, RowStorage::F32].map(|it| layout(&attention, it, RowOrder::TokenMajor));
        Twins::cuda(7, attention, &kernels, dtype).steps_with_exchanges(&layouts);
    }
}
