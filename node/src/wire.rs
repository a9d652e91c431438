//! Translation between the wire's messages and the engine's types.
//!
//! Checks what can be checked without a model: fields present, JSON well formed, numbers in range.
//! Whether a prompt fits or a token id exists, the engine decides.

use std::time::Duration;

use mlxcel_engine::replica::FollowerState;
use mlxcel_engine::{
    AnswerOptions, ChatPrompt, Delta, DraftOptions, EngineState, Event, Finish, FinishReason, GenerateError,
    Grammar, KvDtype, Limits, LoadStep, PRIORITIES, Prompt, Quantization, RepetitionLimit, Request,
    SamplingParams, ScoredToken, TokenLogprobs, ToolCallDelta, ToolChoice, Turn, UnknownKvDtype,
};
use mlxcel_protocol::v1::{self, FailureKind, generate_event, generate_request, load_progress};
use serde_json::Value;

/// A request for the engine, or the rule it breaks.
pub(crate) fn request(request: v1::GenerateRequest) -> Result<Request, String> {
    let prompt = match request.prompt {
        Some(generate_request::Prompt::Chat(chat)) => Prompt::Chat(chat_prompt(&chat)?),
        Some(generate_request::Prompt::Text(text)) => Prompt::Text(text),
        Some(generate_request::Prompt::Tokens(tokens)) if tokens.ids.is_empty() => {
            return Err("a token prompt must hold at least one token id".into());
        }
        Some(generate_request::Prompt::Tokens(tokens)) => Prompt::Tokens(tokens.ids),
        None => return Err("a request must have a prompt: chat, text or tokens".into()),
    };
    if request.stop.iter().any(String::is_empty) {
        return Err("a stop string must not be empty".into());
    }
    Ok(Request {
        id: request.request_id,
        prompt,
        sampling: sampling(request.sampling.unwrap_or_default())?,
        limits: Limits {
            max_tokens: (request.max_tokens > 0).then_some(request.max_tokens),
            stop: request.stop,
            ignore_eos: request.ignore_eos,
            repetition: request.repetition.map(repetition),
        },
        turn: Turn {
            priority: priority(request.priority)?,
            client: (!request.client.is_empty()).then_some(request.client),
            deadline: (request.deadline_micros > 0).then(|| Duration::from_micros(request.deadline_micros)),
        },
        answer: AnswerOptions {
            choices: request.choices.max(1),
            logprobs: request.logprobs,
            grammar: request.grammar.map(grammar).transpose()?,
            tools: match (request.tool_named, request.tool_required) {
                (name, _) if !name.is_empty() => ToolChoice::Named(name),
                (_, true) => ToolChoice::Required,
                _ => ToolChoice::Auto,
            },
            single_call: request.single_call,
            resumed: request.resumed.into_iter().map(|choice| choice.token_ids).collect(),
        },
    })
}

fn priority(priority: i32) -> Result<i32, String> {
    match PRIORITIES.contains(&priority) {
        true => Ok(priority),
        false => Err(format!("priority must be between -100 and 100, got {priority}")),
    }
}

/// What a `WorkerLoad` asks to quantise to.
pub(crate) fn quantization(bits: u32, group_size: u32) -> Result<Option<Quantization>, String> {
    match (bits, group_size) {
        (0, 0) => Ok(None),
        (0, _) => Err("a quantisation group size needs quantisation bits".into()),
        (2..=6 | 8, 0) => Ok(Some(Quantization::Affine { bits, group_size: 64 })),
        (2..=6 | 8, 32 | 64 | 128) => Ok(Some(Quantization::Affine { bits, group_size })),
        (2..=6 | 8, _) => {
            Err(format!("a quantisation group must be 32, 64 or 128 weights, got {group_size}"))
        }
        _ => Err(format!("quantisation bits must be 2, 3, 4, 5, 6 or 8, got {bits}")),
    }
}

/// What a `WorkerLoad` that names a mode asks to quantise to.
pub(crate) fn quantization_of(mode: &str, bits: u32, group_size: u32) -> Result<Quantization, String> {
    match (mode, bits, group_size) {
        ("mxfp4", 0, 0) => Ok(Quantization::Mxfp4),
        ("mxfp4", ..) => {
            Err(format!("mxfp4 takes neither bits nor a group size, got {bits} and {group_size}"))
        }
        _ => Err(format!("a quantisation mode must be mxfp4, or empty for affine, got {mode}")),
    }
}

/// The draft that a `WorkerLoad` asks for.
pub(crate) fn draft(draft: v1::Draft) -> Result<DraftOptions, String> {
    let v1::Draft { model, min_tokens, max_tokens, quantize_bits, quantize_group_size } = draft;
    if min_tokens > max_tokens || max_tokens == 0 {
        return Err(format!("a draft guesses at least one token, got {min_tokens} to {max_tokens}"));
    }
    let quantize = quantization(quantize_bits, quantize_group_size)?;
    Ok(DraftOptions { path: model.into(), quantize, tokens: min_tokens..=max_tokens })
}

/// How a `WorkerLoad` asks to store keys and values.
pub(crate) fn kv_dtype(name: &str) -> Result<Option<KvDtype>, String> {
    match name {
        "" => Ok(None),
        name => name.parse().map(Some).map_err(|error: UnknownKvDtype| error.to_string()),
    }
}

/// An engine's event for the wire, and whether it ends the request.
pub(crate) fn event(event: Event) -> (v1::GenerateEvent, bool) {
    let ends = matches!(event, Event::Finished(_) | Event::Failed(_));
    let kind = match event {
        Event::Started { prompt_tokens } => {
            // Which device has it, its node adds.
            generate_event::Kind::Started(v1::Started { prompt_tokens, device_index: None })
        }
        Event::Delta(delta) => generate_event::Kind::Delta(v1::Delta { choices: vec![choice(delta)] }),
        Event::Finished(finish) => generate_event::Kind::Finished(finished(finish)),
        Event::Failed(error) => {
            let kind = match error {
                GenerateError::Invalid(_) => FailureKind::InvalidRequest,
                GenerateError::Overloaded(_) => FailureKind::Overloaded,
                GenerateError::DeadlineExceeded(_) => FailureKind::DeadlineExceeded,
                GenerateError::Lost(_) => FailureKind::WorkerLost,
                GenerateError::Internal(_) => FailureKind::Internal,
            };
            generate_event::Kind::Failed(failure(kind, error.to_string()))
        }
    };
    (v1::GenerateEvent { kind: Some(kind) }, ends)
}

/// The event that ends a request with an error.
pub(crate) fn failed(kind: FailureKind, message: impl Into<String>) -> v1::GenerateEvent {
    v1::GenerateEvent { kind: Some(generate_event::Kind::Failed(failure(kind, message))) }
}

/// Whether nothing follows this event.
pub(crate) fn ends(event: &v1::GenerateEvent) -> bool {
    use generate_event::Kind;
    matches!(event.kind, Some(Kind::Finished(_) | Kind::Failed(_)))
}

/// The progress that ends a load with an error.
pub(crate) fn load_failed(kind: FailureKind, message: impl Into<String>) -> v1::LoadProgress {
    v1::LoadProgress { kind: Some(load_progress::Kind::Failed(failure(kind, message))) }
}

/// The progress that ends a load well.
pub(crate) fn load_ready(state: v1::ModelState) -> v1::LoadProgress {
    v1::LoadProgress { kind: Some(load_progress::Kind::Ready(state)) }
}

/// A rank listens.
pub(crate) fn load_listening(end: v1::ReplicaEnd) -> v1::LoadProgress {
    v1::LoadProgress { kind: Some(load_progress::Kind::Listening(end)) }
}

/// One step of a load.
pub(crate) fn load_step(step: LoadStep) -> v1::LoadProgress {
    let LoadStep { what, done_bytes, total_bytes } = step;
    let step = v1::LoadStep { what, done_bytes, total_bytes };
    v1::LoadProgress { kind: Some(load_progress::Kind::Step(step)) }
}

/// A model that is loaded.
pub(crate) fn ready_model(name: &str, state: EngineState) -> v1::ModelState {
    v1::ModelState {
        name: name.into(),
        status: v1::ModelStatus::Ready.into(),
        running: state.running,
        waiting: state.waiting,
        context_tokens: state.context_tokens,
        weight_bytes: state.weight_bytes,
        kv_bytes: state.kv_bytes,
        max_running: state.max_running,
    }
}

/// A rank of a replica that another device leads.
pub(crate) fn following_model(name: &str, state: FollowerState) -> v1::ModelState {
    v1::ModelState {
        name: name.into(),
        status: v1::ModelStatus::Following.into(),
        weight_bytes: state.weight_bytes,
        ..Default::default()
    }
}

/// A model on its way.
pub(crate) fn loading_model(name: &str) -> v1::ModelState {
    v1::ModelState { name: name.into(), status: v1::ModelStatus::Loading.into(), ..Default::default() }
}

pub(crate) fn failure(kind: FailureKind, message: impl Into<String>) -> v1::Failure {
    v1::Failure { kind: kind.into(), message: message.into() }
}

fn chat_prompt(chat: &v1::ChatPrompt) -> Result<ChatPrompt, String> {
    let messages = json("messages", &chat.messages_json)?;
    if messages.as_array().is_none_or(Vec::is_empty) {
        return Err("messages must be a JSON array of at least one message".into());
    }
    let tools = json("tools", &chat.tools_json)?;
    if !tools.is_null() && !tools.is_array() {
        return Err("tools must be a JSON array".into());
    }
    let variables = json("template variables", &chat.template_variables_json)?;
    if !variables.is_null() && !variables.is_object() {
        return Err("template variables must be a JSON object".into());
    }
    Ok(ChatPrompt { messages, tools, variables })
}

fn json(field: &str, text: &str) -> Result<Value, String> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(text).map_err(|error| format!("{field} must be JSON: {error}"))
}

fn sampling(wire: v1::Sampling) -> Result<SamplingParams, String> {
    let defaults = SamplingParams::default();
    let params = SamplingParams {
        temperature: wire.temperature.unwrap_or(defaults.temperature),
        top_k: wire.top_k.unwrap_or(defaults.top_k),
        top_p: wire.top_p.unwrap_or(defaults.top_p),
        min_p: wire.min_p.unwrap_or(defaults.min_p),
        seed: wire.seed,
        repetition_penalty: wire.repetition_penalty.unwrap_or(defaults.repetition_penalty),
        repetition_window: wire.repetition_window.unwrap_or(defaults.repetition_window),
        frequency_penalty: wire.frequency_penalty.unwrap_or(defaults.frequency_penalty),
        presence_penalty: wire.presence_penalty.unwrap_or(defaults.presence_penalty),
        logit_bias: wire.logit_bias.into_iter().collect(),
    };
    in_range("temperature", params.temperature, 0.0, f32::MAX)?;
    in_range("top_p", params.top_p, 0.0, 1.0)?;
    in_range("min_p", params.min_p, 0.0, 1.0)?;
    in_range("repetition_penalty", params.repetition_penalty, f32::MIN_POSITIVE, f32::MAX)?;
    in_range("frequency_penalty", params.frequency_penalty, f32::MIN, f32::MAX)?;
    in_range("presence_penalty", params.presence_penalty, f32::MIN, f32::MAX)?;
    match params.logit_bias.iter().find(|(_, bias)| bias.is_nan()) {
        Some((token, _)) => Err(format!("the logit bias of token {token} must be a number")),
        None => Ok(params),
    }
}

/// Refuses NaN as well, for which every comparison is false.
fn in_range(name: &str, value: f32, least: f32, most: f32) -> Result<(), String> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(match (least, most) {
        (_, f32::MAX) if least == f32::MIN => format!("{name} must be finite, got {value}"),
        (_, f32::MAX) if least == 0.0 => format!("{name} must be finite and at least 0, got {value}"),
        (_, f32::MAX) => format!("{name} must be finite and above 0, got {value}"),
        _ => format!("{name} must be between {least} and {most}, got {value}"),
    })
}

fn choice(delta: Delta) -> v1::ChoiceDelta {
    v1::ChoiceDelta {
        choice: delta.choice,
        text: delta.text,
        token_ids: delta.token_ids,
        logprobs: delta.logprobs.into_iter().map(logprobs).collect(),
        ended: delta.ended.map_or(v1::FinishReason::Unspecified, finish_reason).into(),
        reasoning: delta.reasoning,
        tool_calls: delta.tool_calls.into_iter().map(tool_call).collect(),
    }
}

fn tool_call(call: ToolCallDelta) -> v1::ToolCallDelta {
    let ToolCallDelta { index, id, name, arguments } = call;
    v1::ToolCallDelta { index, id: id.unwrap_or_default(), name: name.unwrap_or_default(), arguments }
}

fn grammar(grammar: v1::Grammar) -> Result<Grammar, String> {
    use v1::grammar::Kind;
    Ok(match grammar.kind {
        Some(Kind::JsonObject(_)) => Grammar::JsonObject,
        Some(Kind::JsonSchema(schema)) => Grammar::JsonSchema(schema),
        Some(Kind::Regex(regex)) => Grammar::Regex(regex),
        Some(Kind::Lark(grammar)) => Grammar::Lark(grammar),
        Some(Kind::Choices(choices)) => Grammar::Choice(choices.texts),
        None => return Err("a grammar must be of a kind".into()),
    })
}

fn repetition(limit: v1::RepetitionLimit) -> RepetitionLimit {
    let v1::RepetitionLimit { max_pattern, min_pattern, min_count } = limit;
    RepetitionLimit { max_pattern, min_pattern: min_pattern.max(1), min_count }
}

fn logprobs(logprobs: TokenLogprobs) -> v1::TokenLogprobs {
    let scored = |ScoredToken { id, bytes, logprob }| v1::ScoredToken { id, bytes, logprob };
    v1::TokenLogprobs {
        chosen: Some(scored(logprobs.chosen)),
        top: logprobs.top.into_iter().map(scored).collect(),
    }
}

fn finish_reason(reason: FinishReason) -> v1::FinishReason {
    match reason {
        FinishReason::Stop => v1::FinishReason::Stop,
        FinishReason::Length => v1::FinishReason::Length,
        FinishReason::Cancelled => v1::FinishReason::Cancelled,
        FinishReason::ToolCalls => v1::FinishReason::ToolCalls,
        FinishReason::Repetition => v1::FinishReason::Repetition,
    }
}

fn finished(finish: Finish) -> v1::Finished {
    v1::Finished {
        reason: finish_reason(finish.reason).into(),
        prompt_tokens: finish.prompt_tokens,
        completion_tokens: finish.completion_tokens,
        cached_tokens: finish.cached_tokens,
        prefill_micros: micros(finish.prefill),
        decode_micros: micros(finish.decode),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_request() -> v1::GenerateRequest {
        v1::GenerateRequest {
            request_id: "r".into(),
            prompt: Some(generate_request::Prompt::Text("hello".into())),
            ..Default::default()
        }
    }

    fn chat_request(messages: &str, tools: &str, variables: &str) -> v1::GenerateRequest {
        let chat = v1::ChatPrompt {
            messages_json: messages.into(),
            tools_json: tools.into(),
            template_variables_json: variables.into(),
        };
        v1::GenerateRequest { prompt: Some(generate_request::Prompt::Chat(chat)), ..text_request() }
    }

    #[test]
    fn absent_fields_take_the_engine_s_defaults() {
        let request = request(text_request()).expect("valid");
        assert_eq!(request.sampling, SamplingParams::default());
        assert_eq!(request.limits, Limits::default());
        assert_eq!(request.answer, AnswerOptions::default());
    }

    #[test]
    fn present_fields_arrive() {
        let wire = v1::Sampling {
            temperature: Some(0.5),
            top_k: Some(4),
            seed: Some(7),
            logit_bias: [(3, -1.5)].into(),
            ..Default::default()
        };
        let wire =
            v1::GenerateRequest { sampling: Some(wire), max_tokens: 9, ignore_eos: true, ..text_request() };
        let request = request(wire).expect("valid");
        assert_eq!(request.sampling.temperature, 0.5);
        assert_eq!(request.sampling.top_k, 4);
        assert_eq!(request.sampling.seed, Some(7));
        assert_eq!(request.sampling.logit_bias[&3], -1.5);
        assert_eq!(request.limits.max_tokens, Some(9));
        assert!(request.limits.ignore_eos);
    }

    #[test]
    fn whose_turn_it_is_arrives_and_a_priority_out_of_range_is_refused() {
        let asked = |priority| v1::GenerateRequest {
            priority,
            client: "ann".into(),
            deadline_micros: 1500,
            ..text_request()
        };
        let turn = request(asked(-100)).expect("valid").turn;
        let expected =
            Turn { priority: -100, client: Some("ann".into()), deadline: Some(Duration::from_micros(1500)) };
        assert_eq!(turn, expected);
        assert!(request(asked(101)).is_err_and(|error| error.contains("101")));
        assert_eq!(request(text_request()).expect("valid").turn, Turn::default());
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let cases = [
            (v1::Sampling { temperature: Some(-1.0), ..Default::default() }, "temperature"),
            (v1::Sampling { temperature: Some(f32::NAN), ..Default::default() }, "temperature"),
            (v1::Sampling { top_p: Some(1.5), ..Default::default() }, "top_p"),
            (v1::Sampling { min_p: Some(-0.1), ..Default::default() }, "min_p"),
            (v1::Sampling { repetition_penalty: Some(0.0), ..Default::default() }, "repetition_penalty"),
            (
                v1::Sampling { presence_penalty: Some(f32::INFINITY), ..Default::default() },
                "presence_penalty",
            ),
            (v1::Sampling { logit_bias: [(5, f32::NAN)].into(), ..Default::default() }, "token 5"),
        ];
        for (sampling, name) in cases {
            let wire = v1::GenerateRequest { sampling: Some(sampling), ..text_request() };
            let error = request(wire).expect_err(name);
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn bad_json_is_refused_by_field() {
        let ok = r#"[{"role":"user","content":"hi"}]"#;
        assert!(request(chat_request(ok, "[]", "{}")).is_ok());
        for (wire, field) in [
            (chat_request("[", "", ""), "messages"),
            (chat_request("{}", "", ""), "messages"),
            (chat_request("", "", ""), "messages"),
            (chat_request(ok, "{}", ""), "tools"),
            (chat_request(ok, "", "[]"), "template variables"),
        ] {
            let error = request(wire).expect_err(field);
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_request_without_a_prompt_is_refused() {
        let wire = v1::GenerateRequest { prompt: None, ..text_request() };
        assert!(request(wire).expect_err("no prompt").contains("prompt"));
    }

    #[test]
    fn quantisation_is_checked() {
        assert_eq!(quantization(0, 0), Ok(None));
        assert_eq!(quantization(4, 0), Ok(Some(Quantization::Affine { bits: 4, group_size: 64 })));
        assert!(quantization(7, 64).is_err());
        assert!(quantization(4, 48).is_err());
        assert!(quantization(0, 64).is_err());
        assert_eq!(quantization_of("mxfp4", 0, 0), Ok(Quantization::Mxfp4));
        assert!(quantization_of("mxfp4", 4, 64).is_err());
        assert!(quantization_of("nvfp4", 0, 0).is_err_and(|error| error.contains("nvfp4")));
    }

    #[test]
    fn kv_dtypes_are_checked() {
        assert_eq!(kv_dtype(""), Ok(None));
        assert_eq!(kv_dtype("int4"), Ok(Some(KvDtype::Int4)));
        assert!(kv_dtype("int3").is_err_and(|error| error.contains("int3")));
    }
}
