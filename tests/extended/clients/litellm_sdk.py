import asyncio

import litellm
from script import BASE_URL, EARLIER, MODEL, QUESTION, SLOW, TOOLS, Answer, chat, tell, wait

litellm.telemetry = False


async def ask(question: str, earlier=(), **options):
    server = {"model": f"openai/{MODEL}", "api_base": BASE_URL, "api_key": "unused"}
    return await litellm.acompletion(messages=chat(question, earlier), tools=TOOLS, **server, **options)


async def main() -> None:
    tell("chat", text=(await ask(QUESTION)).choices[0].message.content)
    stream = await ask(QUESTION, stream=True)
    tell("stream", pieces=[chunk.choices[0].delta.content or "" async for chunk in stream])
    tell("history", text=(await ask("Who am I?", EARLIER)).choices[0].message.content)
    typed = await ask(QUESTION, response_format=Answer)
    tell("structured", text=Answer.model_validate_json(typed.choices[0].message.content).answer)
    stream = await ask(SLOW, stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.aclose()
    tell("stopped")
    await asyncio.to_thread(wait)


asyncio.run(main())
