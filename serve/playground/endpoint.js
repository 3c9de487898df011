// Asking the endpoint that the page belongs to: its address, the reader's key, answers, and errors in words.

export const name = document.documentElement.dataset.name;
export const url = location.origin + location.pathname.replace(/\/+$/, "");

const KEY = "tuneserve-key " + url;
const RETRIED = new Set([429, 502, 503, 504]);
const MAX_ATTEMPTS = 6;
const LONGEST_PAUSE_S = 8;

/** What went wrong, in words for the reader; `status` is the HTTP status, 0 where nothing answered. */
export class Problem extends Error {
  constructor(status, message, retryAfterS = 0) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

/** The key that the reader gave in this tab; empty without one. */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function keepApiKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Asks `path` below the endpoint and returns the JSON of its answer; with a `body`, by POST. Throws a `Problem`. */
export async function ask(path, { body, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url + path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The endpoint cannot be reached. Is the gateway running, and this machine online?");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  const said = answer?.error ?? (response.statusText || "an answer that is no JSON");
  throw new Problem(response.status, inWords(response.status, said), Number(response.headers.get("Retry-After")) || 0);
}

/** Predictions for `texts` by one request, and the version that gave them. Throws a `Problem`. */
export async function classify(texts, signal) {
  // Half a surrogate pair, which an editor can leave behind, is no character: the endpoint would refuse the text.
  return ask("/classify", { body: { texts: texts.map((text) => text.toWellFormed()) }, signal });
}

/** The same, asked again a few times where that can help: too much waits, or nothing answers yet. */
export async function classifyPatiently(texts, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await classify(texts, signal);
    } catch (problem) {
      if (!RETRIED.has(problem.status) || attempt === MAX_ATTEMPTS) throw problem;
      const longestS = Math.min(LONGEST_PAUSE_S, 0.5 * 2 ** attempt);
      await pause(problem.retryAfterS + Math.random() * longestS, signal);
    }
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}

function inWords(status, said) {
  const sentence = said.charAt(0).toUpperCase() + said.slice(1);
  if (status === 401) return apiKey() ? "The key is unknown, revoked or expired." : "This endpoint asks for an API key.";
  if (status === 429) return `Too much waits at the endpoint just now. ${sentence}.`;
  if (status === 504) return `The endpoint took too long. ${sentence}.`;
  return /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
}
