//! A model's tokens as `llguidance` reads them: bytes, of special tokens marked so that no text spells them.

use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::text::TextCodec;

/// The trie of all tokens; nothing for a model without an end-of-sequence token, which could not end a text.
pub(super) fn token_environment(codec: &TextCodec) -> Option<TokEnv> {
    let &first_eos = codec.eos_token_ids().first()?;
    let bytes = |id: u32| match codec.is_special(id) {
        true => [&[TokTrie::SPECIAL_TOKEN_MARKER], codec.token_bytes(id)].concat(),
        false => codec.token_bytes(id).to_vec(),
    };
    let words: Vec<Vec<u8>> = (0..codec.vocab_size()).map(bytes).collect();
    let trie = TokTrie::from(&TokRxInfo::new(codec.vocab_size(), first_eos), &words);
    let trie = trie.with_eos_tokens(codec.eos_token_ids());
    Some(std::sync::Arc::new(ApproximateTokEnv::new(trie)))
}
