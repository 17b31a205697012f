// The two sentences: their words, what lines them up, and the maps of words over the pictures.
import { unchanged } from "./align.js";
import { find, page } from "./page.js";
import { unknown } from "./tokens.js";
import { alignedText, draw, mapOf, showWords } from "./view.js";

/** @typedef {"source" | "edit" | "free"} Name of a picture */

const CAPTIONS = { source: "source", edit: "edit", free: "no control" };
let shown = ""; // what the words on the page were made for

const key = () => JSON.stringify([page.settings.source, page.settings.target, page.settings.kind, page.settings.weights]);

/** Words, their sliders and what lines them up, for new sentences. @param {() => void} changed called when a slider is let go */
export function showSentences(changed) {
  if (!page.readings || shown === key()) return;
  shown = key();
  const { source, target } = page.readings, same = unchanged(source, target), { kind, weights } = page.settings;
  const kept = [new Set(same.map(([i]) => i)), new Set(same.map(([, j]) => j))];
  const others = [source, target].map((reading, i) => new Set(reading.words.map((_, n) => n).filter(n => !kept[i].has(n))));
  const values = target.phrases.map(phrase => weights.find(([p]) => String(p) === String(phrase))?.[1] ?? 1);
  showWords(find("source-words"), source, others[0], point("source"));
  showWords(find("target-words"), target, others[1], point("edit"), { weights: values, turn: (word, weight) => turn(word, weight, changed) });
  const known = page.model?.facts.known_words ?? [];
  const strange = [...new Set([source, target].flatMap(reading => unknown(reading, known)))].map(word => `“${word}”`).join(", ");
  find("aligned").textContent = alignedText(source, target, same, kind === "swap")
    + (strange && ` This small model has never seen ${strange}; expect anything.`);
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

/** Points at a word of a picture's prompt: its map is shown, and stays if it is kept. @param {"source" | "edit"} name */
const point = name => (/** @type {number | null} */ word, /** @type {boolean} */ keep) => {
  const kept = keptOf(name);
  if (keep) buttonsOf(name).forEach((button, i) => button.setAttribute("aria-pressed", String(i === word && i !== kept)));
  showMap(name, word ?? kept);
};

/** The last pictures, with the maps that stay. */
export function showMade() {
  showMap("source", keptOf("source"));
  showMap("edit", keptOf("edit"));
}

/** A prompt's pictures with the map of a word, if there is such a word. @param {"source" | "edit"} name @param {number} word */
function showMap(name, word) {
  const { made, model, readings, settings } = page;
  if (!made || !model || !readings || made.settings.source !== settings.source || made.settings.target !== settings.target) return;
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
  const { settings, model } = page, prompt = name === "source" ? settings.source : settings.target;
  if (model) draw(name, pixels, model.facts.picture, `${CAPTIONS[name]}: ${prompt}${more}`, over);
}
