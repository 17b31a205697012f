// Local blend: keep the source's latents wherever the chosen words do not look. See p2p_helpers/blend.py.
import { Sentence } from "./errors.js";

/**
 * @typedef {import("./tokens.js").Reading} Reading
 * @typedef {import("./engine.js").Trajectory} Trajectory
 */

const THRESHOLD = 0.3; // of a map, as a share of its maximum
const START = 0.2; // the share of the steps after which blending begins

/** A local blend at work on a source and its edit. */
export class LocalBlend {
  /**
   * @param {import("./tokens.js").Phrase[]} phrases each is looked up in both prompts @param {Reading} source @param {Reading} target
   * @param {import("./engine.js").Model} model
   */
  constructor(phrases, source, target, { maps, latent }) {
    const missing = phrases.find(phrase => !source.has(phrase) && !target.has(phrase));
    if (missing) throw new Sentence(
      `“${missing}” is not in either sentence. Local blend takes words of the source or the target, with commas between.`);
    this.tokens = [source, target].map(reading => phrases.filter(phrase => reading.has(phrase)).flatMap(phrase => reading.find(phrase)));
    this.sums = this.tokens.map(() => new Float32Array(maps[0] * maps[1]));
    this.grid = maps;
    /** @type {[number, number]} */
    this.size = [latent[1], latent[2]];
    /** @type {boolean[]} where the last step let the edit change */
    this.mask = [];
  }

  /**
   * After a step: the source's latent where its words and the edit's do not look.
   * @param {number} step @param {number} steps @param {Trajectory} source @param {Trajectory} edit
   */
  after(step, steps, source, edit) {
    [source, edit].forEach(({ maps }, i) => {
      const sum = this.sums[i], pixels = sum.length;
      for (const token of this.tokens[i]) for (let at = 0; at < pixels; at++) sum[at] += maps[step][token * pixels + at];
    });
    const [old, now] = this.sums.map(sum => lookedAt(sum, this.grid, this.size));
    this.mask = old.map((inside, i) => inside || now[i]);
    if (step >= Math.trunc(START * steps)) edit.latents[step + 1] = blended(source.latents[step + 1], edit.latents[step + 1], this.mask);
  }
}

/** The largest value around every cell, over 3×3. @param {Float32Array} map @param {number} rows @param {number} columns */
function widened(map, rows, columns) {
  return map.map((_, at) => {
    const [row, column] = [Math.floor(at / columns), at % columns];
    let most = -Infinity;
    for (let y = Math.max(0, row - 1); y <= Math.min(rows - 1, row + 1); y++)
      for (let x = Math.max(0, column - 1); x <= Math.min(columns - 1, column + 1); x++) most = Math.max(most, map[y * columns + x]);
    return most;
  });
}

/**
 * Where words look in a picture: their maps, summed over words and steps, above a share of their maximum.
 * @param {Float32Array} map of the words
 * @param {[number, number]} grid of the map
 * @param {[number, number]} size of the latent
 * @returns {boolean[]} for every cell of the latent
 */
function lookedAt(map, grid, size) {
  const wide = widened(map, ...grid), peak = wide.reduce((a, b) => Math.max(a, b));
  return Array.from({ length: size[0] * size[1] }, (_, at) => {
    const row = Math.floor(Math.floor(at / size[1]) * grid[0] / size[0]), column = Math.floor(at % size[1] * grid[1] / size[1]);
    return peak > 0 && wide[row * grid[1] + column] > Math.fround(peak * Math.fround(THRESHOLD));
  });
}

/** The target's latent inside the mask, the source's outside. @param {Float32Array} source @param {Float32Array} target @param {boolean[]} mask */
const blended = (source, target, mask) => target.map((value, i) => mask[i % mask.length] ? value : source[i]);

/**
 * A picture inside the mask, another one's own pixels outside, with an edge as soft as a latent pixel is wide.
 * @param {Uint8ClampedArray} original RGBA @param {Uint8ClampedArray} edited @param {boolean[]} mask
 * @param {[number, number]} size of the mask @param {[number, number]} picture rows and columns
 */
export function restored(original, edited, mask, size, picture) {
  const soft = picture[1] / size[1];
  const share = blurred(Float32Array.from({ length: picture[0] * picture[1] }, (_, at) => {
    const row = Math.floor(Math.floor(at / picture[1]) * size[0] / picture[0]), column = Math.floor(at % picture[1] / soft);
    return 255 * +mask[row * size[1] + column];
  }), ...picture, soft / 2);
  return original.map((value, i) => Math.round(value + (edited[i] - value) * share[i >> 2] / 255));
}

/** Gauss's blur as Pillow makes it: three box blurs with fractions at their ends, in whole grey levels. @param {Float32Array} values @param {number} rows @param {number} columns @param {number} sigma */
export function blurred(values, rows, columns, sigma) {
  const length = Math.sqrt(12 * sigma * sigma / 3 + 1), whole = Math.floor((length - 1) / 2);
  const fraction = ((2 * whole + 1) * (whole * (whole + 1) - 3 * sigma * sigma / 3)) / (6 * (sigma * sigma / 3 - (whole + 1) ** 2));
  const radius = whole + fraction;
  let now = values;
  for (let pass = 0; pass < 3; pass++) now = boxed(now, rows, columns, 1, columns, radius);
  for (let pass = 0; pass < 3; pass++) now = boxed(now, columns, rows, columns, 1, radius);
  return now;
}

/** One box blur along lines. @param {Float32Array} values @param {number} lines @param {number} length @param {number} step between a line's values @param {number} stride between lines @param {number} radius */
function boxed(values, lines, length, step, stride, radius) {
  const whole = Math.floor(radius), part = radius - whole, out = new Float32Array(values.length);
  /** @param {number} line @param {number} at */
  const value = (line, at) => values[line * stride + Math.min(Math.max(at, 0), length - 1) * step];
  for (let line = 0; line < lines; line++) for (let at = 0; at < length; at++) {
    let sum = part * (value(line, at - whole - 1) + value(line, at + whole + 1));
    for (let k = -whole; k <= whole; k++) sum += value(line, at + k);
    out[line * stride + at * step] = Math.round(sum / (2 * radius + 1));
  }
  return out;
}
