import asyncio

from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from script import BASE_URL, MODEL, QUESTION, SLOW, Answer, stopped, tell, weather

agent = Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE_URL, api_key="unused")))
agent.tool_plain(weather)


async def main():
    first = await agent.run(QUESTION)
    tell("chat", text=first.output)
    async with agent.run_stream(QUESTION) as result:
        tell("stream", pieces=[piece async for piece in result.stream_text(delta=True, debounce_by=None)])
    history = await agent.run("Who am I?", message_history=first.all_messages())
    tell("history", text=history.output)
    tell("structured", text=(await agent.run(QUESTION, output_type=NativeOutput(Answer))).output.answer)
    async with agent.run_stream(SLOW) as result:
        async for _ in result.stream_text(delta=True, debounce_by=None):
            break
    await asyncio.to_thread(stopped)


asyncio.run(main())
