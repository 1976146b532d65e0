from openai import OpenAI
from script import BASE_URL, EARLIER, MODEL, QUESTION, SLOW, TOOLS, Answer, chat, stopped, tell

client = OpenAI(base_url=BASE_URL, api_key="unused", max_retries=0)


def ask(question, earlier=(), **options):
    messages = chat(question, earlier)
    return client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, **options)


tell("chat", text=ask(QUESTION).choices[0].message.content)
tell("stream", pieces=[chunk.choices[0].delta.content or "" for chunk in ask(QUESTION, stream=True)])
tell("history", text=ask("Who am I?", EARLIER).choices[0].message.content)
parsed = client.chat.completions.parse(model=MODEL, messages=chat(QUESTION, []), response_format=Answer)
tell("structured", text=parsed.choices[0].message.parsed.answer)

with ask(SLOW, stream=True) as stream:
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
stopped()
