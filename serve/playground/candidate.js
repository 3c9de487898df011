// A candidate that is tried beside the champion, as the endpoint's health tells it.

import { byId, element, percent, seconds } from "./elements.js";

const STATES = { running: "Running", finished: "Passed", "rolled back": "Rolled back" };

/** Shows it, or nothing without one. */
export function showCandidate(canary) {
  byId("candidate").hidden = !canary;
  if (!canary) return;
  const { mode, percent: share, state, reason, problem, compared, min_requests, agreement, min_agreement } = canary;
  const what = mode === "shadow" ? "is asked too and answers nobody" : "answers";
  byId("candidate-state").textContent = STATES[state] ?? state;
  byId("candidate-what").textContent =
    `Version ${canary.candidate.version ?? "?"} ${what}${mode === "shadow" ? "" : ` ${share} % of the requests`}.`;
  byId("candidate-why").textContent = problem ?? reason ?? "";
  const facts = {
    Compared: `${compared.toLocaleString("en")} of at least ${min_requests.toLocaleString("en")} requests`,
    "Same label": `${shareOf(agreement)}, at least ${percent(min_agreement)}`,
  };
  byId("candidate-facts").replaceChildren(
    ...Object.entries(facts).map(([term, said]) => element("div", {}, element("dt", {}, term), element("dd", {}, said))),
  );
  byId("candidate-figures").replaceChildren(...rows(canary.champion, canary.candidate));
}

function rows(champion, candidate) {
  const line = (tag, title, cells) =>
    element("tr", {}, element(tag, tag === "th" ? { scope: "row" } : {}, title), ...cells);
  const cells = (read) => [champion, candidate].map((side) => element("td", { class: "number" }, read(side)));
  const head = ["Champion", "Candidate"].map((title) => element("th", { scope: "col", class: "number" }, title));
  return [
    line("td", "", head),
    line("th", "Version", cells(({ version }) => String(version ?? "–"))),
    line("th", "Requests", cells(({ requests }) => requests.toLocaleString("en"))),
    line("th", "Errors", cells(({ error_rate }) => shareOf(error_rate))),
    line("th", "Latency p50", cells(({ latency_p50_s }) => timeOf(latency_p50_s))),
    line("th", "Latency p95", cells(({ latency_p95_s }) => timeOf(latency_p95_s))),
  ];
}

const shareOf = (value) => (typeof value === "number" ? percent(value) : "–");
const timeOf = (value) => (typeof value === "number" ? seconds(1000 * value) : "–");
