//! What tensors are called in files, and what the descriptions call them.
//!
//! Rules as data, tried in order. Names no rule mentions stay as they are.

/// What to do with a tensor whose name matches.
enum Rule {
    /// Leave out tensors whose name contains this.
    Drop(&'static str),
    /// Replace this prefix.
    Prefix(&'static str, &'static str),
}

const RULES: &[Rule] = &[
    // Old checkpoints store the rotary frequencies, which the configuration already gives.
    Rule::Drop("rotary_emb.inv_freq"),
    // Text towers cut out of multimodal checkpoints.
    Rule::Prefix("model.language_model.", "model."),
    Rule::Prefix("language_model.model.", "model."),
    Rule::Prefix("language_model.lm_head.", "lm_head."),
    // Saved from the bare model, without the head that wraps it.
    Rule::Prefix("embed_tokens.", "model.embed_tokens."),
    Rule::Prefix("layers.", "model.layers."),
    Rule::Prefix("norm.", "model.norm."),
];

/// The name descriptions use for a stored tensor, or `None` for one no decoder reads.
pub fn weight_name(stored: &str) -> Option<String> {
    for rule in RULES {
        match rule {
            Rule::Drop(part) if stored.contains(part) => return None,
            Rule::Prefix(from, to) => {
                if let Some(rest) = stored.strip_prefix(from) {
                    return Some(format!("{to}{rest}"));
                }
            }
            Rule::Drop(_) => {}
        }
    }
    Some(stored.to_owned())
}
