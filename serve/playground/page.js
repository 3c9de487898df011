// The page of an endpoint, put together.

import { showCalls, makeCalls } from "./calls.js";
import { showCandidate } from "./candidate.js";
import { showCard } from "./card.js";
import { apiKey, keepApiKey } from "./endpoint.js";
import { byId, say } from "./elements.js";
import { makeMany } from "./many.js";
import { makeOne } from "./one.js";
import { makeRequests } from "./requests.js";
import { follow, look } from "./state.js";
import { makeTabs } from "./tabs.js";

let asksForKey = Boolean(apiKey());

const refreshCalls = () => showCalls(byId("text").value, asksForKey);

/** Shows what concerns the whole page: a missing or wrong key. Returns whether that is what the problem is. */
function failed(problem) {
  if (problem.status !== 401 && problem.status !== 403) return false;
  asksForKey = true;
  refreshCalls();
  say(byId("problem"), apiKey() ? problem.message : "");
  if (byId("key-form").hidden) {
    byId("key-form").hidden = false;
    byId("key").focus();
  }
  return true;
}

function heard(health, problem) {
  byId("columns").hidden = problem?.status === 404;
  if (problem) {
    if (!failed(problem)) say(byId("problem"), problem.message);
    return;
  }
  byId("key-form").hidden = true;
  say(byId("problem"), health.problem && health.version === null ? `No version is known yet: ${health.problem}` : "");
  byId("model").textContent = health.version === null ? health.model : `${health.model}, version ${health.version}`;
  showCard(health.version);
  showCandidate(health.canary);
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepApiKey(byId("key").value.trim());
  byId("key").value = "";
  look();
});
for (const list of document.querySelectorAll("[role=tablist]")) makeTabs(list);
byId("text").addEventListener("input", refreshCalls);
makeOne(failed);
makeMany(failed);
makeRequests();
makeCalls();
refreshCalls();
follow(heard);
