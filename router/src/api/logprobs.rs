//! Log-probabilities in the two shapes of OpenAI's API: a list of objects for chats, parallel lists for text
//! completions.
//!
//! Only shapes; the numbers are the engine's.

use mlxcel_protocol::v1::{ScoredToken, TokenLogprobs};
use serde_json::{Map, Value, json};

/// The `logprobs` of a chat's choice or chunk.
pub(crate) fn of_chat(tokens: &[TokenLogprobs]) -> Value {
    let content = tokens.iter().map(|token| {
        let mut object = chat_token(&chosen(token));
        object["top_logprobs"] = token.top.iter().map(chat_token).collect();
        object
    });
    json!({"content": content.collect::<Value>(), "refusal": null})
}

/// The `logprobs` of a text completion's choice or chunk, whose text begins `offset` characters into the
/// choice's; `offset` moves to its end.
pub(crate) fn of_text(tokens: &[TokenLogprobs], offset: &mut usize) -> Value {
    let (mut texts, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    for token in tokens {
        let chosen = chosen(token);
        let mut top: Map<String, Value> =
            token.top.iter().map(|token| (text_of(token), number(token.logprob))).collect();
        // The token chosen is always told, also where others are likelier.
        top.insert(text_of(&chosen), number(chosen.logprob));
        texts.push(text_of(&chosen));
        logprobs.push(number(chosen.logprob));
        tops.push(top);
        offsets.push(*offset);
        *offset += chosen.bytes.iter().filter(|&&byte| begins_character(byte)).count();
    }
    json!({"tokens": texts, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets})
}

fn chosen(token: &TokenLogprobs) -> ScoredToken {
    token.chosen.clone().unwrap_or_default()
}

fn chat_token(token: &ScoredToken) -> Value {
    json!({
        "token": String::from_utf8_lossy(&token.bytes),
        "logprob": number(token.logprob),
        "bytes": token.bytes,
    })
}

/// A token's text; of bytes that are no text, the bytes, so that different tokens stay different keys.
fn text_of(token: &ScoredToken) -> String {
    match std::str::from_utf8(&token.bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let bytes = token.bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", bytes.collect::<String>())
        }
    }
}

/// JSON has no infinity; OpenAI's API says -9999 instead.
fn number(logprob: f32) -> Value {
    f64::from(logprob).max(-9999.0).into()
}

fn begins_character(byte: u8) -> bool {
    byte & 0b1100_0000 != 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(id: u32, bytes: &[u8], logprob: f32) -> ScoredToken {
        ScoredToken { id, bytes: bytes.to_vec(), logprob }
    }

    fn token(chosen: ScoredToken, top: &[ScoredToken]) -> TokenLogprobs {
        TokenLogprobs { chosen: Some(chosen), top: top.to_vec() }
    }

    #[test]
    fn chat_tokens_have_text_bytes_and_alternatives() {
        let (hi, half) = (scored(1, b"hi", -0.5), scored(2, &[0xf0, 0x9f], f32::NEG_INFINITY));
        let shape = of_chat(&[token(half.clone(), &[hi, half])]);
        let expected = json!({
            "content": [{
                "token": "\u{fffd}", "logprob": -9999.0, "bytes": [0xf0, 0x9f],
                "top_logprobs": [
                    {"token": "hi", "logprob": -0.5, "bytes": [104, 105]},
                    {"token": "\u{fffd}", "logprob": -9999.0, "bytes": [0xf0, 0x9f]},
                ],
            }],
            "refusal": null,
        });
        assert_eq!(shape, expected);
    }

    #[test]
    fn completions_have_lists_side_by_side_and_offsets_in_characters() {
        let mut offset = 0;
        let first = [token(scored(1, "né".as_bytes(), -0.25), &[scored(9, b"no", -0.125)])];
        let shape = of_text(&first, &mut offset);
        let expected = json!({
            "tokens": ["né"], "token_logprobs": [-0.25],
            "top_logprobs": [{"no": -0.125, "né": -0.25}], "text_offset": [0],
        });
        assert_eq!(shape, expected);
        let shape = of_text(&[token(scored(2, &[0xf0, 0x9f], -1.0), &[])], &mut offset);
        assert_eq!(shape["text_offset"], json!([2]));
        assert_eq!(shape["tokens"], json!(["bytes:\\xf0\\x9f"]));
        assert_eq!(shape["top_logprobs"], json!([{"bytes:\\xf0\\x9f": -1.0}]));
    }
}
