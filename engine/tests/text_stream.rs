//! Text leaves in whole characters, and never a part of a stop string.

#[allow(dead_code, reason = "each test file uses part of it")]
mod text_support;

use mlxcel_engine::text::{DetokenizeOptions, Detokenizer, StopMatcher};
use proptest::prelude::*;
use serde_json::{Value, json};
use text_support::{Sample, byte_level, sentence_piece};
use tokenizers::Tokenizer;

const PLAIN: DetokenizeOptions = DetokenizeOptions { skip_special: true, continues: false };

fn streamed(mut detokenizer: Detokenizer, tokens: &[u32]) -> Vec<String> {
    let mut pieces: Vec<String> = tokens.iter().map(|&token| detokenizer.push(token)).collect();
    pieces.push(detokenizer.finish());
    pieces
}

/// The `tokenizers` library's own decoding of all tokens at once.
fn reference(sample: &Sample) -> Tokenizer {
    Tokenizer::from_bytes(&sample.assets.tokenizer).expect("usable")
}

#[test]
fn character_in_several_tokens_leaves_whole() {
    let codec = byte_level().codec();
    let tokens = codec.encode("a🙂b", false).expect("usable");
    assert_eq!(streamed(codec.detokenizer(PLAIN), &tokens), ["a", "", "", "", "🙂", "b", ""]);
}

#[test]
fn bytes_of_fallback_tokens_are_joined() {
    let codec = sentence_piece().codec();
    let bytes = |text: &str| -> Vec<u32> {
        let id = |byte| codec.token_id(&format!("<0x{byte:02X}>")).expect("a token");
        text.bytes().map(id).collect()
    };
    let pieces = streamed(codec.detokenizer(PLAIN), &bytes("日\n"));
    assert_eq!(pieces, ["", "", "日", "\n", ""]);
}

#[test]
fn character_left_incomplete_is_flushed_as_a_replacement() {
    let codec = byte_level().codec();
    let tokens = codec.encode("a🙂", false).expect("usable");
    let mut detokenizer = codec.detokenizer(PLAIN);
    let text: String = tokens[..3].iter().map(|&token| detokenizer.push(token)).collect();
    assert_eq!(text, "a");
    assert!(detokenizer.is_incomplete());
    assert_eq!(detokenizer.finish(), "\u{fffd}");
    assert_eq!(detokenizer.finish(), "");
}

#[test]
fn invalid_bytes_do_not_hold_back_what_follows() {
    let codec = byte_level().codec();
    let tokens = codec.encode("é", false).expect("usable");
    let lead = codec.token_id("\u{c3}").expect("the byte C3");
    assert_eq!(tokens.len(), 1);
    let pieces = streamed(codec.detokenizer(PLAIN), &[lead, lead, tokens[0]]);
    assert_eq!(pieces, ["", "\u{fffd}", "\u{fffd}é", ""]);
}

#[test]
fn special_tokens_are_written_only_when_asked_for() {
    let codec = byte_level().codec();
    let tokens = codec.encode("a<|end|>", true).expect("usable");
    assert_eq!(codec.decode(&tokens, PLAIN), "a");
    let all = DetokenizeOptions { skip_special: false, ..PLAIN };
    assert_eq!(codec.decode(&tokens, all), "<|begin|>a<|end|>");
}

#[test]
fn tokens_that_are_not_special_are_always_written() {
    let codec = byte_level().codec();
    let tokens = codec.encode("a<tool> xé", false).expect("usable");
    assert_eq!(codec.decode(&tokens, PLAIN), "a<tool> xé");
}

#[test]
fn ids_without_a_token_stand_for_nothing() {
    let codec = byte_level().codec();
    assert_eq!(codec.decode(&[u32::MAX, 100_000], PLAIN), "");
}

#[test]
fn other_decoders_stream_as_they_decode_at_once() {
    let metaspace = |scheme: &str| json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true });
    let byte_sequence = json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
        { "type": "ByteFallback" },
        { "type": "Fuse" }
    ] });
    for decoder in [metaspace("always"), metaspace("never"), byte_sequence, json!(null)] {
        let mut sample = sentence_piece();
        let mut tokenizer: Value = serde_json::from_slice(&sample.assets.tokenizer).expect("JSON");
        tokenizer["decoder"] = decoder.clone();
        sample.assets.tokenizer = tokenizer.to_string().into_bytes();
        let codec = sample.codec();
        let tokens = codec.encode("hi h é hi", true).expect("usable");
        let expected = reference(&sample).decode(&tokens, true).expect("decodes");
        assert_eq!(codec.decode(&tokens, PLAIN), expected, "{decoder}");
    }
}

#[test]
fn stop_string_and_what_follows_are_cut() {
    let mut matcher = StopMatcher::new(&["###".into(), "END".into()]);
    let pieces: Vec<_> = ["a#", "#b E", "N", "D", "more"].map(|text| matcher.push(text)).into();
    let texts: Vec<&str> = pieces.iter().map(|step| step.text.as_str()).collect();
    assert_eq!(texts, ["a", "##b ", "", "", ""]);
    assert_eq!(pieces.iter().map(|step| step.stopped).collect::<Vec<_>>(), [false, false, false, true, true]);
    assert_eq!(matcher.finish(), "");
}

#[test]
fn held_back_text_comes_out_at_the_end() {
    let mut matcher = StopMatcher::new(&["END".into()]);
    assert_eq!(matcher.push("the EN").text, "the ");
    assert_eq!(matcher.finish(), "EN");
}

#[test]
fn without_stop_strings_nothing_is_held_back() {
    let mut matcher = StopMatcher::new(&[String::new()]);
    let step = matcher.push("anything");
    assert_eq!((step.text.as_str(), step.stopped), ("anything", false));
}

/// Walks the whole text: the first character at which some stop string is complete ends it, before
/// the longest of those complete there.
fn cut_by_definition(text: &str, stops: &[String]) -> Option<String> {
    (0..=text.len()).filter(|&end| text.is_char_boundary(end)).find_map(|end| {
        let complete = stops.iter().filter(|stop| !stop.is_empty());
        let longest = complete.filter(|stop| text[..end].ends_with(*stop)).map(String::len).max()?;
        Some(text[..end - longest].to_owned())
    })
}

fn chunks(text: &str, sizes: &[usize]) -> Vec<String> {
    let mut characters = text.chars().peekable();
    let mut sizes = sizes.iter().cycle();
    let mut chunks = Vec::new();
    while characters.peek().is_some() {
        let size = sizes.next().copied().unwrap_or(1);
        chunks.push(characters.by_ref().take(size.max(1)).collect());
    }
    chunks
}

proptest! {
    #[test]
    fn byte_level_stream_equals_decoding_at_once(
        tokens in prop::collection::vec(0_u32..270, 0..200),
        skip_special: bool,
    ) {
        let sample = byte_level();
        let codec = sample.codec();
        let detokenizer = codec.detokenizer(DetokenizeOptions { skip_special, ..PLAIN });
        let expected = reference(&sample).decode(&tokens, skip_special).expect("decodes");
        prop_assert_eq!(streamed(detokenizer, &tokens).concat(), expected);
    }

    #[test]
    fn fallback_stream_equals_decoding_at_once(
        words in prop::collection::vec("[hié ]{0,4}|\\PC{0,3}", 0..20),
        skip_special: bool,
    ) {
        let sample = sentence_piece();
        let codec = sample.codec();
        let mut tokens = Vec::new();
        for word in &words {
            tokens.extend(codec.encode(word, true).expect("usable"));
        }
        let detokenizer = codec.detokenizer(DetokenizeOptions { skip_special, ..PLAIN });
        let expected = reference(&sample).decode(&tokens, skip_special).expect("decodes");
        prop_assert_eq!(streamed(detokenizer, &tokens).concat(), expected);
    }

    #[test]
    fn any_fallback_tokens_decode_as_their_bytes(
        tokens in prop::collection::vec(3_u32..266, 0..100),
    ) {
        let sample = sentence_piece();
        let tokenizer = reference(&sample);
        let mut bytes = Vec::new();
        for &token in &tokens {
            let text = tokenizer.id_to_token(token).expect("a token");
            match text.strip_prefix("<0x").and_then(|hex| hex.strip_suffix('>')) {
                Some(hex) => bytes.push(u8::from_str_radix(hex, 16).expect("a byte")),
                None => bytes.extend(text.replace('\u{2581}', " ").bytes()),
            }
        }
        let detokenizer =
            sample.codec().detokenizer(DetokenizeOptions { skip_special: true, continues: true });
        let text = streamed(detokenizer, &tokens).concat();
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
    }

    #[test]
    fn stop_strings_cut_as_a_search_of_the_whole_text_does(
        text in "[abé]{0,40}",
        stops in prop::collection::vec("[abé]{0,5}", 0..4),
        sizes in prop::collection::vec(1_usize..6, 1..5),
    ) {
        let mut matcher = StopMatcher::new(&stops);
        let mut given = String::new();
        let mut stopped = false;
        for chunk in chunks(&text, &sizes) {
            let step = matcher.push(&chunk);
            prop_assert!(!stopped || step.stopped);
            given.push_str(&step.text);
            stopped = step.stopped;
        }
        given.push_str(&matcher.finish());
        let cut = cut_by_definition(&text, &stops);
        prop_assert_eq!(stopped, cut.is_some());
        prop_assert_eq!(given, cut.unwrap_or(text));
    }

    #[test]
    fn nothing_is_held_back_that_cannot_begin_a_stop_string(
        text in "[abc]{0,30}",
        stops in prop::collection::vec("[ab]{1,5}", 1..4),
    ) {
        let mut matcher = StopMatcher::new(&stops);
        let step = matcher.push(&text);
        let begins = |end: &str| stops.iter().any(|stop| stop.starts_with(end) && stop != end);
        let hold = (0..=text.len()).find(|&at| at == text.len() || begins(&text[at..]));
        if !step.stopped {
            prop_assert_eq!(step.text.len(), hold.unwrap_or(text.len()));
        }
    }
}
