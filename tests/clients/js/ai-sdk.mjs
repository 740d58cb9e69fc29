// The AI SDK: ChatBox and Cherry Studio are built on it, with @ai-sdk/openai-compatible for their custom providers.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { DEEPWELL_EMBEDDER, DEEPWELL_KEY, DEEPWELL_MODEL, DEEPWELL_PLAIN, DEEPWELL_QUESTION, DEEPWELL_URL, report } from "./deepwell.mjs";

const compatible = createOpenAICompatible({ name: "deepwell", baseURL: `${DEEPWELL_URL}/v1`, apiKey: DEEPWELL_KEY });
const openai = createOpenAI({ baseURL: `${DEEPWELL_URL}/v1`, apiKey: DEEPWELL_KEY });
const ollama = createOllama({ baseURL: `${DEEPWELL_URL}/api`, headers: { Authorization: `Bearer ${DEEPWELL_KEY}` } });

async function parts(model, options = {}) {
  const found = { text: "", reasoning: "", sources: [], errors: [] };
  const { fullStream } = streamText({ model, prompt: DEEPWELL_QUESTION, maxRetries: 0, onError() {}, ...options });
  for await (const part of fullStream) {
    if (part.type === "text-delta") found.text += part.text;
    if (part.type === "reasoning-delta") found.reasoning += part.text;
    if (part.type === "source") found.sources.push({ url: part.url, title: part.title });
    if (part.type === "error") found.errors.push(part.error?.message ?? JSON.stringify(part.error));
    if (part.type === "finish") found.finish = part.finishReason;
  }
  return found;
}

await report({
  compatible: () => parts(compatible(DEEPWELL_MODEL)),
  async compatibleWhole() {
    const { text, reasoningText, usage } = await generateText({ model: compatible(DEEPWELL_MODEL), prompt: DEEPWELL_QUESTION });
    return { text, reasoning: reasoningText, outputTokens: usage.outputTokens };
  },
  openaiChat: () => parts(openai.chat(DEEPWELL_MODEL)),
  openaiResponses: () => parts(openai(DEEPWELL_MODEL)),
  ollama: () => parts(ollama(DEEPWELL_MODEL), { providerOptions: { ollama: { think: true } } }),
  ollamaAsItIs: () => parts(ollama(DEEPWELL_MODEL)),
  async tools() {
    const weather = tool({
      description: "The weather of a city.",
      inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }),
      execute: async ({ city }) => `rain in ${city}`,
    });
    const found = {};
    for (const [name, model] of [
      ["compatible", compatible(DEEPWELL_PLAIN)],
      ["openaiChat", openai.chat(DEEPWELL_PLAIN)],
      ["openaiResponses", openai(DEEPWELL_PLAIN)], // sends references to earlier items instead of the items
      ["ollama", ollama(DEEPWELL_PLAIN)],
    ]) {
      const given = { model, prompt: "TOOL please", tools: { weather }, stopWhen: stepCountIs(3), maxRetries: 0 };
      const streamed = streamText(given);
      found[name] = [(await generateText(given)).text, await streamed.text];
    }
    return found;
  },
  async broken() {
    return parts(compatible(DEEPWELL_MODEL), { prompt: "BREAK leave" });
  },
  async embeddings() {
    const found = {};
    for (const [name, model] of [
      ["compatible", compatible.textEmbeddingModel(DEEPWELL_EMBEDDER)],
      ["openai", openai.embedding(DEEPWELL_EMBEDDER)],
      ["ollama", ollama.embedding(DEEPWELL_EMBEDDER)],
    ]) {
      found[name] = (await embedMany({ model, values: ["a", "b"] })).embeddings.map((each) => each.length);
    }
    return found;
  },
});
