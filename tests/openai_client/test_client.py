"""The real `openai` package against a running server.

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=... python test_client.py

The server must serve the default model; `run.py` starts one.
Checks what the package sees: objects, streams and exception classes. The numbers inside
answers are the engine's business and tested there.
"""

import asyncio
import json
import unittest

import openai

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]

client = openai.OpenAI(max_retries=0, timeout=60)
# Besides what is ready a server lists what it could load.
MODEL = next(model.id for model in client.models.list() if model.status == "ready")


def ask(**options):
    options = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 16, **options}
    return client.chat.completions.create(**options)


class Chat(unittest.TestCase):
    def test_an_answer_has_text_reason_and_usage(self):
        answer = ask()
        [choice] = answer.choices
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.model, MODEL)
        self.assertEqual(choice.message.role, "assistant")
        self.assertIn("Paris", choice.message.content)
        self.assertEqual(choice.finish_reason, "stop")
        usage = answer.usage
        self.assertGreater(usage.prompt_tokens, 0)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)

    def test_a_limit_is_kept_and_told(self):
        answer = ask(max_tokens=3)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 3)

    def test_the_newer_name_of_the_limit_works(self):
        answer = ask(max_tokens=openai.omit, max_completion_tokens=3)
        self.assertEqual(answer.usage.completion_tokens, 3)

    def test_a_stop_string_ends_the_answer_and_is_left_out(self):
        answer = ask(stop=[" Paris"])
        self.assertEqual(answer.choices[0].message.content, "The capital of France is")
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_a_seed_makes_sampling_repeatable(self):
        first, second = (ask(temperature=1.5, seed=7).choices[0].message.content for _ in range(2))
        self.assertEqual(first, second)

    def test_messages_may_be_parts_and_have_a_system_role(self):
        parts = [{"type": "text", "text": QUESTION[0]["content"]}]
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
        self.assertIn("Paris", ask(messages=messages).choices[0].message.content)


class Streaming(unittest.TestCase):
    def test_a_stream_spells_the_same_text(self):
        chunks = list(ask(stream=True))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        self.assertEqual(text, ask().choices[0].message.content)
        *before, last = (chunk.choices[0].finish_reason for chunk in chunks)
        self.assertEqual((set(before), last), ({None}, "stop"))
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)

    def test_usage_comes_last_when_asked_for(self):
        *chunks, last = ask(stream=True, stream_options={"include_usage": True})
        self.assertTrue(all(chunk.usage is None for chunk in chunks))
        self.assertEqual(last.choices, [])
        self.assertEqual(last.usage, ask().usage)

    def test_a_stream_may_be_left(self):
        stream = ask(stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.assertIn("Paris", ask().choices[0].message.content)

    def test_many_at_once_get_the_same_answer(self):
        async def one(asynchronous):
            stream = await asynchronous.chat.completions.create(
                model=MODEL, messages=QUESTION, temperature=0, max_tokens=16, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async def all_of_them():
            async with openai.AsyncOpenAI(max_retries=0, timeout=60) as asynchronous:
                return await asyncio.gather(*(one(asynchronous) for _ in range(4)))

        self.assertEqual(set(asyncio.run(all_of_them())), {ask().choices[0].message.content})


class Choices(unittest.TestCase):
    OPTIONS = {"n": 3, "temperature": 1.2, "seed": 5}

    def test_choices_are_what_consecutive_seeds_give(self):
        choices = ask(**self.OPTIONS).choices
        self.assertEqual([choice.index for choice in choices], [0, 1, 2])
        alone = [ask(temperature=1.2, seed=seed).choices[0].message.content for seed in (5, 6, 7)]
        self.assertEqual([choice.message.content for choice in choices], alone)

    def test_the_prompt_is_counted_once(self):
        self.assertEqual(ask(**self.OPTIONS).usage.prompt_tokens, ask().usage.prompt_tokens)

    def test_a_stream_spells_every_choice(self):
        texts, reasons = {}, {}
        for chunk in ask(stream=True, **self.OPTIONS):
            [choice] = chunk.choices
            self.assertNotIn(choice.index, reasons)
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
        whole = ask(**self.OPTIONS).choices
        self.assertEqual(texts, {choice.index: choice.message.content for choice in whole})
        self.assertEqual(reasons, {choice.index: choice.finish_reason for choice in whole})


class Logprobs(unittest.TestCase):
    def check(self, tokens, text):
        spelled = b"".join(bytes(token.bytes) for token in tokens)
        self.assertEqual(spelled.decode(), text)
        for token in tokens:
            self.assertEqual(len(token.top_logprobs), 3)
            # Greedily chosen, so the likeliest.
            self.assertEqual(token.top_logprobs[0].token, token.token)
            self.assertEqual(token.top_logprobs[0].logprob, token.logprob)
            self.assertLessEqual(token.logprob, 0)

    def test_every_token_has_its_own_and_the_likeliest(self):
        [choice] = ask(logprobs=True, top_logprobs=3).choices
        self.check(choice.logprobs.content, choice.message.content)
        self.assertIsNone(ask().choices[0].logprobs)

    def test_a_stream_has_the_same(self):
        chunks = [chunk.choices[0] for chunk in ask(stream=True, logprobs=True, top_logprobs=3)]
        tokens = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content]
        self.check(tokens, ask().choices[0].message.content)

    def test_completions_have_them_in_lists(self):
        options = {**Completions.OPTIONS, "logprobs": 2}
        [choice] = client.completions.create(**options).choices
        logprobs = choice.logprobs
        self.assertEqual("".join(logprobs.tokens), choice.text)
        self.assertEqual(logprobs.text_offset, [len("".join(logprobs.tokens[:i])) for i in range(8)])
        for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
            self.assertEqual(top[token], logprob)
            self.assertEqual(len(top), 2)

    def test_top_logprobs_need_logprobs(self):
        with self.assertRaises(openai.BadRequestError) as raised:
            ask(top_logprobs=3)
        self.assertEqual(raised.exception.param, "top_logprobs")


class Structured(unittest.TestCase):
    SCHEMA = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}, "large": {"type": "boolean"}},
        "required": ["city", "large"],
        "additionalProperties": False,
    }

    def test_an_answer_obeys_its_schema_at_any_temperature(self):
        json_schema = {"name": "city", "strict": True, "schema": self.SCHEMA}
        for seed in range(3):
            answer = ask(
                temperature=1,
                seed=seed,
                max_tokens=100,
                response_format={"type": "json_schema", "json_schema": json_schema},
            )
            value = json.loads(answer.choices[0].message.content)
            self.assertEqual(set(value), {"city", "large"})
            self.assertIsInstance(value["large"], bool)
            self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_choices_and_regular_expressions_are_obeyed(self):
        for outputs, pattern in [({"choice": ["red", "blue"]}, "red|blue"), ({"regex": "[ab]{3}"}, "[ab]{3}")]:
            answer = ask(temperature=1, extra_body={"structured_outputs": outputs})
            self.assertRegex(answer.choices[0].message.content, f"^({pattern})$")

    def test_a_schema_that_makes_no_sense_is_refused_with_its_reason(self):
        json_schema = {"name": "x", "schema": {"type": "thing"}}
        with self.assertRaises(openai.BadRequestError) as raised:
            ask(response_format={"type": "json_schema", "json_schema": json_schema})
        self.assertIn("JSON schema", raised.exception.body["message"])


class Tools(unittest.TestCase):
    TOOL = {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": Structured.SCHEMA,
        },
    }
    OPTIONS = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 100}

    def test_a_required_call_has_arguments_of_its_schema(self):
        [choice] = ask(**self.OPTIONS).choices
        [call] = choice.message.tool_calls
        self.assertEqual((call.type, call.function.name), ("function", "weather"))
        self.assertEqual(set(json.loads(call.function.arguments)), {"city", "large"})
        self.assertEqual((choice.finish_reason, choice.message.content), ("tool_calls", None))

    def test_a_stream_spells_the_same_call(self):
        [whole] = ask(**self.OPTIONS).choices[0].message.tool_calls
        names, arguments, content = [], "", ""
        for chunk in ask(stream=True, **self.OPTIONS):
            content += chunk.choices[0].delta.content or ""
            for call in chunk.choices[0].delta.tool_calls or []:
                names += [call.function.name] if call.id else []
                arguments += call.function.arguments
        self.assertEqual((names, arguments, content), (["weather"], whole.function.arguments, ""))

    def test_the_answer_to_a_call_goes_into_the_conversation(self):
        message = ask(**self.OPTIONS).choices[0].message
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
        answer = ask(messages=[*QUESTION, message, result], tools=[self.TOOL], tool_choice="none")
        self.assertTrue(answer.choices[0].message.content)


class Completions(unittest.TestCase):
    OPTIONS = {"model": MODEL, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}

    def test_a_prompt_is_continued(self):
        answer = client.completions.create(**self.OPTIONS)
        self.assertEqual(answer.object, "text_completion")
        self.assertIn("Paris", answer.choices[0].text)

    def test_a_stream_spells_the_same_text(self):
        chunks = client.completions.create(**self.OPTIONS, stream=True)
        text = "".join(chunk.choices[0].text for chunk in chunks)
        self.assertEqual(text, client.completions.create(**self.OPTIONS).choices[0].text)


class Models(unittest.TestCase):
    def test_a_listed_model_can_be_looked_up(self):
        model = client.models.retrieve(MODEL)
        self.assertEqual((model.id, model.object), (MODEL, "model"))

    def test_another_cannot(self):
        with self.assertRaises(openai.NotFoundError) as raised:
            client.models.retrieve("nobody")
        self.assertEqual(raised.exception.code, "model_not_found")


class Errors(unittest.TestCase):
    def refused(self, kind, **options):
        with self.assertRaises(kind) as raised:
            ask(**options)
        self.assertTrue(raised.exception.body["message"])
        return raised.exception

    def test_an_unknown_model_is_not_found(self):
        error = self.refused(openai.NotFoundError, model="nobody")
        self.assertEqual((error.param, error.code), ("model", "model_not_found"))
        self.assertEqual(error.type, "invalid_request_error")

    def test_a_bad_value_names_its_field(self):
        error = self.refused(openai.BadRequestError, temperature=3)
        self.assertEqual((error.param, error.code), ("temperature", "invalid_value"))

    def test_what_is_not_supported_is_refused_by_name(self):
        for field, value in [("store", True), ("functions", [{"name": "f"}])]:
            with self.subTest(field):
                error = self.refused(openai.BadRequestError, **{field: value})
                self.assertEqual((error.param, error.code), (field, "unsupported_parameter"))

    def test_an_unknown_field_is_refused_by_name(self):
        error = self.refused(openai.BadRequestError, extra_body={"temprature": 0})
        self.assertEqual((error.param, error.code), ("temprature", "unknown_parameter"))

    def test_no_messages_are_refused(self):
        self.assertEqual(self.refused(openai.BadRequestError, messages=[]).param, "messages")

    def test_a_prompt_that_does_not_fit_is_refused(self):
        messages = [{"role": "user", "content": "word " * 10_000}]
        for stream in (False, True):
            with self.subTest(stream=stream):
                error = self.refused(openai.BadRequestError, messages=messages, stream=stream)
                self.assertIn("tokens", error.body["message"])

    def test_a_wrong_key_is_refused(self):
        stranger = client.with_options(api_key="wrong")
        with self.assertRaises(openai.AuthenticationError) as raised:
            stranger.models.list()
        self.assertEqual(raised.exception.code, "invalid_api_key")


if __name__ == "__main__":
    unittest.main()
