// One text: its scores as bars.

import { classify } from "./endpoint.js";
import { byId, element, percent, seconds } from "./elements.js";
import { timed } from "./state.js";

let controller = null;

/** Makes the form work; `failed` is told of a problem that concerns the whole page and returns whether it was one. */
export function makeOne(failed) {
  const [form, text] = [byId("one-form"), byId("text")];
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(text.value, failed);
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

async function run(text, failed) {
  const result = byId("one-result");
  if (!text.trim()) {
    result.replaceChildren(element("p", { class: "problem" }, "There is no text yet: type one."));
    byId("text").focus();
    return;
  }
  controller?.abort();
  controller = new AbortController();
  const { signal } = controller;
  result.setAttribute("aria-busy", "true");
  const stopWaiting = showWaiting(result);
  try {
    const { found, ms, before } = await timed(() => classify([text], signal));
    if (!signal.aborted) result.replaceChildren(...shown(found, ms, before));
  } catch (problem) {
    if (signal.aborted) return;
    result.replaceChildren(...(failed(problem) ? [] : [element("p", { class: "problem" }, problem.message)]));
  } finally {
    stopWaiting();
    if (!signal.aborted) result.removeAttribute("aria-busy");
  }
}

/** After a moment says that it waits, and for how long; returns what ends that. */
function showWaiting(result) {
  const began = performance.now();
  const clock = element("span", { "aria-hidden": "true" });
  let note = null;
  const timer = setInterval(() => {
    if (!note) {
      note = element("p", { class: "quiet waiting" }, "Waiting for the endpoint … ", clock);
      result.replaceChildren(note);
    }
    clock.textContent = `${((performance.now() - began) / 1000).toFixed(1)} s`;
  }, 200);
  return () => {
    clearInterval(timer);
    note?.remove();
  };
}

function shown({ predictions: [{ label, score, scores }], version }, ms, before) {
  const ranked = Object.entries(scores).sort(([, one], [, other]) => other - one);
  const how = { asleep: "woken from sleep, answered after", waking: "it was waking, answered after" };
  return [
    element("p", { class: "verdict" }, element("strong", {}, label), ` ${percent(score)}`),
    element("ol", { class: "bars", "aria-label": "Scores, the likeliest first" }, ...ranked.map(bar)),
    element("p", { class: "quiet" }, `Version ${version}; ${how[before] ?? "answered in"} ${seconds(ms)}.`),
  ];
}

function bar([label, score], rank) {
  const filled = element("span", { class: "filled" });
  filled.style.setProperty("--share", String(score));
  return element(
    "li",
    { class: rank === 0 ? "best" : null },
    element("span", { class: "label" }, label),
    element("span", { class: "track", "aria-hidden": "true" }, filled),
    element("span", { class: "score" }, percent(score)),
  );
}
