// Calls to copy, with this endpoint's address and the reader's own text. A key is named and never shown.

import { url } from "./endpoint.js";
import { byId } from "./elements.js";

const EXAMPLE = "Profits doubled";

/** Makes copying work. */
export function makeCalls() {
  for (const call of document.querySelectorAll(".call")) {
    call.querySelector(".copy").addEventListener("click", () => copy(call));
  }
}

/** Writes the calls for `text`; with a placeholder for the key where the endpoint `asksForKey`. */
export function showCalls(text, asksForKey) {
  const said = text.trim() ? text : EXAMPLE;
  const calls = { curl: curl(said, asksForKey), python: python(said, asksForKey), hub: hub(said, asksForKey) };
  for (const [client, lines] of Object.entries(calls)) {
    byId(`call-${client}`).querySelector("code").textContent = lines.join("\n");
  }
}

const shellQuoted = (value) => `'${value.replaceAll("'", "'\\''")}'`;

/** As Python reads it: a JSON string is one there too. */
const pythonQuoted = (value) => JSON.stringify(value);

function curl(text, asksForKey) {
  return [
    `curl ${shellQuoted(`${url}/classify`)} \\`,
    ...(asksForKey ? ['  -H "Authorization: Bearer $API_KEY" \\'] : []),
    "  -H 'Content-Type: application/json' \\",
    `  -d ${shellQuoted(JSON.stringify({ texts: [text] }))}`,
  ];
}

function python(text, asksForKey) {
  const key = asksForKey ? ', api_key=os.environ["API_KEY"]' : "";
  return [
    ...(asksForKey ? ["import os", ""] : []),
    "from client import Client",
    "",
    `with Client(${pythonQuoted(url)}${key}) as client:`,
    `    prediction = client.classify(${pythonQuoted(text)})`,
    "    print(prediction.label, prediction.score)",
  ];
}

function hub(text, asksForKey) {
  const key = asksForKey ? ', api_key=os.environ["API_KEY"]' : "";
  return [
    ...(asksForKey ? ["import os", ""] : []),
    "from huggingface_hub import InferenceClient",
    "",
    `client = InferenceClient(model=${pythonQuoted(url)}${key})`,
    `print(client.text_classification(${pythonQuoted(text)}))`,
  ];
}

async function copy(call) {
  const code = call.querySelector("code");
  const said = call.querySelector(".copied");
  const isCopied = await copied(code.textContent);
  if (!isCopied) getSelection().selectAllChildren(code);
  said.textContent = isCopied ? "Copied." : "The browser did not allow copying: it is selected, copy it by hand.";
  setTimeout(() => (said.textContent = ""), 4000);
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text); // only on localhost and over HTTPS
    return true;
  } catch {
    const area = document.createElement("textarea");
    const focused = document.activeElement;
    area.value = text;
    area.className = "hidden";
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    focused.focus();
    return isCopied;
  }
}
