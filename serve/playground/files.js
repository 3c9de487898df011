// A file with texts: chosen or dropped, read in the browser, and one of its columns taken.

import { byId, element, plural } from "./elements.js";
import { likelyColumn, linesOf, rowsOf, textsIn } from "./tables.js";

const MAX_BYTES = 64 * 2 ** 20;

let lines = null; // of a text file
let rows = null; // of a CSV

/** The texts of the chosen file; null while there is none. */
export function textsOfFile() {
  if (lines) return lines;
  return rows && textsIn(rows, Number(byId("column").value), byId("header").checked);
}

/** Makes choosing and dropping work; `changed` is told after each change, `problem` why a file cannot be read. */
export function makeFiles(changed, problem) {
  const input = byId("file");
  const take = async (file) => {
    try {
      await read(file);
      problem("");
    } catch (error) {
      forget();
      problem(error.message);
    }
    changed();
  };
  input.addEventListener("change", () => {
    if (input.files.length) take(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  byId("forget-file").addEventListener("click", () => {
    forget();
    changed();
    byId("texts").focus();
  });
  byId("column").addEventListener("change", changed);
  byId("header").addEventListener("change", () => {
    offerColumns();
    changed();
  });
  makeDropZone(byId("many"), take);
}

function makeDropZone(zone, take) {
  for (const kind of ["dragover", "dragleave", "drop"]) {
    zone.addEventListener(kind, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      zone.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
    });
  }
}

async function read(file) {
  if (file.size > MAX_BYTES) {
    throw new Error(
      `${file.name} has ${(file.size / 2 ** 20).toFixed(0)} MiB and the page takes ${MAX_BYTES / 2 ** 20}; ` +
        "use `tuneserve predict --file`, or send a part of it.",
    );
  }
  const { content, encoding } = decoded(await file.arrayBuffer(), file.name);
  forget();
  if (/\.(csv|tsv)$/i.test(file.name) || file.type === "text/csv") {
    rows = rowsOf(content, /\.tsv$/i.test(file.name) ? "\t" : undefined);
    if (!rows.length) throw new Error(`${file.name} holds no rows.`);
    byId("header").checked = true;
    offerColumns();
    byId("chosen-column").hidden = false;
  } else {
    lines = linesOf(content);
    if (!lines.length) throw new Error(`${file.name} holds no texts.`);
  }
  const size = rows ? plural(rows.length, "row") : plural(lines.length, "line");
  byId("chosen-name").textContent = `${file.name}: ${size}${encoding ? `, read as ${encoding}` : ""}`;
}

function decoded(bytes, name) {
  const content = new Uint8Array(bytes);
  if (content.includes(0)) throw new Error(`${name} is no text file; send .txt (one text a line) or .csv in UTF-8.`);
  try {
    return { content: new TextDecoder("utf-8", { fatal: true }).decode(content), encoding: "" };
  } catch {
    return { content: new TextDecoder("windows-1252").decode(content), encoding: "Windows-1252, since it is not UTF-8" };
  }
}

function offerColumns() {
  const hasHeader = byId("header").checked;
  const options = rows[0].map((field, column) => {
    const label = hasHeader && field.trim() ? field : `Column ${column + 1}`;
    return element("option", { value: String(column) }, label);
  });
  byId("column").replaceChildren(...options);
  byId("column").value = String(likelyColumn(rows, hasHeader));
}

function forget() {
  [lines, rows] = [null, null];
  byId("chosen-column").hidden = true;
  byId("chosen-name").textContent = "";
}
