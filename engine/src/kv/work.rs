//! A step's attention of few queries a sequence, cut into items of work as the CUDA kernel reads them.
//!
//! Numbers only: what an item means, `kernels/attend.cuh` says.

use crate::blocks::BLOCK_TOKENS;
use crate::schedule::Span;

/// Rows of an item: queries of one sequence that share a key head.
const ITEM_ROWS: usize = 16;
/// Keys of an item are a multiple of this many, except at the end of its sequence.
const KEY_STEP: usize = 16;
/// Fewer keys than this are not worth putting parts together again.
const FEWEST_KEYS: usize = 256;
/// As many keys as the blocks that a warp's lanes hold.
const MOST_KEYS: usize = 2048;
/// Blocks that fill a large device, two on each of its processors.
const FULL_DEVICE: usize = 264;

/// What an attention layer is, as far as it decides the items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkShape {
    pub(super) kv_heads: usize,
    /// Query heads that share a key head.
    pub(super) group: usize,
    pub(super) window: Option<usize>,
}

/// The items of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// Eight numbers an item, four a row of the output, then the spans' blocks.
    pub(super) numbers: Vec<i32>,
    pub(super) items: usize,
    /// Rows of the output: the tokens of the spans.
    pub(super) rows: usize,
    /// Whether some sequence's keys are in several items, so that all leave parts.
    pub(super) parts: bool,
}

/// A span and its first row in the step.
pub(super) type SpanAt<'a> = (&'a Span, usize);

impl Work {
    pub(super) fn new(spans: &[SpanAt<'_>], shape: WorkShape) -> Self {
        let most = keys_of_item(spans, shape);
        let cuts: Vec<Cut> = spans.iter().map(|(span, _)| Cut::new(span, shape, most)).collect();
        let items: usize = cuts.iter().map(Cut::items).sum();
        let rows: usize = spans.iter().map(|(span, _)| span.tokens.len()).sum();
        let (mut numbers, mut of_rows, mut tables) = (Vec::new(), Vec::new(), Vec::new());
        let (mut item, mut out) = (0, 0);
        for (&(span, row), cut) in spans.iter().zip(&cuts) {
            let table = items * 8 + rows * 4 + tables.len();
            cut.write([row, span.start, span.tokens.len(), table, out], &mut numbers);
            of_rows.extend((0..span.tokens.len()).flat_map(|token| [item, cut.parts, token, 0].map(number)));
            tables.extend(span.blocks.iter().map(|block| block.0 as i32));
            item += cut.items();
            out += span.tokens.len();
        }
        numbers.extend(of_rows);
        numbers.extend(tables);
        Self { numbers, items, rows, parts: cuts.iter().any(|cut| cut.parts > 1) }
    }
}

/// How one span is cut.
struct Cut {
    /// Its first key, a multiple of `KEY_STEP`, and the one after its last.
    keys: [usize; 2],
    /// Keys of an item.
    each: usize,
    /// Items that share rows.
    parts: usize,
    /// Items that share keys.
    groups: usize,
}

impl Cut {
    fn new(span: &Span, shape: WorkShape, each: usize) -> Self {
        let keys = keys(span, shape);
        let groups = (span.tokens.len() * shape.group).div_ceil(ITEM_ROWS);
        Self { keys, each, parts: (keys[1] - keys[0]).div_ceil(each), groups }
    }

    fn items(&self) -> usize {
        self.parts * self.groups
    }

    fn write(&self, [row, start, count, table, out]: [usize; 5], numbers: &mut Vec<i32>) {
        let [first, last] = self.keys;
        for group in 0..self.groups {
            for part in 0..self.parts {
                let begin = first + part * self.each;
                let end = (begin + self.each).min(last);
                numbers.extend([row, start, count, table, begin, end, group * ITEM_ROWS, out].map(number));
            }
        }
    }
}

/// The keys that a span's queries see.
fn keys(span: &Span, shape: WorkShape) -> [usize; 2] {
    let first = shape.window.map_or(0, |window| (span.start + 1).saturating_sub(window));
    [first / KEY_STEP * KEY_STEP, span.start + span.tokens.len()]
}

/// As many keys as make about as many items as the device has room for.
fn keys_of_item(spans: &[SpanAt<'_>], shape: WorkShape) -> usize {
    let of_span = |(span, _): &SpanAt<'_>| {
        let [first, last] = keys(span, shape);
        (last - first) * (span.tokens.len() * shape.group).div_ceil(ITEM_ROWS)
    };
    let all = spans.iter().map(of_span).sum::<usize>() * shape.kv_heads;
    all.div_ceil(FULL_DEVICE).next_multiple_of(KEY_STEP).clamp(FEWEST_KEYS, MOST_KEYS)
}

const _: () = assert!(BLOCK_TOKENS == 32, "the kernel reads blocks of 32 tokens");

/// Positions and rows of a pool that was allocated are far below 2^31.
fn number(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blocks::BlockId;
    use crate::schedule::{SequenceId, Token};

    fn span(start: usize, count: usize) -> Span {
        let blocks =
            (0..(start + count).div_ceil(BLOCK_TOKENS)).map(|block| BlockId(7 + block as u32)).collect();
        Span {
            sequence: SequenceId(0),
            tokens: vec![Token::Known(1); count],
            start,
            samples: 1,
            blocks,
            state: None,
        }
    }

    proptest! {
        #[test]
        fn every_key_a_row_sees_is_in_exactly_one_of_its_items(
            lengths in prop::collection::vec((0usize..5000, 1usize..20), 1..6),
            window in prop::option::of(1usize..3000),
            group in 1usize..9,
        ) {
            let spans: Vec<Span> = lengths.iter().map(|&(start, count)| span(start, count)).collect();
            let mut row = 0;
            let placed: Vec<SpanAt<'_>> = spans.iter().map(|span| {
                row += span.tokens.len();
                (span, row - span.tokens.len())
            }).collect();
            let work = Work::new(&placed, WorkShape { kv_heads: 4, group, window });
            let items: Vec<&[i32]> = work.numbers[..work.items * 8].chunks(8).collect();
            for (span, row) in placed {
                let own: Vec<_> = items.iter().filter(|item| item[0] == row as i32).collect();
                for token in [0, span.tokens.len() - 1] {
                    let query = span.start + token;
                    let within = token * group / ITEM_ROWS * ITEM_ROWS;
                    let seen = window.map_or(0, |window| (query + 1).saturating_sub(window))..=query;
                    let mut last = *seen.start();
                    for item in own.iter().filter(|item| item[6] == within as i32) {
                        prop_assert!(item[4] % 16 == 0 && item[5] - item[4] <= 2048);
                        prop_assert!(item[4] as usize <= last, "keys are missing");
                        last = item[5] as usize;
                    }
                    prop_assert!(last > query);
                    let info = &work.numbers[work.items * 8 + (row + token) * 4..][..3];
                    let first = &items[info[0] as usize + within / ITEM_ROWS * info[1] as usize];
                    prop_assert!(first[0] == row as i32 && first[6] == within as i32 && info[2] == token as i32);
                }
                let table = own[0][3] as usize;
                prop_assert_eq!(work.numbers[table + span.start / BLOCK_TOKENS], 7 + (span.start / BLOCK_TOKENS) as i32);
            }
        }
    }

    #[test]
    fn short_sequences_are_one_item_and_long_ones_are_cut_to_fill_the_device() {
        let shape = WorkShape { kv_heads: 8, group: 4, window: None };
        let work = |span: &Span| Work::new(&[(span, 0)], shape);
        assert!(!work(&span(200, 1)).parts);
        let long = work(&span(32_767, 1));
        assert!(long.parts && (30..=40).contains(&long.items), "{}", long.items);
        assert_eq!(work(&span(10, 5)).items, 2);
    }
}
