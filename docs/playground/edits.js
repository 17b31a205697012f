// Edits as data: for every step two matrices S and T, so that the maps become A_source S + A_target T. See p2p_helpers/edits.
import { Matrix, refinement, replacement } from "./align.js";
import { Sentence } from "./errors.js";

/**
 * @typedef {import("./tokens.js").Reading} Reading
 * @typedef {import("./tokens.js").Phrase} Phrase
 * @typedef {number | [number, number]} Interval a share of the steps: 0.8 is the first 80 %
 * @typedef {Interval | [Phrase | "default", Interval][]} Schedule one for all words, or each word its own
 * @typedef {{ s: Matrix[], t: Matrix[] }} Matrices of every step
 * @typedef {(source: Reading, target: Reading, steps: number) => Matrices} Edit
 */

/**
 * The steps in which a schedule is on. A share x ends before step ⌊x · (steps + 1)⌋, as the authors count.
 * @param {Interval} schedule @param {number} steps @param {number} [of] what the share is taken of
 * @returns {boolean[]}
 */
export function activeSteps(schedule, steps, of = steps + 1) {
  const [start, end] = Array.isArray(schedule) ? schedule : [0, schedule];
  if (!(start >= 0 && start <= end && end <= 1)) throw new Sentence("A schedule is a share of the steps, from 0 to 1.");
  return Array.from({ length: steps }, (_, step) => step >= Math.trunc(start * of) && step < Math.trunc(end * of));
}

/**
 * α: for every step and token of the target 1 where its schedule is on, else 0.
 * @param {Reading} target @param {Schedule} schedule @param {number} steps
 */
function wordSchedule(target, schedule, steps) {
  const pairs = Array.isArray(schedule) && Array.isArray(schedule[0])
    ? /** @type {[Phrase, Interval][]} */ (schedule) : /** @type {[Phrase, Interval][]} */ ([["default", schedule]]);
  const usual = activeSteps(pairs.find(([name]) => name === "default")?.[1] ?? 1, steps);
  const alpha = usual.map(on => new Float32Array(target.length).fill(+on));
  for (const [phrase, interval] of pairs) {
    if (phrase === "default") continue;
    const on = activeSteps(interval, steps);
    for (const token of target.find(phrase)) alpha.forEach((row, step) => row[token] = +on[step]);
  }
  return alpha;
}

/** @param {Float32Array} alpha */
const rest = alpha => Matrix.diagonal(alpha.map(a => 1 - a));

/** Word swap: S = M diag(α), T = diag(1 − α). @param {Schedule} cross @returns {Edit} */
export const replace = cross => (source, target, steps) => {
  const mapping = replacement(source, target), alpha = wordSchedule(target, cross, steps);
  return { s: alpha.map(a => mapping.scaled(a)), t: alpha.map(rest) };
};

/** Refinement: S = P diag(m∘α), T = diag(1 − m∘α). @param {Schedule} cross @returns {Edit} */
export const refine = cross => (source, target, steps) => {
  const mapping = refinement(source, target);
  const old = Float32Array.from({ length: mapping.side }, (_, column) =>
    +Array.from({ length: mapping.side }, (_, row) => mapping.at(row, column)).some(Boolean));
  const alpha = wordSchedule(target, cross, steps).map(a => a.map((value, token) => value * old[token]));
  return { s: alpha.map(a => mapping.scaled(a)), t: alpha.map(rest) };
};

/** Reweighting: S = diag(α∘c), T = diag(1 − α). @param {[Phrase, number][]} weights @param {Schedule} cross @returns {Edit} */
export const reweight = (weights, cross) => (source, target, steps) => {
  if (String(source.ids) !== String(target.ids))
    throw new Sentence("Words are turned up and down in one prompt; line two prompts up by a word swap or a refinement first.");
  const c = new Float32Array(target.length).fill(1);
  for (const [phrase, weight] of weights) for (const token of target.find(phrase)) c[token] = weight;
  const alpha = wordSchedule(target, cross, steps);
  return { s: alpha.map(a => Matrix.diagonal(a.map((value, token) => value * c[token]))), t: alpha.map(rest) };
};

/** One edit after another: S = S₁S₂, T = T₁S₂ + T₂. @param {Edit} first @param {Edit} second @returns {Edit} */
export const composed = (first, second) => (source, target, steps) => {
  const a = first(source, target, steps), b = second(target, target, steps);
  return { s: a.s.map((s, i) => s.times(b.s[i])), t: a.t.map((t, i) => t.times(b.s[i]).plus(b.t[i])) };
};
