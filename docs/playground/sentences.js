// The two sentences: their words, what lines them up, and the maps of words over the pictures.
import { unchanged } from "./align.js";
import { find, page } from "./page.js";
import { unknown } from "./tokens.js";
import { alignedText, draw, empty, mapOf, showWords } from "./view.js";

/** @typedef {"source" | "edit" | "free"} Name of a picture */

const CAPTIONS = { source: "source", edit: "edit", free: "no control" };
let shown = ""; // what the words on the page were made for

const key = () => JSON.stringify([page.settings.source, page.settings.target, page.settings.kind, page.settings.weights]);

/**
 * Words, their sliders and what lines them up, for new sentences.
 * @param {() => void} changed called when a slider is let go
 * @param {(name: "source" | "target", text: string) => void} set called with another sentence
 */
export function showSentences(changed, set) {
  if (!page.readings || shown === key()) return;
  shown = key();
  const { source, target } = page.readings, same = unchanged(source, target), { kind, weights } = page.settings;
  const kept = [new Set(same.map(([i]) => i)), new Set(same.map(([, j]) => j))];
  const others = [source, target].map((reading, i) => new Set(reading.words.map((_, n) => n).filter(n => !kept[i].has(n))));
  const values = target.phrases.map(phrase => weights.find(([p]) => String(p) === String(phrase))?.[1] ?? 1);
  const known = page.model?.facts.known_words ?? [], strange = { source: unknown(source, known), target: unknown(target, known) };
  showWords(find("source-words"), source, others[0], strange.source, point("source", source));
  showWords(find("target-words"), target, others[1], strange.target, point("edit", target), { weights: values, turn: (word, weight) => turn(word, weight, changed) });
  const names = [...new Set([...strange.source, ...strange.target].map(word => `“${word.text}”`))].join(", ");
  find("aligned").textContent = alignedText(source, target, same, kind === "swap")
    + (names && ` This small model has never seen ${names}; expect anything, or choose another word from the list below.`);
  const name = strange.target.length ? "target" : "source", word = strange[name].at(-1);
  showKnown(known, word, chosen => {
    const now = page.readings?.[name], old = now && unknown(now, known).findLast(one => one.text === word?.text);
    if (old) set(name, now.text.slice(0, old.place) + chosen + now.text.slice(old.place + old.text.length));
    find("known-title").focus(); // the button is gone
  });
}

/**
 * The words that the model knows. While a sentence has one that it does not know, each is a button that replaces it.
 * @param {string[]} known @param {import("./tokens.js").Word} [word] to be replaced @param {(chosen: string) => void} [replace]
 */
export function showKnown(known, word, replace) {
  if (!word) return find("known").replaceChildren(known.join(", "));
  find("known").replaceChildren(`Replace “${word.text}” with: `, ...known.map(text =>
    Object.assign(document.createElement("button"), { type: "button", textContent: text, onclick: () => replace?.(text) })));
}

/** @param {number} word @param {number} weight @param {() => void} changed */
function turn(word, weight, changed) {
  const phrase = page.readings?.target.phrases[word] ?? "";
  const others = page.settings.weights.filter(([p]) => String(p) !== String(phrase));
  page.settings = { ...page.settings, weights: weight === 1 ? others : [...others, [phrase, weight]] };
  shown = key(); // the slider is as it should be, and keeps the focus
  changed();
}

/** @param {"source" | "edit"} name */
const buttonsOf = name => [...find(name === "source" ? "source-words" : "target-words").querySelectorAll("button")];

/** The word whose map stays. @param {"source" | "edit"} name */
const keptOf = name => buttonsOf(name).findIndex(button => button.getAttribute("aria-pressed") === "true");

/**
 * Points at a word of a picture's prompt: its map is shown, and stays if it is kept.
 * @param {"source" | "edit"} name @param {import("./tokens.js").Reading} shown the prompt whose words are on the page
 */
const point = (name, shown) => (/** @type {number | null} */ number, /** @type {boolean} */ keep) => {
  const now = page.readings?.[name === "source" ? "source" : "target"], kept = keptOf(name);
  const phrase = number === null ? null : String(shown.phrases[number]); // a click may have brought another sentence
  const found = now?.phrases.findIndex(one => String(one) === phrase) ?? -1, word = found < 0 ? null : found;
  if (keep) buttonsOf(name).forEach((button, i) => button.setAttribute("aria-pressed", String(i === word && i !== kept)));
  showMap(name, keep ? keptOf(name) : word ?? kept);
};

/** The last pictures, whatever is asked for by now. */
export function showAgain() {
  const { made, model } = page;
  if (!made || !model) return;
  for (const name of /** @type {Name[]} */ (Object.keys(CAPTIONS)))
    if (made.pictures[name]) draw(name, made.pictures[name], model.facts.picture, captionOf(name, made.settings));
    else empty(name, `${CAPTIONS[name]}: no picture yet`);
  showMade();
}

/** The last pictures, with the maps that stay. */
export function showMade() {
  showMap("source", keptOf("source"));
  showMap("edit", keptOf("edit"));
}

/** A prompt's pictures with the map of a word, if there is such a word. @param {"source" | "edit"} name @param {number} word */
function showMap(name, word) {
  const { made, model, readings, settings } = page;
  if (page.isOld || !made || !model || !readings || made.settings.source !== settings.source || made.settings.target !== settings.target) return;
  const reading = name === "source" ? readings.source : readings.target, chosen = reading.words[word];
  const { maps: grid } = model.facts;
  for (const picture of /** @type {Name[]} */ (name === "source" ? ["source"] : ["edit", "free"])) {
    if (!made.pictures[picture]) continue;
    const over = chosen ? { map: mapOf(made.maps[picture], chosen.tokens, grid[0] * grid[1]), grid } : null;
    show(picture, made.pictures[picture], chosen ? `, coloured by the map of “${chosen.text}”` : "", over);
  }
}

/**
 * @param {Name} name @param {Uint8ClampedArray} pixels RGBA @param {string} more that is said of it
 * @param {{ map: Float32Array, grid: [number, number] } | null} [over]
 */
export function show(name, pixels, more, over = null) {
  const { settings, model } = page;
  if (model) draw(name, pixels, model.facts.picture, captionOf(name, settings) + more, over);
}

/** @param {Name} name @param {import("./settings.js").Settings} settings */
const captionOf = (name, settings) => `${CAPTIONS[name]}: ${name === "source" ? settings.source : settings.target}`;
