from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from script import BASE_URL, EARLIER, MODEL, QUESTION, SLOW, Answer, stopped, tell, weather

plain = ChatOpenAI(base_url=BASE_URL, model=MODEL, api_key="unused", max_retries=0)
chat = plain.bind_tools([tool(weather)])
tell("chat", text=chat.invoke(QUESTION).content)
tell("stream", pieces=[chunk.content for chunk in chat.stream(QUESTION)])
tell("history", text=chat.invoke([*EARLIER, ("user", "Who am I?")]).content)
tell("structured", text=plain.with_structured_output(Answer, method="json_schema").invoke(QUESTION).answer)
stream = chat.stream(SLOW)
while not next(stream).content:
    pass
stream.close()
stopped()
