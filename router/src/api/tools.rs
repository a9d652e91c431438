//! Reads the tools of a chat: which there are, which must be called, and what conversations say of earlier calls.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::{Fields, wrong_type};

/// What a chat may call.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tools {
    /// The `tools` array as JSON; empty for none.
    pub(crate) json: String,
    /// At least one must be called.
    pub(crate) required: bool,
    /// This one must be called; empty for none.
    pub(crate) named: String,
    /// Of required calls at most one.
    pub(crate) single: bool,
}

/// Reads `tools`, `tool_choice` and `parallel_tool_calls`. With `none` the model is not told of any tool.
pub(crate) fn tools(fields: &mut Fields) -> Result<Tools, ApiError> {
    let items = fields.array("tools")?.unwrap_or_default();
    let mut names = Vec::new();
    let mut tools = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let (name, tool) = tool(item, &format!("tools[{index}]"))?;
        names.push(name);
        tools.push(tool);
    }
    let single = fields.boolean("parallel_tool_calls")? == Some(false);
    let choice = choice(fields)?;
    if tools.is_empty() {
        return match choice {
            Choice::None | Choice::Auto => Ok(Tools::default()),
            _ => {
                Err(ApiError::invalid("tool_choice", "'tool_choice' is only allowed when 'tools' are given"))
            }
        };
    }
    let json = Value::Array(tools).to_string();
    Ok(match choice {
        Choice::None => Tools::default(),
        Choice::Auto => Tools { json, single, ..Tools::default() },
        Choice::Required => Tools { json, single, required: true, ..Tools::default() },
        Choice::Named(named) if names.contains(&named) => Tools { json, single, named, ..Tools::default() },
        Choice::Named(named) => {
            let message = format!("'tool_choice' names '{named}', which is not among the tools");
            return Err(ApiError::invalid("tool_choice", message));
        }
    })
}

enum Choice {
    None,
    Auto,
    Required,
    Named(String),
}

fn choice(fields: &mut Fields) -> Result<Choice, ApiError> {
    let value = match fields.take("tool_choice") {
        None => return Ok(Choice::Auto),
        Some(value @ Value::Object(_)) => value,
        Some(Value::String(choice)) => {
            return match choice.as_str() {
                "none" => Ok(Choice::None),
                "auto" => Ok(Choice::Auto),
                "required" => Ok(Choice::Required),
                other => {
                    let rule = "must be none, auto, required or a function";
                    Err(ApiError::invalid("tool_choice", format!("'tool_choice' {rule}, got '{other}'")))
                }
            };
        }
        Some(other) => return Err(wrong_type("tool_choice", "a string or an object", &other)),
    };
    let mut fields = Fields::of_value(value, "tool_choice")?;
    function_type(&mut fields)?;
    let function = fields.take("function").ok_or_else(|| ApiError::missing("tool_choice.function"))?;
    fields.finish()?;
    let mut function = Fields::of_value(function, "tool_choice.function")?;
    let name = function.required_string("name")?;
    function.finish()?;
    Ok(Choice::Named(name))
}

/// Only functions are tools here.
fn function_type(fields: &mut Fields) -> Result<(), ApiError> {
    let name = fields.name("type");
    match fields.required_string("type")?.as_str() {
        "function" => Ok(()),
        other => {
            let message = format!("'{name}' is not supported except as 'function', got '{other}'");
            Err(ApiError::unsupported(&name, message))
        }
    }
}

fn tool(value: Value, name: &str) -> Result<(String, Value), ApiError> {
    let mut fields = Fields::of_value(value, name)?;
    function_type(&mut fields)?;
    let name = fields.name("function");
    let function = fields.take("function").ok_or_else(|| ApiError::missing(&name))?;
    fields.finish()?;
    let mut fields = Fields::of_value(function, &name)?;
    let function_name = fields.required_string("name")?;
    if function_name.is_empty() {
        return Err(ApiError::invalid(
            &fields.name("name"),
            format!("'{}' must not be empty", fields.name("name")),
        ));
    }
    let mut function = Map::new();
    function.insert("name".into(), function_name.clone().into());
    if let Some(description) = fields.string("description")? {
        function.insert("description".into(), description.into());
    }
    if let Some(parameters) = fields.object("parameters")? {
        function.insert("parameters".into(), parameters.into());
    }
    // Arguments of required calls follow their schema in any case.
    fields.boolean("strict")?;
    fields.finish()?;
    Ok((function_name, json!({"type": "function", "function": function})))
}

/// Reads the `tool_calls` of an assistant's message; nothing for none.
pub(crate) fn calls(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    let name = fields.name("tool_calls");
    let items = fields.array("tool_calls")?.unwrap_or_default();
    let each = |(index, item)| call(item, &format!("{name}[{index}]"));
    let calls: Vec<Value> = items.into_iter().enumerate().map(each).collect::<Result<_, _>>()?;
    Ok((!calls.is_empty()).then_some(Value::Array(calls)))
}

fn call(value: Value, name: &str) -> Result<Value, ApiError> {
    let mut fields = Fields::of_value(value, name)?;
    let id = fields.required_string("id")?;
    function_type(&mut fields)?;
    fields.take("index");
    let name = fields.name("function");
    let function = fields.take("function").ok_or_else(|| ApiError::missing(&name))?;
    fields.finish()?;
    let mut fields = Fields::of_value(function, &name)?;
    let function_name = fields.required_string("name")?;
    let arguments = fields.required_string("arguments")?;
    fields.finish()?;
    Ok(json!({"id": id, "type": "function", "function": {"name": function_name, "arguments": arguments}}))
}
