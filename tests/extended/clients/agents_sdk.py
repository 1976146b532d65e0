import asyncio

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from script import BASE_URL, EARLIER, MODEL, QUESTION, SLOW, Answer, chat, stopped, tell, weather

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=BASE_URL, api_key="unused", max_retries=0)
model = OpenAIChatCompletionsModel(model=MODEL, openai_client=client)


async def pieces_of(result):
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            yield event.data.delta


async def main():
    agent = Agent(name="Helper", instructions="Help.", model=model, tools=[function_tool(weather)])
    tell("chat", text=(await Runner.run(agent, QUESTION)).final_output)
    streamed = Runner.run_streamed(agent, QUESTION)
    tell("stream", pieces=[piece async for piece in pieces_of(streamed)])
    history = await Runner.run(agent, chat("Who am I?", EARLIER))
    tell("history", text=history.final_output)
    typed = Agent(name="Typed", model=model, output_type=Answer)
    tell("structured", text=(await Runner.run(typed, QUESTION)).final_output.answer)
    stopping = Runner.run_streamed(agent, SLOW)
    async for _ in pieces_of(stopping):
        break
    stopping.cancel()
    await asyncio.to_thread(stopped)


asyncio.run(main())
