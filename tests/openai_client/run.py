"""The official `openai` package, unchanged, against a running `mlxcel serve`.

    python tests/openai_client/run.py path/to/mlxcel

Starts the server on a free port with the default model, runs every function whose name begins with
`check_`, prints one line for each and ends with 0 if all passed.
"""

import re
import subprocess
import sys
import tempfile
import traceback

import openai

MODEL = "smollm2"
KEY = "a key for this test"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def check_models_are_listed(client):
    names = [model.id for model in client.models.list()]
    assert names == [MODEL], names


def check_chat_answers_with_usage(client):
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=32)
    choice = answer.choices[0]
    assert choice.message.role == "assistant", choice
    assert "Paris" in choice.message.content, choice
    assert choice.finish_reason == "stop", choice
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def check_streamed_chat_is_the_same_text(client):
    plain = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=32)
    stream = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        max_tokens=32,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, reasons, usage = "", [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
    assert text == plain.choices[0].message.content, text
    assert reasons == [plain.choices[0].finish_reason], reasons
    assert usage == plain.usage, usage


def check_completions_stop_at_max_tokens(client):
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", temperature=0, max_tokens=5)
    assert answer.choices[0].finish_reason == "length", answer
    assert answer.usage.completion_tokens == 5, answer


def check_a_seed_repeats_a_sample(client):
    def sample():
        answer = client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=1.0, top_p=0.95, seed=7, max_tokens=16
        )
        return answer.choices[0].message.content

    assert sample() == sample()


def check_a_stream_can_be_left_early(client):
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=200, stream=True)
    next(iter(stream))
    stream.close()
    check_completions_stop_at_max_tokens(client)


def check_an_unsupported_field_is_named(client):
    error = refused(openai.BadRequestError, client, model=MODEL, messages=QUESTION, logprobs=True)
    assert "logprobs" in error.message, error


def check_an_unknown_model_is_not_found(client):
    error = refused(openai.NotFoundError, client, model="no-such-model", messages=QUESTION)
    assert "no-such-model" in error.message, error


def check_a_wrong_key_is_refused(client):
    stranger = client.with_options(api_key="another key")
    refused(openai.AuthenticationError, stranger, model=MODEL, messages=QUESTION)


def refused(kind, client, **request):
    try:
        client.chat.completions.create(**request)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def start(program, state_dir):
    command = [program, "serve", "-m", MODEL, "--port", "0", "--api-key", KEY, "--state-dir", state_dir]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in server.stdout:
        address = re.search(r"http://\S+/v1", line)
        if address:
            return server, address.group()
    raise SystemExit(f"{' '.join(command)} ended with {server.wait()} before it served")


def main():
    checks = [(name, function) for name, function in globals().items() if name.startswith("check_")]
    failures = 0
    with tempfile.TemporaryDirectory() as state_dir:
        server, address = start(sys.argv[1], state_dir)
        try:
            client = openai.OpenAI(base_url=address, api_key=KEY, max_retries=0, timeout=60)
            for name, function in checks:
                try:
                    function(client)
                    outcome = "ok"
                except Exception:
                    traceback.print_exc()
                    outcome = "FAILED"
                    failures += 1
                print(f"    {name.removeprefix('check_').replace('_', ' ')}: {outcome}")
        finally:
            server.terminate()
            server.wait(timeout=30)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
