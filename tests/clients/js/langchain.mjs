// LangChain in the versions that n8n's nodes bundle: the chat model over both of OpenAI's protocols, and Ollama.
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOllama, OllamaEmbeddings } from "@langchain/ollama";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { DEEPWELL_EMBEDDER, DEEPWELL_KEY, DEEPWELL_MODEL, DEEPWELL_PLAIN, DEEPWELL_QUESTION, DEEPWELL_URL, report } from "./deepwell.mjs";

const configuration = { baseURL: `${DEEPWELL_URL}/v1` };
const shared = { model: DEEPWELL_MODEL, apiKey: DEEPWELL_KEY, configuration, maxRetries: 0 };
const headers = new Headers({ Authorization: `Bearer ${DEEPWELL_KEY}` });

async function streamed(model) {
  let whole;
  for await (const chunk of await model.stream(DEEPWELL_QUESTION)) whole = whole ? whole.concat(chunk) : chunk;
  return { text: whole.text, extra: whole.additional_kwargs, usage: whole.usage_metadata };
}

await report({
  completions: () => streamed(new ChatOpenAI({ ...shared, streamUsage: true })),
  async completionsWhole() {
    const { text, additional_kwargs, usage_metadata } = await new ChatOpenAI(shared).invoke(DEEPWELL_QUESTION);
    return { text, extra: additional_kwargs, usage: usage_metadata };
  },
  // n8n's default since version 1.3 of its node
  responses: () => streamed(new ChatOpenAI({ ...shared, useResponsesApi: true })),
  async responsesWhole() {
    return { text: (await new ChatOpenAI({ ...shared, useResponsesApi: true }).invoke(DEEPWELL_QUESTION)).text };
  },
  async tools() {
    const tools = [{ type: "function", function: { name: "weather", description: "", parameters: { type: "object", properties: {} } } }];
    const found = {};
    for (const [name, model] of [
      ["completions", new ChatOpenAI({ ...shared, model: DEEPWELL_PLAIN })],
      ["responses", new ChatOpenAI({ ...shared, model: DEEPWELL_PLAIN, useResponsesApi: true })],
      ["ollama", new ChatOllama({ baseUrl: DEEPWELL_URL, model: DEEPWELL_PLAIN, headers })],
    ]) {
      const bound = model.bindTools(tools);
      let call;
      for await (const chunk of await bound.stream([new HumanMessage("TOOL please")])) call = call ? call.concat(chunk) : chunk;
      const { id, name: called, args } = call.tool_calls[0];
      const result = new ToolMessage({ content: "rain", tool_call_id: id, name: called });
      found[name] = { called, args, text: (await bound.invoke([new HumanMessage("TOOL please"), call, result])).text };
    }
    return found;
  },
  ollama: () => streamed(new ChatOllama({ baseUrl: DEEPWELL_URL, model: DEEPWELL_MODEL, headers, think: true })),
  async embeddings() {
    const openai = new OpenAIEmbeddings({ model: DEEPWELL_EMBEDDER, apiKey: DEEPWELL_KEY, configuration });
    const ollama = new OllamaEmbeddings({ model: DEEPWELL_EMBEDDER, baseUrl: DEEPWELL_URL, headers });
    const found = {};
    for (const [name, model] of [["openai", openai], ["ollama", ollama]]) {
      found[name] = (await model.embedDocuments(["a", "b"])).map((each) => each.length);
    }
    return found;
  },
});
