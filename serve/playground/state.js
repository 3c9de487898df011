// Whether the endpoint sleeps, which its health tells without waking it; asked only while the page is seen.

import { ask } from "./endpoint.js";
import { byId, element, seconds } from "./elements.js";

const WORDS = {
  asleep: "Asleep",
  waking: "Waking",
  awake: "Awake",
  unknown: "Not known",
};
const EVERY_MS = 5000;
const WHILE_WAKING_MS = 500;

let known = null;
let timer = 0;
let listener = () => {};

/** Has `heard` told of every change of the endpoint's health, or of the `Problem` with asking for it; starts asking. */
export function follow(heard) {
  listener = heard;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) look();
  });
  return look();
}

/** Asks now. Returns the endpoint's health, or null where it cannot be had. */
export async function look() {
  clearTimeout(timer);
  let problem = null;
  try {
    known = await ask("/healthz");
  } catch (error) {
    [known, problem] = [null, error];
  }
  show(known?.state ?? "unknown");
  listener(known, problem);
  clearTimeout(timer); // another look may have ended meanwhile
  // Without a valid key there is nothing to be had until the reader gives one.
  const isRefused = problem && problem.status >= 400 && problem.status < 500;
  if (!document.hidden && !isRefused) timer = setTimeout(look, known?.state === "waking" ? WHILE_WAKING_MS : EVERY_MS);
  return known;
}

function show(state) {
  const pill = byId("state");
  if (pill.dataset.state === state) return;
  pill.dataset.state = state;
  pill.replaceChildren(element("span", { class: "dot", "aria-hidden": "true" }), WORDS[state] ?? state);
}

/** Runs `work`, a request that may wake the endpoint, and shows how long that took. Returns its outcome, the time and the state before. */
export async function timed(work) {
  const before = await look();
  const began = performance.now();
  const early = setTimeout(look, 100); // it is on its way then
  try {
    const found = await work();
    const ms = performance.now() - began;
    if (before?.state === "asleep") byId("wake").textContent = `The last wake took ${seconds(ms)}`;
    return { found, ms, before: before?.state };
  } finally {
    clearTimeout(early);
    look();
    if (before?.state !== "awake") setTimeout(look, WHILE_WAKING_MS); // what the gateway knows is up to that old
  }
}
