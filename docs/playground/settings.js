// All that decides a picture, as one value; and as a link, and as Python.
import { spelling } from "./tokens.js";

/**
 * @typedef {import("./tokens.js").Phrase} Phrase
 * @typedef {{ source: string, target: string, kind: "swap" | "refine", cross: number, self: number, weights: [Phrase, number][],
 *   seed: number, steps: number, guidance: number, blend: string }} Settings
 */

/** @type {Settings} */
export const FIRST = { source: "a fox in a forest", target: "a castle in a forest", kind: "swap", cross: 0.3, self: 0.2, weights: [],
  seed: 10, steps: 20, guidance: 4, blend: "" };
const LIMITS = { cross: [0, 1], self: [0, 1], seed: [0, 2 ** 53 - 1], steps: [1, 100], guidance: [1, 12] };

/** A number within its limits, or what it is without. @param {keyof typeof LIMITS} name @param {unknown} value */
export function within(name, value) {
  const number = Number(value), [low, high] = LIMITS[name];
  if (value === null || value === "" || !Number.isFinite(number)) return FIRST[name];
  const whole = name === "seed" || name === "steps" ? Math.round(number) : number;
  return Math.min(Math.max(whole, low), high);
}

/** The settings as the part of a link after its #. @param {Settings} settings */
export const toLink = settings => new URLSearchParams(Object.entries(settings).map(([name, value]) =>
  [name, typeof value === "object" ? JSON.stringify(value) : String(value)])).toString();

/** The settings of a link; what it does not say, or says wrongly, is as at first. @param {string} hash @returns {Settings} */
export function fromLink(hash) {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  const text = (/** @type {"source" | "target" | "blend"} */ name) => (said.get(name) ?? FIRST[name]).slice(0, 500);
  const number = (/** @type {keyof typeof LIMITS} */ name) => within(name, said.get(name));
  return { source: text("source"), target: text("target"), blend: text("blend"), weights: weightsOf(said.get("weights")),
    kind: said.get("kind") === "refine" ? "refine" : "swap", cross: number("cross"), self: number("self"), seed: number("seed"),
    steps: number("steps"), guidance: number("guidance") };
}

/** @param {string | null} text @returns {[Phrase, number][]} */
function weightsOf(text) {
  try {
    const found = JSON.parse(text ?? "[]");
    return found.filter((/** @type {any} */ pair) => Number.isFinite(pair?.[1]) && Math.abs(pair[1]) <= 1000 &&
      (typeof pair[0] === "string" || (typeof pair[0]?.[0] === "string" && Number.isInteger(pair[0][1]) && pair[0][1] > 0)));
  } catch {
    return [];
  }
}

/**
 * The settings for other sentences: the kind of edit that fits, and only weights of words that are there.
 * @param {Settings} settings @param {import("./tokens.js").Reading} source @param {import("./tokens.js").Reading} target
 * @returns {Settings}
 */
export const fitting = (settings, source, target) => ({ ...settings, kind: source.words.length === target.words.length ? "swap" : "refine",
  weights: settings.weights.filter(([phrase]) => target.has(phrase)) });

/**
 * Weights as the faders have them: a word that stands several times has its number, one that now stands once has none.
 * @param {[Phrase, number][]} weights @param {import("./tokens.js").Reading} target @returns {[Phrase, number][]}
 */
export const numbered = (weights, target) => weights.flatMap(([phrase, weight]) => {
  const [text, number] = typeof phrase === "string" ? [phrase, 0] : phrase;
  const same = target.phrases.filter(one => {
    const [name, place] = typeof one === "string" ? [one, 1] : one;
    return spelling(name) === spelling(text) && (!number || place === number);
  });
  return same.length ? same.map(one => /** @type {[Phrase, number]} */ ([one, weight])) : [[phrase, weight]];
});

/** The words of local blend. @param {string} text words with commas between @returns {string[]} */
export const blendWords = text => text.split(",").map(word => word.trim()).filter(Boolean);

/** A text as Python writes it. @param {string} text */
const quoted = text => JSON.stringify(text);

/** @param {Settings} settings */
export function editText({ kind, cross, self, weights }) {
  const words = `${kind === "swap" ? "Replace" : "Refine"}(cross_steps=${cross}, self_steps=${self})`;
  if (!weights.length) return words;
  const pairs = weights.map(([phrase, weight]) => `${Array.isArray(phrase) ? `(${quoted(phrase[0])}, ${phrase[1]})` : quoted(phrase)}: ${weight}`);
  return `${words} | Reweight({${pairs.join(", ")}})`;
}

/** The call that makes the same picture. @param {Settings} settings @param {boolean} isOwn whether the source is a picture of one's own */
export function toPython(settings, isOwn) {
  const { source, target, seed, steps, guidance } = settings, blend = blendWords(settings.blend);
  const edit = editText(settings).replace(/(^|\| )([A-Z])/g, "$1p2p.$2");
  const start = isOwn ? [`inversion = p2p.invert(pipe, p2p.load_image("my-picture.png", pipe), ${quoted(source)}, method="direct", steps=${steps})`] : [];
  const rest = [...(blend.length ? [`local_blend=[${blend.map(quoted).join(", ")}]`] : []), ...(isOwn ? [] : [`seed=${seed}`, `steps=${steps}`]),
    `guidance_scale=${guidance}`];
  return ["import p2p_helpers as p2p", 'pipe = p2p.load_pipeline("toyland")', ...start,
    `result = p2p.edit(pipe, ${isOwn ? "inversion" : quoted(source)}, ${quoted(target)}, ${edit}, ${rest.join(", ")})`].join("\n");
}
