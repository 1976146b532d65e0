import { createInterface } from "node:readline";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, streamText, tool } from "ai";

const [baseURL, name] = process.argv.slice(2);
const model = createOpenAICompatible({ name: "app", baseURL, supportsStructuredOutputs: true })(name);
const tools = {
  weather: tool({
    description: "The weather of a city.",
    inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }),
    execute: () => { throw new Error("the program calls its own tools"); },
  }),
};
const question = "I am visitor-7.";
const options = { model, tools, maxRetries: 0 };
const tell = (step, what) => console.log(JSON.stringify({ step, ...what }));

tell("chat", { text: (await generateText({ ...options, prompt: question })).text });

const pieces = [];
for await (const piece of streamText({ ...options, prompt: question }).textStream) pieces.push(piece);
tell("stream", { pieces });

const messages = [
  { role: "user", content: question },
  { role: "assistant", content: "Hello, visitor-7." },
  { role: "user", content: "Who am I?" },
];
tell("history", { text: (await generateText({ ...options, messages })).text });

const schema = jsonSchema({
  type: "object", properties: { answer: { type: "string" } }, required: ["answer"], additionalProperties: false,
});
const typed = await generateText({ model, maxRetries: 0, prompt: question, output: Output.object({ schema }) });
tell("structured", { text: typed.output.answer });

const stopping = new AbortController();
const stream = streamText({ ...options, prompt: "Tell me slowly.", abortSignal: stopping.signal });
try {
  for await (const piece of stream.textStream) if (piece) stopping.abort();
} catch (error) {
  if (error.name !== "AbortError") throw error;
}
tell("stopped");
await new Promise((resolve) => createInterface({ input: process.stdin }).once("line", resolve));
process.exit(0);
