// The page: what a person sets, what the worker makes of it, and what is shown.
import { unchanged } from "./align.js";
import { editOf } from "./engine.js";
import { Sentence } from "./errors.js";
import { Tokenizer } from "./lib/tokenizers.min.mjs";
import { keepOffline } from "./offline.js";
import { blendWords, fitting, fromLink, toLink, toPython, within } from "./settings.js";
import { copyLink, save } from "./take.js";
import { Reading, unknown } from "./tokens.js";
import { alignedText, draw, find, mapOf, planesOf, showWords } from "./view.js";

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {import("./engine.js").Result} Result
 * @typedef {import("./engine.js").Model} Model
 */

const TEXTS = ["source", "target", "kind", "blend"], NUMBERS = ["cross", "self", "seed", "steps", "guidance"], SAID = ["cross", "self", "guidance"];
const CAPTIONS = { source: "source", edit: "edit", free: "no control" };
/** @type {Settings} */
let settings = fromLink(location.hash);
/** @type {Model} */
let model;
/** @type {((prompt: string) => Reading) | undefined} */
let read;
/** @type {{ source: Reading, target: Reading } | null} */
let readings = null;
/** @type {(Result & { settings: Settings, isOwn: boolean }) | null} */
let result = null;
/** @type {{ id: string, pixels: Float32Array } | null} */
let own = null;
let running = 0, number = 0, loaded = false; // the numbers of the run that is on, and of the last one
/** @type {Worker} */
let worker;

const say = (/** @type {string} */ text) => { find("status").textContent = text; };

/** @param {unknown} error */
function problem(error) {
  find("problem").hidden = !error;
  find("problem").textContent = error instanceof Error ? error.message : error ? String(error) : "";
}

// What a person sets.

/** Everything on the page as the settings are. */
function fill() {
  for (const name of [...TEXTS, ...NUMBERS]) find(name).value = settings[/** @type {keyof Settings} */ (name)];
  refresh();
}

/** Words, numbers, link and Python as the settings are; says whether they make sense. */
function refresh() {
  for (const name of SAID) find(`${name}-said`).value = Number(settings[/** @type {"cross"} */ (name)]).toFixed(name === "guidance" ? 1 : 2);
  history.replaceState(null, "", `#${toLink(settings)}`);
  find("python").textContent = toPython(settings, own !== null);
  find("free").hidden = settings.source === settings.target;
  if (!read) return false;
  problem(null);
  try {
    readings = { source: read(settings.source), target: read(settings.target) };
    for (const [name, { words }] of Object.entries(readings)) if (!words.length) throw new Sentence(`The ${name} is empty. Say what the picture shows.`);
    showSentences();
    editOf({ ...request(), weights: settings.weights })(readings.source, readings.target, 1);
    return true;
  } catch (error) {
    problem(error instanceof Sentence ? error : `${error}`);
    return false;
  }
}

function showSentences() {
  if (!readings) return;
  const { source, target } = readings, same = unchanged(source, target), isSwap = settings.kind === "swap";
  const kept = [new Set(same.map(([i]) => i)), new Set(same.map(([, j]) => j))];
  const changed = [source, target].map((reading, i) => new Set(reading.words.map((_, n) => n).filter(n => !kept[i].has(n))));
  const weights = target.phrases.map(phrase => settings.weights.find(([p]) => String(p) === String(phrase))?.[1] ?? 1);
  showWords(find("source-words"), source, changed[0], point("source"));
  showWords(find("target-words"), target, changed[1], point("edit"), { weights, turn });
  const news = [...new Set([source, target].flatMap(reading => unknown(reading, model.known_words)))];
  const strange = news.length ? ` This small model has never seen ${news.map(word => `“${word}”`).join(", ")}; expect anything.` : "";
  find("aligned").textContent = alignedText(source, target, same, isSwap) + strange;
}

/** @param {number} word @param {number} weight */
function turn(word, weight) {
  if (!readings) return;
  const phrase = readings.target.phrases[word];
  const others = settings.weights.filter(([p]) => String(p) !== String(phrase));
  settings = { ...settings, weights: weight === 1 ? others : [...others, [phrase, weight]] };
  changed();
}

/** Points at a word of a picture's prompt: its map is shown, and stays if it is kept. @param {"source" | "edit"} name */
function point(name) {
  return (/** @type {number | null} */ word, /** @type {boolean} */ keep) => {
    const place = find(name === "source" ? "source-words" : "target-words"), buttons = [...place.querySelectorAll("button")];
    const kept = buttons.findIndex(button => button.getAttribute("aria-pressed") === "true");
    if (keep) buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === word && i !== kept)));
    showMap(name, word ?? (keep ? null : kept >= 0 ? kept : null));
  };
}

/** @param {"source" | "edit"} name @param {number | null} word */
function showMap(name, word) {
  if (!result || !readings) return;
  const reading = readings[name === "source" ? "source" : "target"], shown = reading.words[word ?? -1];
  const pixels = model.maps[0] * model.maps[1];
  for (const picture of /** @type {("source" | "edit" | "free")[]} */ (name === "source" ? ["source"] : ["edit", "free"])) {
    if (!result.pictures[picture]) continue;
    const over = shown ? { map: mapOf(result.maps[picture], shown.tokens, pixels), grid: model.maps } : null;
    draw(picture, result.pictures[picture], model.picture, `${CAPTIONS[picture]}: ${reading.prompt}${shown ? `, coloured by the map of “${shown.text}”` : ""}`, over);
  }
}

/** @param {string} name @param {string} value */
function set(name, value) {
  const text = NUMBERS.includes(name) ? within(/** @type {"seed"} */ (name), value) : value;
  settings = { ...settings, [name]: text };
  if (NUMBERS.includes(name)) find(name).value = text;
  if (name === "source" || name === "target") adapt();
  changed();
}

/** Other sentences may want another kind of edit. */
function adapt() {
  if (!read) return;
  try {
    settings = fitting(settings, read(settings.source), read(settings.target));
    find("kind").value = settings.kind;
  } catch { /* refresh says what is wrong */ }
}

function changed() {
  if (refresh()) make();
}

// What the worker makes.

/** @returns {import("./engine.js").Request} */
const request = () => ({ ...settings, blend: blendWords(settings.blend), free: settings.source !== settings.target, picture: own });

function make() {
  if (!loaded) return;
  running = ++number;
  worker.postMessage({ name: "edit", number, request: request() });
  find("cancel").disabled = false;
  say("Making the pictures …");
}

function cancel() {
  running = 0;
  worker.postMessage({ name: "cancel", number: ++number });
  ended("Cancelled.");
}

/** @param {string} text */
function ended(text) {
  running = 0;
  find("cancel").disabled = true;
  find("progress").value = 0;
  say(text);
}

/** @param {Record<string, Uint8ClampedArray>} pictures @param {string} when */
function show(pictures, when) {
  for (const [name, pixels] of Object.entries(pictures)) {
    const prompt = name === "source" ? settings.source : settings.target;
    draw(name, pixels, model.picture, `${CAPTIONS[/** @type {"edit"} */ (name)]}: ${prompt}${when}`);
  }
}

/** @type {Record<string, (data: any) => void>} */
const HEARD = {
  model(data) {
    model = data.model;
    const tokenizer = new Tokenizer(data.words, data.config);
    read = prompt => new Reading(tokenizer, prompt, model.text[0], data.config.pad_token);
    find("known").textContent = model.known_words.join(", ");
    refresh();
  },
  loading({ share }) {
    find("progress").value = share;
    say(`The model comes: ${Math.round(100 * share)} %. It is kept for the next time.`);
  },
  loaded({ seconds, threads }) {
    loaded = true;
    document.body.dataset.loaded = seconds.toFixed(2);
    ended(`The model is here, after ${seconds.toFixed(1)} s; it uses ${threads} thread${threads > 1 ? "s" : ""}.`);
    if (refresh()) make();
  },
  progress({ number, doing, step, steps, pictures }) {
    if (number !== running) return;
    find("progress").value = step / steps;
    say(doing === "inversion" ? `Finding the noise of your picture: step ${step} of ${steps}.` : `Step ${step} of ${steps}.`);
    show(pictures, `, as it looks at step ${step}`);
  },
  done({ number, seconds, ...found }) {
    if (number !== running) return;
    result = { .../** @type {Result} */ (found), settings, isOwn: own !== null };
    show(found.pictures, "");
    find("save").disabled = false;
    ended(`Done in ${seconds.toFixed(1)} s.`);
  },
  failed({ number, message }) {
    if (number && number !== running) return;
    problem(message);
    ended("");
  },
};

/** @param {File | undefined} file */
async function takePicture(file) {
  if (!file) return;
  try {
    own = { id: `${file.name} ${file.lastModified} ${file.size}`, pixels: await planesOf(file, model.picture) };
  } catch {
    return problem("This file cannot be read as a picture. Take a PNG, JPEG or WebP.");
  }
  find("without").hidden = false;
  changed();
}

function leavePicture() {
  own = null;
  find("own").value = "";
  find("without").hidden = true;
  changed();
}

function listen() {
  for (const name of [...TEXTS, ...NUMBERS]) find(name).onchange = () => set(name, find(name).value);
  for (const name of SAID) find(name).oninput = () => { find(`${name}-said`).value = Number(find(name).value).toFixed(2); };
  find("form").onsubmit = (/** @type {Event} */ event) => { event.preventDefault(); changed(); };
  find("cancel").onclick = cancel;
  find("link").onclick = async () => say(await copyLink(own !== null));
  find("save").onclick = () => result && save(result.pictures.edit, model.picture, result.settings, result.isOwn);
  find("own").onchange = () => takePicture(find("own").files[0]);
  find("without").onclick = leavePicture;
  onhashchange = () => { settings = fromLink(location.hash); fill(); make(); };
}

async function start() {
  fill();
  listen();
  if (typeof WebAssembly === "undefined") return problem("This browser does not run WebAssembly, which the model needs. Take a current Firefox, Chrome or Safari.");
  await keepOffline();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => HEARD[data.name]?.(data);
  worker.onerror = () => problem("The model's part of this page could not start. Check the connection, then load the page again.");
  worker.postMessage({ name: "load" });
  say("The model comes …");
}

start();
