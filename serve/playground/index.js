// The gateway's own page: which endpoints there are and how awake. Asking wakes none.

import { ask } from "./endpoint.js";
import { byId, element, plural } from "./elements.js";

const WORDS = { asleep: "Asleep", waking: "Waking", awake: "Awake" };

function item({ name, state, model, version }) {
  const dot = element("span", { class: "dot", "aria-hidden": "true" });
  return element(
    "li",
    {},
    element("a", { href: encodeURIComponent(name) }, name),
    element("span", { class: "quiet" }, version === null ? model : `${model}, version ${version}`),
    element("span", { class: "pill", "data-state": state }, dot, WORDS[state] ?? state),
  );
}

try {
  const { endpoints } = await ask("/healthz");
  byId("endpoints").replaceChildren(...endpoints.map(item));
  byId("note").textContent = endpoints.length
    ? `${plural(endpoints.length, "endpoint")}.`
    : "No endpoint is deployed, or the gateway asks for a key before it names them: open an endpoint by its name, as in /sms-spam.";
} catch (problem) {
  byId("note").textContent = problem.message;
}
