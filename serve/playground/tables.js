// Texts out of pasted lines and files, and results into CSV (RFC 4180).

const LIKELY_NAMES = ["text", "sentence", "message", "tweet", "headline", "review", "content", "body"];

/** The lines that hold something. */
export function linesOf(pasted) {
  return pasted.split(/\r\n|\r|\n/).filter((line) => line.trim());
}

/** The rows of a CSV: fields in quotes may hold delimiters, quotes (doubled) and line breaks. Empty rows are left out. */
export function rowsOf(content, delimiter = delimiterOf(content)) {
  const rows = [];
  let row = [];
  let field = "";
  let quoted = false;
  const endRow = () => {
    row.push(field);
    if (row.length > 1 || row[0].trim()) rows.push(row);
    [row, field] = [[], ""];
  };
  for (let at = 0; at < content.length; at += 1) {
    const character = content[at];
    if (quoted && character === '"' && content[at + 1] === '"') {
      field += '"';
      at += 1;
    } else if (character === '"' && (quoted || field === "")) {
      quoted = !quoted;
    } else if (quoted) {
      field += character;
    } else if (character === delimiter) {
      row.push(field);
      field = "";
    } else if (character === "\n" || character === "\r") {
      if (character === "\r" && content[at + 1] === "\n") at += 1;
      endRow();
    } else {
      field += character;
    }
  }
  if (field || row.length) endRow();
  return rows;
}

/** Of comma, semicolon and tab, the one that the first line has most of. */
export function delimiterOf(content) {
  const first = content.slice(0, content.search(/[\r\n]|$/));
  const count = (delimiter) => first.split(delimiter).length;
  return [",", ";", "\t"].reduce((best, next) => (count(next) > count(best) ? next : best));
}

/** The column that most likely holds the texts: by its name, else by its longest values. */
export function likelyColumn(rows, hasHeader) {
  const names = hasHeader ? rows[0].map((name) => name.trim().toLowerCase()) : [];
  for (const likely of LIKELY_NAMES) {
    if (names.includes(likely)) return names.indexOf(likely);
  }
  const sample = rows.slice(hasHeader ? 1 : 0, 100);
  const length = rows[0].map((_, column) => sample.reduce((sum, row) => sum + (row[column] ?? "").length, 0));
  return length.indexOf(Math.max(...length));
}

/** The texts in a column; rows without one are left out. */
export function textsIn(rows, column, hasHeader) {
  return rows
    .slice(hasHeader ? 1 : 0)
    .map((row) => row[column] ?? "")
    .filter((text) => text.trim());
}

/** A CSV of `rows`, with a byte order mark: spreadsheets take it for UTF-8 then. */
export function csvOf(rows) {
  const field = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  return "\ufeff" + rows.map((row) => row.map(field).join(",") + "\r\n").join("");
}
