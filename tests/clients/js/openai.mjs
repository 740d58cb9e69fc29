// OpenAI's own library: what n8n and most JavaScript programs are built on.
import OpenAI from "openai";
import { DEEPWELL_EMBEDDER, DEEPWELL_KEY, DEEPWELL_MODEL, DEEPWELL_QUESTION, DEEPWELL_URL, collect, report } from "./deepwell.mjs";

const client = new OpenAI({ baseURL: `${DEEPWELL_URL}/v1`, apiKey: DEEPWELL_KEY, maxRetries: 0 });
const messages = [{ role: "user", content: DEEPWELL_QUESTION }];

await report({
  async chat() {
    const answer = await client.chat.completions.create({ model: DEEPWELL_MODEL, messages });
    const { content, reasoning_content, annotations } = answer.choices[0].message;
    return { content, reasoning_content, annotations, usage: answer.usage };
  },
  async stream() {
    const stream = await client.chat.completions.create({
      model: DEEPWELL_MODEL, messages, stream: true, stream_options: { include_usage: true },
    });
    const found = { content: "", reasoning: "", usages: 0, annotations: 0, ids: new Set(), finish: null };
    for await (const chunk of stream) {
      const delta = chunk.choices[0]?.delta ?? {};
      found.content += delta.content ?? "";
      found.reasoning += delta.reasoning_content ?? "";
      found.annotations += delta.annotations?.length ?? 0;
      found.usages += chunk.usage ? 1 : 0;
      found.finish = chunk.choices[0]?.finish_reason ?? found.finish;
      found.ids.add(chunk.id);
    }
    return { ...found, ids: found.ids.size };
  },
  async runner() {
    const runner = client.chat.completions.stream({ model: DEEPWELL_MODEL, messages });
    return (await runner.finalChatCompletion()).choices[0].message.content;
  },
  async responses() {
    const answer = await client.responses.create({ model: DEEPWELL_MODEL, input: DEEPWELL_QUESTION });
    return { text: answer.output_text, status: answer.status, types: answer.output.map((item) => item.type) };
  },
  async responsesStream() {
    const stream = await client.responses.create({ model: DEEPWELL_MODEL, input: DEEPWELL_QUESTION, stream: true });
    return collect(stream, (event) => (event.type === "response.output_text.delta" ? event.delta : ""));
  },
  async embeddings() {
    const both = {};
    for (const encoding_format of [undefined, "float", "base64"]) {
      const { data } = await client.embeddings.create({ model: DEEPWELL_EMBEDDER, input: ["a", "b"], encoding_format });
      both[encoding_format ?? "default"] = data.map((each) => Array.from(each.embedding).length || each.embedding.length);
    }
    return both;
  },
  async models() {
    return (await client.models.list()).data.map((model) => model.id);
  },
  async wrongKey() {
    const stranger = new OpenAI({ baseURL: `${DEEPWELL_URL}/v1`, apiKey: "wrong", maxRetries: 0 });
    return stranger.models.list().then(() => "let in", (error) => `${error.constructor.name} ${error.status}`);
  },
  async unknownModel() {
    return client.chat.completions.create({ model: "gpt-4o", messages })
      .then(() => "answered", (error) => `${error.constructor.name} ${error.message}`);
  },
  async broken() {
    const stream = await client.chat.completions.create({
      model: DEEPWELL_MODEL, messages: [{ role: "user", content: "BREAK leave" }], stream: true,
    });
    return collect(stream, () => "").then(() => "ended", (error) => error.constructor.name);
  },
});
