// The Markdown of model cards as elements: headings, paragraphs, lists, tables, code, links. Everything is set as text,
// so a card from anybody can be shown; HTML in it is shown as it was written.

import { element } from "./elements.js";

const INLINE = /(`+)(.+?)\1|\*\*(.+?)\*\*|\*([^*\s][^*]*)\*|\[([^\]]*)\]\(([^)\s]*)[^)]*\)|<(https?:[^>\s]+)>/g;
const STARTS_BLOCK = /^(#{1,6}\s|```|~~~|\||[-*+]\s|\d+[.)]\s)/;

/** Elements for `markdown`. */
export function rendered(markdown) {
  const lines = markdown.split(/\r?\n/);
  const blocks = [];
  while (lines.length) {
    const line = lines[0];
    if (!line.trim()) lines.shift();
    else if (/^#{1,6}\s/.test(line)) blocks.push(heading(lines));
    else if (/^(```|~~~)/.test(line)) blocks.push(code(lines));
    else if (line.startsWith("|")) blocks.push(table(lines));
    else if (/^([-*+]|\d+[.)])\s/.test(line)) blocks.push(list(lines));
    else blocks.push(paragraph(lines));
  }
  return blocks;
}

function heading(lines) {
  const [, marks, words] = lines.shift().match(/^(#+)\s+(.*)/) ?? [null, "#", ""];
  return element(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(words)); // below the page's own headings
}

function code(lines) {
  const fence = lines.shift().slice(0, 3);
  const content = [];
  while (lines.length && !lines[0].startsWith(fence)) content.push(lines.shift());
  lines.shift();
  return element("pre", { tabindex: "0" }, element("code", {}, content.join("\n")));
}

function table(lines) {
  const rows = [];
  while (lines.length && lines[0].startsWith("|")) {
    rows.push(lines.shift().replace(/^\||\|\s*$/g, "").split("|").map((cell) => cell.trim()));
  }
  const [head, ...body] = rows.filter((row) => !row.every((cell) => /^:?-+:?$/.test(cell)));
  const row = (tag, cells) => element("tr", {}, ...cells.map((cell) => element(tag, {}, ...inline(cell))));
  return element(
    "div",
    { class: "scroll", tabindex: "0" },
    element(
      "table",
      {},
      element("thead", {}, row("th", head ?? [])),
      element("tbody", {}, ...body.map((cells) => row("td", cells))),
    ),
  );
}

function list(lines) {
  const ordered = /^\d/.test(lines[0]);
  const items = [];
  while (lines.length && /^([-*+]|\d+[.)])\s/.test(lines[0])) {
    items.push(element("li", {}, ...inline(lines.shift().replace(/^\S+\s+/, ""))));
  }
  return element(ordered ? "ol" : "ul", {}, ...items);
}

function paragraph(lines) {
  const words = [lines.shift()];
  while (lines.length && lines[0].trim() && !STARTS_BLOCK.test(lines[0])) words.push(lines.shift());
  return element("p", {}, ...inline(words.join(" ")));
}

function inline(words) {
  const made = [];
  let end = 0;
  for (const found of words.matchAll(INLINE)) {
    const [whole, , literal, strong, emphasis, label, target, address] = found;
    made.push(words.slice(end, found.index));
    end = found.index + whole.length;
    if (literal !== undefined) made.push(element("code", {}, literal.trim()));
    else if (strong !== undefined) made.push(element("strong", {}, strong));
    else if (emphasis !== undefined) made.push(element("em", {}, emphasis));
    else made.push(isWeb(target ?? address) ? link(target ?? address, label ?? address) : whole);
  }
  return [...made, words.slice(end)];
}

const isWeb = (target) => /^https?:\/\//.test(target);

function link(target, label) {
  return element("a", { href: target, rel: "noreferrer noopener", target: "_blank" }, label);
}
