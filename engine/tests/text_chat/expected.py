"""Writes cases.json: what Hugging Face transformers renders for the templates in this directory.

    python expected.py          # needs the transformers package (any 4.4x or 5.x), no model

Content and tool calls are prepared here as an OpenAI-compatible server prepares them: text parts
joined, null content empty, tool call arguments parsed.
"""

import copy
import datetime
import json
import pathlib

from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
NOW = datetime.datetime(2025, 3, 9, 8, 7, 6)

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Today's weather: <b>\"rain\"</b> & sun, 7 °C",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Zürich", "Paris"]},
                "days": {"type": "array", "items": {"type": "number"}, "default": [1, 2.0, 1e-7]},
            },
            "required": ["city"],
            "additionalProperties": False,
            "return": None,
        },
    },
}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


def call(arguments, name="weather", id="abcdefgh1", content=None):
    function = {"name": name, "arguments": arguments}
    calls = [{"id": id, "type": "function", "function": function}]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result(content, id="abcdefgh1"):
    return {"role": "tool", "tool_call_id": id, "content": content}


SHORT = [user("Hello there! ")]
LONG = [system(" Be brief.\n"), user("Hi"), assistant("Hello, ça va ? 🙂"), user(" Tell me more")]
PARTS = [user([{"type": "text", "text": "One, "}, {"type": "text", "text": "two"}])]
TOOLS = [
    system("Use tools."),
    user("Weather in Zürich?"),
    call('{"city": "Zürich", "days": [1, 2.5, 1e20]}'),
    result("rain \"all\" day"),
    assistant("It rains."),
    user("And in Paris?"),
]
AFTER_TOOL = TOOLS[:4]
THOUGHT = [
    user("2+2?"),
    assistant("<think>\nTwo and two\n</think>\n\n4"),
    user("3+3?"),
    assistant("<think>\nThree and three\n</think>\n\n6"),
]
CASES = [
    ("smollm2", {"messages": [user("What is the capital of France?")]}),
    ("smollm2", {"messages": [user("Write a haiku about the sea.")]}),
    ("smollm2", {"messages": LONG}),
    ("smollm2", {"messages": LONG, "variables": {"add_generation_prompt": False}}),
    ("smollm2", {"messages": PARTS}),
    ("chatml", {"messages": SHORT}),
    ("chatml", {"messages": LONG}),
    ("chatml", {"messages": SHORT, "variables": {"default_system": "Speak like a pirate."}}),
    ("chatml", {"messages": SHORT + [{"role": "critic", "content": "no"}]}),
    ("llama3_style", {"messages": SHORT}),
    ("llama3_style", {"messages": LONG, "variables": {"date_string": "26 Jul 2024"}}),
    ("llama3_style", {"messages": TOOLS, "tools": [WEATHER]}),
    ("llama3_style", {"messages": TOOLS, "tools": [WEATHER, WEATHER], "variables": {"tools_in_user_message": False}}),
    ("llama3_style", {"messages": [user("x"), call({"query": "a", "lang": "fr"}, "search"), result("y")], "variables": {"builtin_tools": ["search"]}}),
    ("llama3_style", {"messages": [system("Only this.")], "tools": [WEATHER]}),
    ("mistral_style", {"messages": SHORT}),
    ("mistral_style", {"messages": LONG}),
    ("mistral_style", {"messages": [user("a"), user("b")]}),
    ("mistral_style", {"messages": TOOLS, "tools": [WEATHER, WEATHER]}),
    ("mistral_style", {"messages": [user("a"), call("{}", id="short")]}),
    ("qwen3_style", {"messages": SHORT}),
    ("qwen3_style", {"messages": LONG, "variables": {"enable_thinking": False}}),
    ("qwen3_style", {"messages": THOUGHT}),
    ("qwen3_style", {"messages": THOUGHT[:3]}),
    ("qwen3_style", {"messages": TOOLS, "tools": [WEATHER]}),
    ("qwen3_style", {"messages": AFTER_TOOL + [result("and wind", "abcdefgh2")], "tools": [WEATHER]}),
    ("macros", {"messages": TOOLS, "tools": [WEATHER]}),
    ("macros", {"messages": [user("a\tb"), user("c"), {"role": "developer", "content": "x"}, {"role": "user", "name": "ann", "content": "d"}, {"role": "stop", "content": ""}, user("e")]}),
    ("macros", {"messages": [call({"flag": True, "none": None, "list": ["it's", 1.0, False], "map": {"a": 1}})]}),
    ("parts", {"messages": PARTS}),
    ("parts", {"messages": LONG}),
    ("generation", {"messages": LONG}),
]


def prepared(template, messages):
    messages = copy.deepcopy(messages)
    for message in messages:
        content = message.get("content")
        if template == "parts":
            if isinstance(content, str):
                message["content"] = [{"type": "text", "text": content}]
        elif isinstance(content, list):
            message["content"] = "".join(part["text"] for part in content)
        elif content is None:
            message["content"] = ""
        for tool_call in message.get("tool_calls") or []:
            function = tool_call["function"]
            if isinstance(function["arguments"], str):
                function["arguments"] = json.loads(function["arguments"])
    return messages


def render(name, chat):
    template = chat_template_utils._compile_jinja_template((HERE / f"{name}.jinja").read_text())
    variables = {
        "documents": None,
        "add_generation_prompt": True,
        "strftime_now": NOW.strftime,
        **SPECIAL,
        **chat.get("variables", {}),
    }
    messages = prepared(name, chat["messages"])
    return template.render(messages=messages, tools=chat.get("tools"), **variables)


def main():
    cases = []
    for name, chat in CASES:
        case = {"template": name, **chat}
        try:
            case["expected"] = render(name, chat)
        except Exception as error:
            case["error"] = str(error)
        cases.append(case)
    text = json.dumps(cases, ensure_ascii=False, indent=1)
    (HERE / "cases.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
