// Many texts, pasted or out of a file: sent in several requests, shown as a table, saved as CSV.

import { classifyPatiently } from "./endpoint.js";
import { byId, element, percent, plural, say, seconds } from "./elements.js";
import { makeFiles, textsOfFile } from "./files.js";
import { timed } from "./state.js";
import { csvOf, linesOf } from "./tables.js";

const MAX_TEXTS = 64; // in a request: what a replica is given at a time
const MAX_CHARS = 250_000; // whatever they are, the body stays below what the gateway takes
const ROWS_SHOWN = 100;
const CHARS_SHOWN = 300; // of a text; the CSV has it whole

let controller = null;

/** Makes the form work; `failed` is told of a problem that concerns the whole page and returns whether it was one. */
export function makeMany(failed) {
  const texts = byId("texts");
  makeFiles(showChosen, (message) => showStatus(message, true));
  texts.addEventListener("input", showChosen);
  texts.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("many-form").requestSubmit();
  });
  byId("many-form").addEventListener("submit", (event) => {
    event.preventDefault();
    run(chosenTexts(), failed);
  });
  byId("stop").addEventListener("click", () => controller?.abort());
  showChosen();
}

const chosenTexts = () => textsOfFile() ?? linesOf(byId("texts").value);

function showChosen() {
  const hasFile = textsOfFile() !== null;
  byId("paste").hidden = hasFile;
  byId("chosen").hidden = !hasFile;
  const count = chosenTexts().length;
  byId("many-count").textContent = count || hasFile ? plural(count, "text") : "";
}

async function run(texts, failed) {
  if (!texts.length) {
    showStatus("There are no texts yet: paste some, one a line, or choose a file.", true);
    return;
  }
  controller?.abort();
  controller = new AbortController();
  const { signal } = controller;
  const results = [];
  begin(texts.length);
  try {
    const { ms, before } = await timed(() => classifyAll(texts, results, signal));
    showStatus(`${plural(texts.length, "text")} in ${seconds(ms)}${before === "asleep" ? ", the wake included" : ""}.`);
  } catch (problem) {
    if (controller.signal !== signal) return; // another run has begun
    const stopped = problem.name === "AbortError";
    const done = `${results.length.toLocaleString("en")} of ${plural(texts.length, "text")} done.`;
    const isShown = !stopped && failed(problem);
    showStatus(stopped ? `Stopped: ${done}` : `${isShown ? "" : `${problem.message} `}${done}`, !stopped);
  } finally {
    if (controller.signal === signal) end(results);
  }
}

/** Adds a result for each text, in their order; a text that the endpoint refuses by itself gets its problem. */
async function classifyAll(texts, results, signal) {
  const waiting = batchesOf(texts);
  while (waiting.length) {
    const batch = waiting.shift();
    try {
      const { predictions, version } = await classifyPatiently(batch, signal);
      results.push(...predictions.map((prediction, at) => ({ text: batch[at], version, ...prediction })));
    } catch (problem) {
      if (problem.status !== 413 && problem.status !== 422) throw problem;
      if (batch.length > 1) waiting.unshift(...halves(batch)); // more than may wait at once, or one of them is too long
      else results.push({ text: batch[0], problem: problem.message.replace(/^Text 0 /, "This text ") });
    }
    byId("progress").value = results.length;
    showStatus(`${results.length.toLocaleString("en")} of ${plural(texts.length, "text")} …`);
  }
}

function batchesOf(texts) {
  const batches = [[]];
  let numChars = 0;
  for (const text of texts) {
    const batch = batches.at(-1);
    if (batch.length && (batch.length === MAX_TEXTS || numChars + text.length > MAX_CHARS)) {
      batches.push([text]);
      numChars = 0;
    } else batch.push(text);
    numChars += text.length;
  }
  return batches;
}

function halves(batch) {
  const middle = Math.ceil(batch.length / 2);
  return [batch.slice(0, middle), batch.slice(middle)];
}

function begin(count) {
  byId("progress").max = count;
  byId("progress").value = 0;
  byId("many-progress").hidden = false;
  byId("stop").hidden = false;
  byId("many-result").replaceChildren();
  showStatus(`0 of ${plural(count, "text")} …`);
}

function end(results) {
  const hadFocus = document.activeElement === byId("stop");
  byId("many-progress").hidden = true;
  byId("stop").hidden = true;
  if (hadFocus) byId("many-form").querySelector("[type=submit]").focus();
  if (results.length) byId("many-result").replaceChildren(...shown(results));
}

function shown(results) {
  const body = element("tbody");
  const more = element("button", { type: "button" });
  const showMore = () => {
    const from = body.rows.length;
    body.append(...results.slice(from, from + ROWS_SHOWN).map((result, at) => row(result, from + at)));
    const left = results.length - body.rows.length;
    say(more, left ? `Show ${plural(Math.min(left, ROWS_SHOWN), "more row")} of ${left.toLocaleString("en")}` : "");
  };
  more.addEventListener("click", showMore);
  showMore();
  const save = element("button", { type: "button", id: "save" }, "Download as CSV");
  save.addEventListener("click", () => download(results));
  const kinds = { "#": "number", Text: null, Label: null, Score: "number" };
  const head = Object.entries(kinds).map(([title, kind]) => element("th", { scope: "col", class: kind }, title));
  const table = element("table", { class: "results" }, element("thead", {}, element("tr", {}, ...head)), body);
  const scroll = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Results" }, table);
  return [element("div", { class: "row spread" }, counts(results), save), scroll, more];
}

function counts(results) {
  const byLabel = new Map();
  for (const { label } of results) byLabel.set(label, (byLabel.get(label) ?? 0) + 1);
  const named = [...byLabel].sort(([, one], [, other]) => other - one);
  const items = named.map(([label, count]) =>
    element("li", {}, label ?? "refused", " ", element("strong", {}, count.toLocaleString("en"))),
  );
  return element("ul", { class: "counts", "aria-label": "Texts by label" }, ...items);
}

function row({ text, label, score, problem }, at) {
  const said = problem
    ? [element("td", { colspan: "2", class: "problem" }, problem)]
    : [element("td", {}, label), element("td", { class: "number" }, percent(score))];
  return element("tr", {}, element("td", { class: "number quiet" }, String(at + 1)), element("td", {}, clipped(text)), ...said);
}

const clipped = (text) =>
  text.length > CHARS_SHOWN ? `${text.slice(0, CHARS_SHOWN)} … (${text.length.toLocaleString("en")} characters)` : text;

function download(results) {
  const labels = Object.keys(results.find(({ scores }) => scores)?.scores ?? {});
  const head = ["text", "label", "score", ...labels.map((label) => `score_${label}`), "version", "problem"];
  const rows = results.map(({ text, label = "", score = "", scores = {}, version = "", problem = "" }) => [
    text,
    label,
    score,
    ...labels.map((each) => scores[each] ?? ""),
    version,
    problem,
  ]);
  const address = URL.createObjectURL(new Blob([csvOf([head, ...rows])], { type: "text/csv" }));
  const link = element("a", { href: address, download: `${document.documentElement.dataset.name}-predictions.csv` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function showStatus(message, isProblem = false) {
  byId("many-status").textContent = message;
  byId("many-status").classList.toggle("problem", isProblem);
}
