// The page: what a person sets, and what the worker makes of it.
import { LocalBlend } from "./blend.js";
import { editOf } from "./engine.js";
import { Sentence } from "./errors.js";
import { Tokenizer } from "./lib/tokenizers.min.mjs";
import { keepOffline } from "./offline.js";
import { find, onceReleased, page, problem, say, sayNumber, sayStep } from "./page.js";
import { preparePad } from "./pad.js";
import { lastChoice, placeWanted, rememberChoice } from "./places.js";
import { show, showAgain, showKnown, showMade, showSentences } from "./sentences.js";
import { blendWords, fitting, fromLink, numbered, toLink, toPython, within } from "./settings.js";
import { copyLink, save } from "./take.js";
import { Reading } from "./tokens.js";
import { canvasOf, planesOf } from "./view.js";

const TEXTS = /** @type {const} */ (["source", "target", "kind", "blend"]), NUMBERS = ["cross", "self", "seed", "steps", "guidance"];
const SAID = /** @type {const} */ (["cross", "self", "guidance"]);
const NO_WASM = "This browser does not run WebAssembly, which the model needs. Take a current Firefox, Chrome or Safari.";
const NO_WORKER = "The model's part of this page could not start. Check the connection, then load the page again.";
const WORKER_ENDED = "The model's part of this page has stopped. Load the page again.";
let running = 0, number = 0, loaded = false; // the numbers of the run that is on, and of the last one
let asked = { settings: page.settings, isOwn: false }; // what that run makes
let adapting = false, taken = 0; // whether sentences have changed before the model came; how many pictures were given
let broken = "", where = ""; // why there will be no model, or where it runs
let choice = /** @type {import("./places.js").Choice | null} */ (null); // that place, and the GPU
let early = /** @type {File | null} */ (null); // a picture that was given before the model came
/** @type {Worker} */
let worker;

// What a person sets.

/** Everything on the page as the settings are. */
function fill() {
  for (const [name, value] of Object.entries(page.settings)) if (name !== "weights") find(name).value = value;
  refresh();
}

/** Words, numbers, link and Python as the settings are. Says whether they make sense. */
function refresh() {
  const { settings, model } = page;
  for (const name of SAID) sayNumber(name, settings[name]);
  saySettings();
  find("free").hidden = settings.source === settings.target;
  if (!model) return false;
  problem(broken);
  try {
    for (const name of /** @type {const} */ (["source", "target"]))
      if (!settings[name].trim()) throw new Sentence(`The ${name} is empty. Say what the picture shows.`);
    const { source, target } = page.readings = { source: model.read(settings.source), target: model.read(settings.target) };
    page.settings = { ...settings, weights: numbered(settings.weights, target) };
    saySettings();
    showSentences(changed, set);
    editOf(request())(source, target, 1);
    const { blend } = request();
    if (blend.length) new LocalBlend(blend, source, target, model.facts);
    return true;
  } catch (error) {
    problem(error);
    return false;
  }
}

/** As a link and as Python. */
function saySettings() {
  try {
    history.replaceState(null, "", `#${toLink(page.settings)}`);
  } catch { /* Safari takes a hundred in half a minute; the next change brings this one along */ }
  find("python").textContent = toPython(page.settings, page.own !== null);
}

/** @param {string} name @param {string} value */
function set(name, value) {
  const isNumber = NUMBERS.includes(name);
  page.settings = { ...page.settings, [name]: isNumber ? within(/** @type {"seed"} */ (name), value) : value };
  if (name === "source" || name === "target") adapt();
  fill();
  make();
}

/** Other sentences may want another kind of edit. */
function adapt() {
  const { model, settings } = page;
  adapting = !model;
  try {
    if (model) page.settings = fitting(settings, model.read(settings.source), model.read(settings.target));
  } catch { /* refresh says what is wrong */ }
}

function changed() {
  refresh();
  make();
}

/** @param {File | undefined} file */
async function takePicture(file) {
  if (!file) return;
  early = page.model ? null : file;
  if (!page.model) return;
  const own = ++taken; // while it is read, the person may want another one
  try {
    const picture = { id: `${file.name} ${file.lastModified} ${file.size}`, pixels: await planesOf(file, page.model.facts.picture) };
    if (own !== taken) return;
    page.own = picture;
  } catch {
    if (own !== taken) return;
    find("own").value = "";
    return problem("This file cannot be read as a picture. Take a PNG, JPEG or WebP.");
  }
  showOwn();
  changed();
}

function leavePicture() {
  taken++;
  page.own = null;
  early = null;
  find("own").value = "";
  if (document.activeElement === find("without")) find("own").focus(); // the button goes
  showOwn();
}

/** What a picture of one's own changes on the page: its noise is found, so there is no seed. */
function showOwn() {
  find("without").hidden = !page.own;
  find("seed").disabled = page.own !== null;
}

// What the worker makes.

/** @returns {import("./engine.js").Request} */
const request = () => ({ ...page.settings, blend: blendWords(page.settings.blend), free: page.settings.source !== page.settings.target,
  picture: page.own });

function make() {
  if (!loaded) return;
  if (!find("problem").hidden) return running ? cancel() : undefined; // what was asked for is not wanted any more
  running = ++number;
  page.isOld = true;
  asked = { settings: page.settings, isOwn: page.own !== null };
  worker.postMessage({ name: "edit", number, request: request() });
  find("cancel").disabled = false;
  find("save").disabled = true;
  say("Making the pictures …");
}

function cancel() {
  worker.postMessage({ name: "cancel", number: ++number });
  stopped("Cancelled.");
}

/** Without new pictures: the last ones are here again. @param {string} text */
function stopped(text) {
  page.isOld = false;
  ended(text);
  showAgain();
  find("save").disabled = !page.made;
}

/** @param {string} text */
function ended(text) {
  running = 0;
  if (document.activeElement === find("cancel")) find("make").focus(); // a button that is off has no focus
  find("cancel").disabled = true;
  find("progress").value = 0;
  sayStep("");
  say(text);
}

/** @type {Record<string, (data: any) => void>} */
const HEARD = {
  model({ model, words, config }) {
    const tokenizer = new Tokenizer(words, config);
    page.model = { facts: model, read: prompt => new Reading(tokenizer, prompt, model.text[0], config.pad_token) };
    showKnown(model.known_words);
    if (adapting) adapt();
    for (const name of TEXTS) if (name === "kind" || find(name) !== document.activeElement) find(name).value = page.settings[name]; // one may be writing
    refresh();
    if (early) takePicture(early);
  },
  loading({ here, all }) {
    find("progress").value = here / all;
    const kept = navigator.serviceWorker?.controller ? " It is kept for the next time." : "";
    sayStep(`${Math.round(here / 1e6)} of ${Math.round(all / 1e6)} MB.${kept}`);
  },
  starting() {
    find("progress").removeAttribute("value"); // nobody knows how long
    say("The model has come, and its runtime starts.");
    sayStep("It is 14 MB more the first time, or 41 MB where the browser has WebGPU.");
  },
  trying({ gpu }) {
    if (placeWanted()) return;
    const last = lastChoice();
    rememberChoice({ place: "wasm", gpu }); // for the next visit, if the driver takes the tab with it
    addEventListener("pagehide", () => { if (!loaded && !broken) rememberChoice(last); }); // who leaves says nothing of the driver
  },
  loaded({ seconds, place, gpu, threads }) {
    loaded = true;
    choice = { place, gpu };
    document.body.dataset.loaded = `${seconds.toFixed(2)} s, ${place}, threads: ${threads}`;
    if (!placeWanted()) rememberChoice(choice);
    where = place === "webgpu" ? "on the graphics processor" : `on ${threads} thread${threads > 1 ? "s" : ""}`;
    ended(`The model is here, after ${seconds.toFixed(1)} s.`);
    make();
  },
  progress({ number, doing, step, steps, pictures }) {
    if (number !== running) return;
    find("progress").value = step / steps;
    sayStep(doing === "inversion" ? `Finding the noise of your picture: step ${step} of ${steps}.` : `Step ${step} of ${steps}.`);
    for (const [name, pixels] of Object.entries(pictures)) show(/** @type {"edit"} */ (name), pixels, `, as it looks at step ${step}`);
  },
  done({ number, seconds, pictures, maps, mask }) {
    if (number !== running) return;
    page.made = { pictures, maps, mask, ...asked };
    page.isOld = false;
    showMade();
    find("save").disabled = false;
    ended(`Done in ${seconds.toFixed(1)} s ${where}.`);
  },
  failed({ number, message, fatal, expected }) {
    if (number && number !== running) return;
    if (!expected && !placeWanted()) rememberChoice(choice?.place === "webgpu" ? { ...choice, place: "wasm" } : null); // the next visit takes what works
    if (fatal) broken = message;
    stopped("");
    problem(message);
  },
};

function listen() {
  for (const name of [...TEXTS, ...NUMBERS]) find(name).onchange = () => {
    const { value } = find(name);
    if (name === "source" || name === "target") onceReleased(() => set(name, value)); // others make no words anew
    else set(name, value);
  };
  for (const name of SAID) find(name).oninput = () => sayNumber(name, find(name).valueAsNumber);
  find("form").onsubmit = (/** @type {Event} */ event) => { event.preventDefault(); changed(); };
  find("cancel").onclick = cancel;
  find("link").onclick = async () => say(await copyLink(`#${toLink(page.settings)}`, page.own !== null));
  find("save").onclick = () => page.made && page.model && save(page.made, page.model.facts.picture);
  find("own").onchange = () => takePicture(find("own").files[0]);
  find("without").onclick = () => { leavePicture(); changed(); };
  preparePad(() => page.made && page.model && canvasOf(page.made.pictures.source, page.model.facts.picture), drawing => {
    find("own").value = ""; // so that the same file can be chosen again
    takePicture(drawing);
  });
  onhashchange = () => {
    adapting = false; // a link says what kind of edit it wants
    leavePicture();
    page.settings = fromLink(location.hash);
    fill();
    make();
  };
}

async function start() {
  find("unstarted").remove();
  fill();
  leavePicture(); // Firefox keeps a form's state
  listen();
  if (typeof WebAssembly === "undefined") return problem(NO_WASM);
  say("The model comes …");
  await keepOffline();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => HEARD[data.name]?.(data);
  worker.onerror = () => HEARD.failed({ number: 0, message: loaded ? WORKER_ENDED : NO_WORKER, fatal: true, expected: true });
  worker.postMessage({ name: "load", wanted: placeWanted(), last: lastChoice() });
}

start();
