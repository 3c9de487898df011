// What the model says of itself: its card, asked for once a version.

import { ask } from "./endpoint.js";
import { byId, element, say } from "./elements.js";
import { rendered } from "./markdown.js";

let shownVersion = null;

/** Shows the card of the version that answers, unless it is shown already. */
export async function showCard(version) {
  if (version === null || version === shownVersion) return;
  shownVersion = version;
  try {
    const card = await ask("/card");
    byId("card").hidden = false;
    showFacts(card);
    showMetrics(card.metrics);
    byId("card-details").hidden = !card.text;
    byId("card-text").replaceChildren(...rendered(card.text ?? ""));
    say(byId("card-problem"), card.text ? "" : "This version has no model card.");
  } catch (problem) {
    shownVersion = null; // asked for again with the next look
    byId("card").hidden = false;
    say(byId("card-problem"), `The model card cannot be read. ${problem.message}`);
  }
}

function showFacts({ model, version, base_model, labels, max_length, precision }) {
  const facts = {
    "Registered model": model,
    Version: String(version),
    "Fine-tuned from": base_model,
    Labels: labels.join(", "),
    "Reads up to": `${max_length} tokens`,
    "Runs as": `ONNX ${precision}`,
  };
  const rows = Object.entries(facts).filter(([, value]) => value);
  byId("facts").replaceChildren(
    ...rows.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value))),
  );
}

function showMetrics(metrics) {
  const rows = Object.entries(metrics).map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "number" }, value.toFixed(4))),
  );
  const caption = element("caption", {}, "On the test split");
  byId("metrics").replaceChildren(...(rows.length ? [element("table", { class: "metrics" }, caption, ...rows)] : []));
}
