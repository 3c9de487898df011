// Making elements. Text is always set as text: nothing that a model, a file or a server says becomes markup.

export const byId = (id) => document.getElementById(id);

/** A new element with these attributes (null: left out) and children: elements or texts. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Shows `message` in `where`, or hides it when there is none. */
export function say(where, message) {
  where.textContent = message;
  where.hidden = !message;
}

export const percent = (share) => `${(100 * share).toFixed(1)} %`;
export const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
export const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
