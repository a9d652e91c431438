//! SmolLM2's text, the same whoever computes it, and how much of the weights each rank holds.

use std::path::PathBuf;

use mlxcel_mlx_bridge::{Array, Dtype};

use super::member::{self, Member};
use super::{Division, Execution};
use crate::blocks::{BlockStore, BlockTable};
use crate::decoder::parity::described;
use crate::schedule::{SequenceId, Span, StepPlan, Token};
use crate::text::TextCodec;
use crate::{Device, DeviceChoice, Rank, RankOptions, RankOutput};

const PROMPT: &str = "The three largest cities of Italy are";
const TOKENS: usize = 24;
const BLOCKS: usize = 8;

fn path() -> PathBuf {
    let path = std::env::var_os("MLXCEL_TEST_SMOLLM2");
    path.map(PathBuf::from)
        .expect("MLXCEL_TEST_SMOLLM2 names the default model's GGUF file; `./x test` sets it")
}

/// What a rank does: the prompt and the tokens that follow it, each the likeliest.
pub(super) fn text(member: &Member) {
    let (checkpoint, description) = described(&path()).expect("it is a model");
    let assets = checkpoint.text_assets().expect("it has a tokenizer");
    let codec = TextCodec::new(&assets, description.vocab_size as u32).expect("it has a tokenizer");
    let options = RankOptions {
        place: member.place(description.layers.len()),
        quantize: None,
        kv_dtype: None,
        blocks: BLOCKS,
    };
    let device = Device::choose(DeviceChoice::Cpu).expect("every host has a CPU");
    let rank = Rank::load(&path(), &device, &options, member.group(1), &mut |_| {});
    let mut rank = rank.expect("it can be divided");
    println!("says bytes {}", rank.weight_bytes());
    let prompt = codec.encode(PROMPT, false).expect("it is text");
    let output = greedy(member, &mut rank, prompt);
    member.meet(1);
    println!("says text {output:?}");
}

fn greedy(member: &Member, rank: &mut Rank, mut tokens: Vec<u32>) -> Vec<u32> {
    let (mut blocks, mut table) = (BlockStore::new(BLOCKS), BlockTable::default());
    let mut output = Vec::new();
    while output.len() < TOKENS {
        let start = table.tokens();
        blocks.grow(&mut table, tokens.len()).expect("there is room");
        let known = tokens.iter().copied().map(Token::Known).collect();
        let (sequence, blocks) = (SequenceId(1), table.shared());
        let span = Span { sequence, tokens: known, start, samples: 1, blocks };
        let hidden = (member.stage() > 0).then(|| {
            let hidden = member.hidden(1).expect("the stage before runs");
            let shape = [tokens.len() as i32, (hidden.len() / tokens.len()) as i32];
            Array::from_slice(&hidden, &shape).expect("an array")
        });
        let plan = StepPlan { spans: vec![span], copies: Vec::new() };
        let next = match rank.step(plan, hidden).expect("the step begins") {
            RankOutput::Hidden(hidden) => {
                let values = hidden.astype(Dtype::Float32).and_then(|hidden| hidden.to_vec());
                member.pass_on(1, &values.expect("the step evaluates"));
                member.token_of_last()
            }
            RankOutput::Logits(logits) => {
                let next = logits.argmax(-1, false).and_then(|next| next.item()).expect("the step evaluates");
                member.tell_token(next);
                next
            }
            RankOutput::Computed(_) => panic!("every span is sampled"),
        };
        output.push(next);
        tokens = vec![next];
    }
    output
}

/// Text and bytes of every rank of the last stage.
fn run(stages: usize, ranks: usize) -> Vec<(String, u64)> {
    let said = member::said_by(Division { stages, ranks, execution: Execution::Host }, "text");
    said.into_iter().map(|said| (said["text"].clone(), said["bytes"].parse().expect("a number"))).collect()
}

#[test]
fn text_is_the_same_however_the_model_is_divided() {
    let alone = run(1, 1)[0].0.clone();
    for (stages, ranks) in [(1, 2), (1, 3), (2, 1), (3, 1), (2, 2)] {
        for (text, _) in run(stages, ranks) {
            assert_eq!(text, alone, "{stages} stages of {ranks} ranks");
        }
    }
}

#[test]
fn a_rank_of_four_holds_little_more_than_a_quarter() {
    let whole = run(1, 1)[0].1 as f64;
    let shares: Vec<f64> = run(1, 4).iter().map(|(_, bytes)| *bytes as f64 / whole).collect();
    // Nine heads are not for four ranks alike, and three KV heads are held by four.
    assert!(shares.iter().all(|share| *share < 0.30), "{shares:?}");
}
