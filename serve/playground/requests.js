// What the endpoint was asked lately, where it keeps a log; asked for when the reader opens it.

import { ask } from "./endpoint.js";
import { byId, element, percent, plural, say, seconds } from "./elements.js";

const KEPT = { plain: "", redacted: " Numbers, addresses and the like are redacted.", hashed: " Texts are kept as hashes." };
const CHARS_SHOWN = 200;

/** Makes the section work. */
export function makeRequests() {
  byId("recent").addEventListener("toggle", () => byId("recent").open && show());
  byId("refresh").addEventListener("click", show);
}

async function show() {
  try {
    const { texts, dropped, counts, requests } = await ask("/requests");
    const total = Object.values(counts.status ?? {}).reduce((sum, count) => sum + count, 0);
    const lost = dropped ? ` ${plural(dropped, "text")} could not be logged.` : "";
    say(byId("recent-note"), `${plural(total, "text")} since the gateway started.${KEPT[texts] ?? ""}${lost}`);
    byId("recent-result").replaceChildren(...(requests.length ? [labels(counts.label ?? {}), table(requests)] : []));
  } catch (problem) {
    say(byId("recent-note"), problem.message);
    byId("recent-result").replaceChildren();
  }
}

function labels(counts) {
  const named = Object.entries(counts).sort(([, one], [, other]) => other - one);
  const items = named.map(([label, count]) =>
    element("li", {}, label, " ", element("strong", {}, count.toLocaleString("en"))),
  );
  return element("ul", { class: "counts", "aria-label": "Texts by label" }, ...items);
}

function table(requests) {
  const heading = (kind) => (title) => element("th", { scope: "col", class: kind }, title);
  const head = [...["Time", "Text", "Label"].map(heading(null)), ...["Score", "Version", "Latency"].map(heading("number"))];
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Recent requests" },
    element(
      "table",
      { class: "results" },
      element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...requests.map(row)),
    ),
  );
}

function row({ time, text, text_pair, label, score, status, version, latency_ms }) {
  const both = text_pair ? `${text} / ${text_pair}` : (text ?? "");
  const said = both.length > CHARS_SHOWN ? `${both.slice(0, CHARS_SHOWN)} …` : both;
  const number = (content) => element("td", { class: "number" }, content);
  return element(
    "tr",
    {},
    element("td", { class: "quiet" }, element("time", { datetime: time }, new Date(time).toLocaleTimeString())),
    element("td", {}, said),
    element("td", { class: label ? null : "problem" }, label ?? `status ${status}`),
    number(typeof score === "number" ? percent(score) : ""),
    number(version === null ? "" : String(version)),
    number(seconds(latency_ms)),
  );
}
