// Page at /ui: sends a sentence to POST v1/fill-mask and fills its blanks with the words the user chooses.
//
// URLs are relative to this file, so that the application can be mounted under any path. All text is inserted as
// text, never as markup. The query is stored in the URL fragment (`#text=...&k=5&targets=a,b`), which makes links that
// can be shared; the API key, if the service requires one, is kept in the session storage of this tab.

const EXAMPLES = [
  "Paris is _ of France",
  "She drinks a cup of _ every _.",
  "The dog began to _ at the stranger.",
  "Water freezes at zero _.",
];
const COUNTS = [3, 5, 10, 20, 50];
const DEFAULT_COUNT = "5";
// Three or more underscores that touch no letter or digit, and the mask tokens of BERT and RoBERTa in any case.
const BLANK = /(?<![\p{L}\p{M}\p{N}_])_{3,}(?![\p{L}\p{M}\p{N}_])|\[mask\]|<mask>/giu;
const SLOW_MS = 500; // delay before the page reports that it is waiting
const KEY = "fill-mask-api-key";
const FIXES = {
  NoMask: "Type ___ where the blank belongs, or select the word to hide and press Insert.",
  BodyTooLarge: "Shorten the sentence or the list of words.",
  TextTooLong: "Shorten the sentence; the model accepts a limited number of tokens.",
  TooManyMasks: "Use fewer blanks.",
  Targets: "Change the words under “Only these words”, or leave the field empty.",
  Overloaded: "The service is busy.",
  DeadlineExceeded: "Try again, or use a shorter sentence.",
  Unavailable: "The model may still be loading. Try again in a moment.",
  Internal: "If it happens again, report the request id to the operator of the service.",
};

const byId = id => document.getElementById(id);
const [form, text, count, targets, undo, problem, status, copy, link, results, access, key, forget] = [
  "form", "text", "count", "targets", "undo", "problem", "status", "copy", "link", "results", "access", "key", "forget",
].map(byId);

let mask = "[MASK]";
let models = [null]; // names in requests; null is the default model, whose name is not sent
let info = {};
let answeredText = null; // the sentence of the displayed candidates
let undoStack = []; // the sentences before each filling
let lastFilling = null; // set if it left no blank; another candidate replaces it
let running = null; // AbortController of the running requests

class Problem extends Error {
  constructor(message, { fix = "", id = "", status = 0 } = {}) {
    super(message);
    Object.assign(this, { fix, id, status });
  }
}

// Elements

function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children); // strings become text
  return element;
}

const percent = share =>
  share >= 0.1 ? `${(100 * share).toFixed(1)}%`
  : share >= 0.001 ? `${(100 * share).toFixed(2)}%`
  : share >= 0.00001 ? `${Number((100 * share).toPrecision(2))}%`
  : "<0.001%";

const pluralize = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const countMasks = sentence => sentence.split(mask).length - 1;

function setStatus(message) {
  status.textContent = message;
}

// Requests

async function send(path, { headers = {}, ...options } = {}) {
  const secret = sessionStorage.getItem(KEY);
  const authorization = secret ? { authorization: `Bearer ${secret}` } : {};
  const start = performance.now();
  let response, body;
  try {
    response = await fetch(new URL(`../${path}`, import.meta.url), { ...options, headers: { ...headers, ...authorization }, cache: "no-store" });
    body = await response.json().catch(error => { if (error.name === "AbortError") throw error; });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service cannot be reached.", { fix: "Check your connection, then try again." });
  }
  if (response.ok && body !== undefined) return { body, headers: response.headers, ms: performance.now() - start };
  throw toProblem(response, body ?? {});
}

function toProblem(response, body) {
  const wait = Number(response.headers.get("retry-after"));
  const message = String(body.error ?? `The service answered with status ${response.status}.`).replace(/^text 0: /, "");
  const when = wait > 0 ? `Try again in ${pluralize(wait, "second")}.` : "";
  const fix = [FIXES[body.error_type] ?? "", when].filter(Boolean).join(" ");
  const id = body.request_id ?? response.headers.get("x-request-id") ?? "";
  return new Problem(message.charAt(0).toUpperCase() + message.slice(1), { fix, id, status: response.status });
}

async function askModel(model, query, signal) {
  const request = { inputs: query.text, parameters: { top_k: query.count } };
  if (query.targets.length) request.parameters.targets = query.targets;
  if (model !== null) request.model = model;
  const { body, headers, ms } = await send("v1/fill-mask", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  return { blanks: Array.isArray(body[0]) ? body : [body], headers, ms };
}

async function ask({ focus = false, reveal = false } = {}) {
  writeMasks();
  const query = readForm();
  if (!query.text.trim()) {
    setStatus("Write a sentence first.");
    text.focus();
    return;
  }
  running?.abort();
  const controller = (running = new AbortController());
  history.replaceState(null, "", `#${toFragment(query)}`);
  link.hidden = true;
  problem.replaceChildren();
  results.setAttribute("aria-busy", "true");
  const notice = setTimeout(setStatus, SLOW_MS, "Waiting for an answer…");
  let columns = null; // created with the first answer; until then, the previous answers stay visible
  const answers = models.map(async (model, index) => {
    const answer = await askModel(model, query, controller.signal);
    if (controller.signal.aborted) return null;
    columns ??= showColumns(query);
    showAnswer(columns[index], answer, query);
    return answer;
  });
  const settled = await Promise.allSettled(answers);
  clearTimeout(notice);
  if (controller !== running) return;
  running = null;
  results.setAttribute("aria-busy", "false");
  finish(settled, query, columns, focus);
  if (reveal) revealAnswer();
}

// Scrolls to the answer or problem, without moving the focus, unless it is in the upper two thirds of the area above a
// phone's on-screen keyboard.
function revealAnswer() {
  const answer = problem.hasChildNodes() ? problem : byId("bar");
  const { top } = answer.getBoundingClientRect();
  if (top < 0 || top > (2 / 3) * visualViewport.height) answer.scrollIntoView();
}

function finish(settled, query, columns, focus) {
  const failed = settled.map(({ reason }) => reason);
  settled.forEach(({ reason }, index) => {
    if (reason && columns) columns[index].querySelector(".times").textContent = "No answer.";
  });
  copy.hidden = columns === null;
  if (columns === null) {
    answeredText = null;
    results.replaceChildren();
    setStatus("");
  } else {
    setStatus(summarize(settled.map(({ value }) => value?.blanks)));
    if (focus) results.querySelector("ol button")?.focus();
  }
  showProblems(failed);
}

function summarize(answers) {
  const alone = answers.length === 1 && answers[0].length === 1;
  const best = answers.map((blanks, index) => {
    const share = ({ score }) => (alone ? ` (${percent(score)})` : "");
    const words = blanks?.map(([first]) => `“${wordOf(first)}”${share(first)}`).join(", ");
    return words && (answers.length > 1 ? `${models[index]} ${words}` : words);
  });
  const agreement = answers.length === 2 && answers.every(Boolean) ? ` ${describeOverlap(answers)}` : "";
  return `Most likely: ${best.filter(Boolean).join("; ")}.${agreement} Choose a word to insert it.`;
}

function describeOverlap([one, other]) {
  const tokens = one.map(candidates => candidates.map(({ token }) => token));
  const shared = other.flatMap((candidates, blank) => candidates.filter(({ token }) => tokens[blank].includes(token)));
  return `${shared.length} of ${pluralize(tokens.flat().length, "candidate")} in common.`;
}

// Problems

function showProblems(reasons) {
  const problems = reasons.filter(Boolean);
  if (!problems.length) return;
  const [first] = problems;
  if (first.status === 401) {
    askForKey();
    return;
  }
  const same = problems.length === models.length && problems.every(({ message }) => message === first.message);
  const shown = same ? [first] : problems;
  problem.replaceChildren(
    ...shown.map(reason => {
      const name = same || models.length === 1 ? "" : `${models[reasons.indexOf(reason)]}: `;
      const lines = [make("strong", {}, name + (reason.message || "Something went wrong on this page."))];
      if (reason.fix) lines.push(make("p", {}, reason.fix));
      if (reason.id) lines.push(make("p", { className: "hint" }, "Request id ", make("code", {}, reason.id)));
      return make("div", {}, ...lines);
    }),
  );
  if (![413, 415, 422].includes(first.status)) {
    const again = info.model === undefined ? start : ask;
    problem.append(make("button", { type: "button", onclick: () => again() }, "Try again"));
  }
}

function askForKey() {
  const refused = sessionStorage.getItem(KEY) !== null;
  sessionStorage.removeItem(KEY);
  forget.hidden = true;
  access.hidden = false;
  problem.replaceChildren(make("strong", {}, refused ? "The service did not accept this key." : "An API key is required."));
  problem.append(make("p", {}, "Enter an API key for this service above."));
  key.focus();
}

// Answers

function showColumns(query) {
  answeredText = query.text;
  lastFilling = null;
  const columns = models.map(model =>
    make("section", { className: "column", "aria-label": model ?? "Candidates" },
      ...(model === null ? [] : [make("h2", {}, model)]),
      make("div", { className: "blanks" }),
      make("p", { className: "times" }, "Waiting for an answer…")),
  );
  results.replaceChildren(...columns);
  return columns;
}

function showAnswer(column, { blanks, headers, ms }, query) {
  column.querySelector(".times").replaceChildren(...formatTimes(headers, ms));
  const name = column.getAttribute("aria-label");
  column.querySelector(".blanks").replaceChildren(
    ...blanks.map((candidates, blank) => makeBlank(candidates, blank, blanks.length, query, name)),
  );
}

function formatTimes(headers, ms) {
  const [queue, inference, revision] = ["queue-time", "inference-time", "model-revision"].map(name =>
    headers.get(`x-${name}`));
  const parts = [[`${ms.toFixed(0)} ms round trip`]];
  if (queue) parts.push([`${queue} ms in the queue`]);
  if (inference) parts.push([`${inference} ms in the model`]);
  if (revision && models.length > 1) parts.push(["revision ", makeRevision(revision)]);
  return parts.flatMap((words, index) => [index ? " · " : "", make("span", {}, ...words)]);
}

const makeRevision = revision => make("code", { title: revision }, revision.slice(0, 12));

function makeBlank(candidates, blank, blanks, query, name) {
  const list = make("ol", { "aria-label": `${name}${blanks > 1 ? `, blank ${blank + 1}` : ""}` },
    ...candidates.map(candidate => make("li", {}, makeRow(candidate, blank))));
  const head = blanks > 1 ? [make("h3", {}, `Blank ${blank + 1}`), makeContext(query.text, blank)] : [];
  return make("div", { className: "blank" }, ...head, list);
}

function makeRow(candidate, blank) {
  const share = make("span", { className: "share" }, percent(candidate.score));
  const row = make("button", { type: "button" },
    make("span", { className: "word" }, candidate.token_str), " ", share);
  row.style.setProperty("--share", candidate.score); // of the full width, to make the bars of all blanks and models comparable
  if (candidate.token_str.startsWith("##")) row.title = "part of a word; it is joined to the preceding word";
  row.addEventListener("click", () => fill(candidate, blank, row));
  return row;
}

function makeContext(sentence, blank) {
  const parts = sentence.split(mask);
  const before = parts.slice(0, blank + 1).join("__");
  const after = parts.slice(blank + 1).join("__");
  return make("p", { className: "context" },
    before.length > 36 ? `…${before.slice(-32).replace(/^\S+/, "")}` : before,
    make("mark", {}, String(blank + 1)),
    after.length > 36 ? `${after.slice(0, 32).replace(/\S+$/, "")}…` : after);
}

// Filling

const wordOf = ({ token_str: word }) => word.replace(/^##/, "");

function withWord(sentence, candidate, blank) {
  const parts = sentence.split(mask);
  const before = parts.slice(0, blank + 1).join(mask);
  const joined = candidate.token_str.startsWith("##") ? before.trimEnd() : before;
  return joined + wordOf(candidate) + parts.slice(blank + 1).join(mask);
}

function fill(candidate, blank, row) {
  const replaces = lastFilling !== null && text.value === lastFilling.after;
  const before = replaces ? lastFilling.before : text.value;
  if (before !== answeredText) {
    setStatus("The sentence has changed: press Find words for new candidates.");
    return;
  }
  const after = withWord(before, candidate, blank);
  if (!replaces) undoStack.push(before);
  text.value = after;
  undo.disabled = false;
  if (countMasks(after) > 0) {
    ask({ focus: true });
    return;
  }
  lastFilling = { before, after };
  highlight(row);
  setStatus(`Filled with “${wordOf(candidate)}”. Choose another word to replace it.`);
}

function highlight(row) {
  for (const marked of results.querySelectorAll("[aria-current]")) marked.removeAttribute("aria-current");
  row?.setAttribute("aria-current", "true");
}

function undoFilling() {
  text.value = undoStack.pop();
  undo.disabled = !undoStack.length;
  lastFilling = null;
  highlight(null);
  if (undo.disabled) text.focus();
  if (text.value === answeredText) setStatus("Undone.");
  else ask();
}

function insertMask() {
  text.setRangeText(mask, text.selectionStart, text.selectionEnd, "end");
  text.focus();
  resetFillings();
}

// Replaces all notations for a blank with the mask token of the model, without moving the caret.
function writeMasks() {
  for (const { 0: blank, index } of [...text.value.matchAll(BLANK)].reverse()) {
    if (blank !== mask) text.setRangeText(mask, index, index + blank.length, "preserve");
  }
}

function resetFillings() {
  undoStack = [];
  lastFilling = null;
  undo.disabled = true;
  highlight(null);
}

// The query, in the form and in the URL

function readForm() {
  const words = targets.value.split(",").map(word => word.trim());
  return { text: text.value, count: Number(count.value), targets: words.filter(Boolean) };
}

function toFragment(query) {
  const parts = new URLSearchParams({ text: query.text, k: query.count });
  if (query.targets.length) parts.set("targets", query.targets.join(","));
  return parts;
}

function restore() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (!parts.get("text")) return;
  text.value = parts.get("text");
  targets.value = parts.get("targets") ?? "";
  const k = parts.get("k") ?? DEFAULT_COUNT;
  if ([...count.options].some(({ value }) => value === k)) count.value = k;
  resetFillings();
  ask();
}

async function copyLink() {
  const address = location.href;
  try {
    await navigator.clipboard.writeText(address);
    setStatus("The link was copied to the clipboard.");
  } catch { // the clipboard requires https
    link.value = address;
    link.hidden = false;
    link.select();
    setStatus("Copy the selected link.");
  }
}

// Start

function showInfo() {
  mask = info.mask_token ?? mask;
  if (info.models?.length > 1) models = info.models;
  for (const shown of document.querySelectorAll(".mask")) shown.textContent = mask;
  text.placeholder = EXAMPLES[0].replace("_", mask);
  const max = info.limits?.max_top_k ?? Infinity;
  const numbers = COUNTS.filter(number => number <= max);
  count.replaceChildren(...(numbers.length ? numbers : [max]).map(number => make("option", {}, String(number))));
  if (numbers.includes(Number(DEFAULT_COUNT))) count.value = DEFAULT_COUNT;
  if (info.limits?.max_chars) text.maxLength = info.limits.max_chars;
  const facts = [];
  if (models.length > 1) facts.push(`Models ${models.join(", ")}`);
  else if (info.model) facts.push(`Model ${info.model}`);
  if (info.revision && models.length === 1) facts.push(" · revision ", makeRevision(String(info.revision)));
  if (info.dtype) facts.push(` · ${info.dtype}`);
  if (info.max_length) facts.push(` · up to ${info.max_length} tokens`);
  byId("facts").replaceChildren(...facts);
  byId("examples").querySelector("ul").replaceChildren(
    ...EXAMPLES.map(example => example.replaceAll("_", mask)).map(sentence =>
      make("li", {}, make("button", { type: "button", onclick: () => tryOut(sentence) }, sentence))),
  );
}

function tryOut(sentence) {
  text.value = sentence;
  targets.value = "";
  resetFillings();
  ask({ reveal: true });
}

async function start() {
  problem.replaceChildren();
  forget.hidden = sessionStorage.getItem(KEY) === null;
  try {
    info = (await send("info")).body;
  } catch (error) {
    showInfo();
    showProblems([error]);
    return;
  }
  showInfo();
  restore();
}

form.addEventListener("submit", event => {
  event.preventDefault();
  ask({ reveal: true });
});
text.addEventListener("keydown", event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit(); // for an empty field, the browser shows a message
});
text.addEventListener("input", resetFillings);
count.addEventListener("change", () => {
  if (answeredText !== null && text.value === answeredText) ask();
});
results.addEventListener("keydown", event => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const row = event.target.closest("ol button");
  if (!step || !row) return;
  event.preventDefault();
  const rows = [...row.closest("ol").querySelectorAll("button")];
  rows[rows.indexOf(row) + step]?.focus();
});
access.addEventListener("submit", event => {
  event.preventDefault();
  const secret = key.value.trim();
  if (!/^[!-~]+$/.test(secret)) { // characters that a header can contain
    problem.replaceChildren(make("strong", {}, "A key consists of ASCII letters, digits and punctuation, without spaces."));
    key.focus();
    return;
  }
  sessionStorage.setItem(KEY, secret);
  key.value = "";
  access.hidden = true;
  forget.hidden = false;
  if (info.model === undefined) start();
  else ask();
});
forget.addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  forget.hidden = true;
  setStatus("The API key was removed.");
});
undo.addEventListener("click", undoFilling);
byId("insert").addEventListener("click", insertMask);
copy.addEventListener("click", copyLink);
window.addEventListener("hashchange", restore);
start();
