// Ollama's own library: n8n, Open WebUI's tools, many small programs.
import { Ollama } from "ollama";
import { DEEPWELL_EMBEDDER, DEEPWELL_KEY, DEEPWELL_MODEL, DEEPWELL_QUESTION, DEEPWELL_URL, report } from "./deepwell.mjs";

const client = new Ollama({ host: DEEPWELL_URL, headers: { Authorization: `Bearer ${DEEPWELL_KEY}` } });
const messages = [{ role: "user", content: DEEPWELL_QUESTION }];

await report({
  async chat() {
    const { message, done, done_reason, eval_count } = await client.chat({ model: DEEPWELL_MODEL, messages });
    return { content: message.content, thinking: message.thinking, done, done_reason, eval_count };
  },
  async stream() {
    const found = { content: "", thinking: "" };
    for await (const part of await client.chat({ model: DEEPWELL_MODEL, messages, stream: true, think: true })) {
      found.content += part.message.content;
      found.thinking += part.message.thinking ?? "";
    }
    return found;
  },
  async withoutThinking() {
    const { message } = await client.chat({ model: DEEPWELL_MODEL, messages, think: false });
    return { content: message.content, thinking: message.thinking ?? "" };
  },
  async generate() {
    return (await client.generate({ model: DEEPWELL_MODEL, prompt: DEEPWELL_QUESTION })).response;
  },
  async embed() {
    return (await client.embed({ model: DEEPWELL_EMBEDDER, input: ["a", "b"] })).embeddings.map((each) => each.length);
  },
  async list() {
    return (await client.list()).models.map((model) => model.name);
  },
  async show() {
    return (await client.show({ model: DEEPWELL_MODEL })).capabilities;
  },
  async unknownModel() {
    return client.chat({ model: "llama3", messages }).then(() => "answered", (error) => `${error.name} ${error.message}`);
  },
});
