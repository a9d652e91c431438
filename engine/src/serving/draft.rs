//! Loading a draft model beside the model it drafts for.
//!
//! Its tokens must be the model's, one by one: a guess is a token's number. Sizes may differ by what pads a vocabulary.

use super::drafter::DraftLimits;
use super::load::LoadError;
use crate::api::{DraftOptions, LoadStep};
use crate::decoder::{Model, state_bytes};
use crate::described::described;
use crate::device::Device;
use crate::text::TextCodec;

/// The draft model, and its limits in steps of a number of tokens.
pub(super) type Draft = (Model, Box<dyn FnOnce(usize) -> DraftLimits>);

/// Loads the draft that `options` name for a model with the tokens of `codec`.
///
/// # Errors
/// As for any model, and when its tokens are others.
pub(super) fn load(
    options: &DraftOptions,
    codec: &TextCodec,
    device: &Device,
    progress: &mut dyn FnMut(LoadStep),
) -> Result<Draft, LoadError> {
    let path = &options.path;
    let (checkpoint, description) = described(path)?;
    if state_bytes(&description, 1) > 0 {
        return Err(LoadError::Stateful { path: path.clone(), option: "drafting by it" });
    }
    let vocab_size = u32::try_from(description.vocab_size).unwrap_or(u32::MAX);
    let own = TextCodec::new(&checkpoint.text_assets()?, vocab_size)?;
    if let Some(reason) = difference(codec, &own) {
        return Err(LoadError::Draft { path: path.clone(), reason });
    }
    let context = description.max_context;
    let guesses = *options.tokens.start() as usize..=*options.tokens.end() as usize;
    let model = Model::load(description, &checkpoint, device.execution(), options.quantize, progress)?;
    let vocabulary = codec.vocab_size();
    let limits = move |step_tokens| DraftLimits { guesses, step_tokens, context, vocabulary };
    Ok((model, Box::new(limits)))
}

/// Where two vocabularies differ, if they do.
fn difference(model: &TextCodec, draft: &TextCodec) -> Option<String> {
    let both = model.vocab_size().min(draft.vocab_size());
    let differs = |token: &u32| model.token_bytes(*token) != draft.token_bytes(*token);
    let token = (0..both).find(differs).or_else(|| {
        // What only one of them has must be padding, which stands for no text.
        let longer = if model.vocab_size() > both { model } else { draft };
        (both..longer.vocab_size()).find(|token| !longer.token_bytes(*token).is_empty())
    })?;
    let shown = |codec: &TextCodec| match token < codec.vocab_size() {
        true => format!("{:?}", String::from_utf8_lossy(codec.token_bytes(token))),
        false => "none".to_owned(),
    };
    Some(format!("its token {token} is {}, the model's is {}", shown(draft), shown(model)))
}
