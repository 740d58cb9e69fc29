"use strict";
// Everything a model wrote is put in as text, never as HTML. Thinking is shown apart and is not sent back as history.
const at = (id) => document.getElementById(id);
let messages = [];
let running = null;

function element(kind, name, parent, text = "") {
  const made = document.createElement(kind);
  made.className = name;
  made.textContent = text;
  parent.append(made);
  return made;
}

function turn(role) {
  return element("section", `turn ${role}`, at("turns"));
}

function answerView() {
  const section = turn("assistant");
  const details = element("details", "thinking", section);
  const summary = element("summary", "", details, "Thinking…");
  const thoughts = element("div", "text", details);
  const text = element("div", "text answer", section);
  details.hidden = true;
  let began = 0;
  return {
    section, text,
    think(piece) {
      if (!began) { began = Date.now(); details.hidden = false; details.open = true; }
      thoughts.append(piece);
    },
    write(piece) {
      if (began && !text.textContent) { this.thought(); details.open = false; }
      text.append(piece);
    },
    thought() {
      if (began) summary.textContent = `Thought for ${Math.round((Date.now() - began) / 1000)} s`;
    },
  };
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
  if (rest) yield JSON.parse(rest);
}

function take(view, event) {
  if (event.type === "reasoning") view.think(event.text);
  else if (event.type === "text") view.write(event.text);
  else if (event.type === "error") element("div", "error", view.section, event.message);
  else if (event.type === "finish") {
    const used = event.usage;
    element("div", "note", view.section, `${used.prompt} + ${used.completion} tokens, ${used.thinking} of them thinking`);
    for (const warning of event.warnings) element("div", "note", view.section, warning);
  }
}

async function ask(question) {
  element("div", "text", turn("user"), question);
  const view = answerView();
  const sent = [...messages, { role: "user", content: question }];
  running = new AbortController();
  at("send").hidden = true;
  at("stop").hidden = false;
  try {
    const response = await fetch("answer", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: at("model").value, messages: sent }),
      signal: running.signal,
    });
    for await (const event of lines(response)) {
      const bottom = at("turns").scrollHeight - at("turns").scrollTop - at("turns").clientHeight < 80;
      take(view, event);
      if (bottom) at("turns").scrollTop = at("turns").scrollHeight;
    }
  } catch (error) {
    const stopped = error.name === "AbortError";
    element("div", stopped ? "note" : "error", view.section, stopped ? "stopped" : `no answer: ${error.message}`);
  } finally {
    view.thought();
    running = null;
    at("send").hidden = false;
    at("stop").hidden = true;
  }
  if (view.text.textContent) messages = [...sent, { role: "assistant", content: view.text.textContent }];
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question || running) return;
  at("question").value = "";
  ask(question);
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
at("stop").addEventListener("click", () => running && running.abort());
at("new").addEventListener("click", () => {
  if (running) running.abort();
  messages = [];
  at("turns").replaceChildren();
});
fetch("state").then((response) => response.json()).then((state) => {
  for (const name of state.models) element("option", "", at("model"), name).value = name;
  at("model").value = state.model;
  at("where").textContent = state.url;
});
