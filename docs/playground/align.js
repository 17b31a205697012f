// The matrices that line up the tokens of two prompts, (source token, target token), as p2p_helpers/prompts/align.py has them.
import { Sentence } from "./errors.js";

/** @typedef {import("./tokens.js").Reading} Reading */

/** A square matrix over tokens. */
export class Matrix {
  /** @param {number} side @param {Float32Array} [values] row by row */
  constructor(side, values = new Float32Array(side * side)) {
    this.side = side;
    this.values = values;
  }

  /** @param {number} row @param {number} column */
  at(row, column) {
    return this.values[row * this.side + column];
  }

  /** @param {number} row @param {number} column @param {number} value */
  set(row, column, value) {
    this.values[row * this.side + column] = value;
  }

  /** The matrix with every column times a number. @param {ArrayLike<number>} factors */
  scaled(factors) {
    return new Matrix(this.side, this.values.map((value, i) => value * factors[i % this.side]));
  }

  /** this · other. @param {Matrix} other */
  times(other) {
    const product = new Matrix(this.side), { side } = this;
    for (let row = 0; row < side; row++) for (let k = 0; k < side; k++) {
      const factor = this.at(row, k);
      if (!factor) continue;
      for (let column = 0; column < side; column++) product.values[row * side + column] += factor * other.at(k, column);
    }
    return product;
  }

  /** @param {Matrix} other */
  plus(other) {
    return new Matrix(this.side, this.values.map((value, i) => value + other.values[i]));
  }

  /** diag(numbers). @param {ArrayLike<number>} numbers */
  static diagonal(numbers) {
    const made = new Matrix(numbers.length);
    for (let i = 0; i < numbers.length; i++) made.set(i, i, numbers[i]);
    return made;
  }

  /** @param {number} side */
  static identity(side) {
    return Matrix.diagonal(new Float32Array(side).fill(1));
  }
}

/**
 * p source tokens share their maps over q target tokens, or give them one to one where p = q.
 * @param {Matrix} matrix @param {number[]} source @param {number[]} target
 */
function spread(matrix, source, target) {
  source.forEach((row, i) => {
    if (source.length === target.length) matrix.set(row, target[i], 1);
    else for (const column of target) matrix.set(row, column, 1 / target.length);
  });
}

/** @param {number} first @param {number} end */
const range = (first, end) => Array.from({ length: Math.max(0, end - first) }, (_, i) => first + i);

/**
 * M: which source token lends its map to each target token in a word swap. Every row sums to 1.
 * @param {Reading} source @param {Reading} target
 */
export function replacement(source, target) {
  if (source.words.length !== target.words.length) throw new Sentence(
    `A word swap needs as many words on both sides; there are ${source.words.length} and ${target.words.length}. ` +
    "Swap words one for one, or choose refinement, which adds and removes words.");
  const matrix = new Matrix(source.length);
  matrix.set(0, 0, 1);
  source.words.forEach((word, i) => spread(matrix, word.tokens, target.words[i].tokens));
  const from = range(source.end, source.length), to = range(target.end, target.length);
  const shared = Math.min(from.length, to.length) - 1;
  spread(matrix, from.slice(0, shared), to.slice(0, shared));
  spread(matrix, from.slice(shared), to.slice(shared));
  return matrix;
}

/**
 * The pairs (i, j) of equal items in the best alignment (Needleman–Wunsch: gap 0, match 1, mismatch −1), the last of several.
 * @param {string[]} source @param {string[]} target
 * @returns {[number, number][]}
 */
export function matches(source, target) {
  const score = Array.from({ length: source.length + 1 }, () => new Array(target.length + 1).fill(0));
  for (let i = 1; i <= source.length; i++) for (let j = 1; j <= target.length; j++) {
    const same = source[i - 1] === target[j - 1] ? 1 : -1;
    score[i][j] = Math.max(score[i - 1][j - 1] + same, score[i - 1][j], score[i][j - 1]);
  }
  /** @type {[number, number][]} */
  const pairs = [];
  let i = source.length, j = target.length;
  while (i && j) {
    if (source[i - 1] === target[j - 1] && score[i][j] === score[i - 1][j - 1] + 1) pairs.unshift([--i, --j]);
    else if (score[i][j] === score[i][j - 1]) j--;
    else i--;
  }
  return pairs;
}

/** Which words of two prompts are the same ones. @param {Reading} source @param {Reading} target */
export const unchanged = (source, target) =>
  matches(source.words.map(word => word.spelling), target.words.map(word => word.spelling));

/**
 * P: which tokens of a refined prompt were in the source prompt. Columns of new words are zero; padding keeps its position.
 * @param {Reading} source @param {Reading} target
 */
export function refinement(source, target) {
  const matrix = new Matrix(source.length);
  matrix.set(0, 0, 1);
  for (const [i, j] of unchanged(source, target)) spread(matrix, source.words[i].tokens, target.words[j].tokens);
  matrix.set(source.end, target.end, 1);
  for (const token of range(target.end + 1, target.length)) matrix.set(token, token, 1);
  return matrix;
}
