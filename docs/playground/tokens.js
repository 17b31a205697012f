// Words of a prompt and the positions of their tokens, as p2p_helpers/prompts has them.
import { Sentence } from "./errors.js";

/**
 * @typedef {{ text: string, spelling: string, place: number, tokens: number[] }} Word and where it begins in the prompt
 * @typedef {string | [string, number]} Phrase "cat" every time it occurs; ["cat", 2] the second
 * @typedef {{ encode(text: string): { ids: number[], tokens: string[] }, token_to_id(token: string): number | undefined }} Tokenizer
 */

const SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const APOSTROPHES = "'’‘ʼ＇", HYPHENS = "\\-‐‑";
const LETTER = "(?!ʼ)[\\p{L}\\p{N}]";
const JOINED = `${LETTER}(?:${LETTER}|\\p{M})*`;
// Letters and digits with their accents, joined by single hyphens and apostrophes; or a run of anything else.
const WORD = new RegExp(`${JOINED}(?:[${APOSTROPHES}${HYPHENS}]${JOINED})*|(?:(?!${LETTER})[^${SPACE}])+`, "gu");
const IS_LETTER = new RegExp(`^${LETTER}`, "u");
const END = "</w>"; // of a word, in CLIP's vocabulary

/** What all spellings of one word share. @param {string} text */
export const spelling = text => text.normalize("NFC")
  .replace(new RegExp(`[${APOSTROPHES}]`, "gu"), "'")
  .replace(new RegExp(`[${HYPHENS}]`, "gu"), "-")
  .toLowerCase();

/** @param {string} text */
const bytes = text => new TextEncoder().encode(text).length;

/** One prompt as the text encoder reads it. */
export class Reading {
  /**
   * @param {Tokenizer} tokenizer
   * @param {string} prompt
   * @param {number} length positions that the text encoder has
   * @param {string} padding the token that fills them
   */
  constructor(tokenizer, prompt, length, padding) {
    const text = prompt.normalize("NFC");
    const { ids, tokens } = tokenizer.encode(text);
    this.prompt = prompt;
    this.text = text;
    this.length = length;
    /** @type {number} the position of the end token */
    this.end = ids.length - 1;
    /** @type {Word[]} */
    this.words = owned(text, tokens.slice(1, -1));
    if (ids.length > length) throw new Sentence(tooLong(ids.length, length, this.words));
    const fill = tokenizer.token_to_id(padding) ?? ids[this.end];
    /** @type {number[]} */
    this.ids = [...ids, ...Array(length - ids.length).fill(fill)];
  }

  /**
   * Token positions of a phrase.
   * @param {Phrase} phrase
   * @param {(text: string) => string[]} [split] the spellings of a phrase's words
   * @returns {number[]}
   */
  find(phrase, split = wordsOf) {
    const [text, number] = Array.isArray(phrase) ? phrase : [phrase, 0];
    const wanted = split(text);
    const starts = this.words.map((_, place) => place).filter(place =>
      wanted.length && wanted.every((word, i) => this.words[place + i]?.spelling === word));
    const chosen = number ? starts.slice(number - 1, number) : starts;
    if (!chosen.length) {
      const names = this.words.map(word => word.text).join(", ");
      throw new Sentence(`“${text}” is not in “${this.prompt}”${number ? ` ${number} times` : ""}. Its words are: ${names}.`);
    }
    const places = new Set(chosen.flatMap(start => wanted.map((_, i) => start + i)));
    return [...places].sort((a, b) => a - b).flatMap(place => this.words[place].tokens);
  }

  /** @param {Phrase} phrase */
  has(phrase) {
    try {
      return this.find(phrase).length > 0;
    } catch {
      return false;
    }
  }

  /** Each word as a phrase that means no other one. @returns {Phrase[]} */
  get phrases() {
    return this.words.map(word => {
      const same = this.words.filter(other => other.spelling === word.spelling);
      return same.length > 1 ? [word.text, same.indexOf(word) + 1] : word.text;
    });
  }
}

/** The spellings of a text's words. @param {string} text */
export const wordsOf = text => [...text.normalize("NFC").matchAll(WORD)].map(match => spelling(match[0]));

/**
 * The words of a text with their tokens.
 *
 * Words hold everything but white space, and so do tokens, byte by byte and in the same order. So it is enough to count
 * bytes. A token over two words belongs to the one that begins with a letter.
 * @param {string} text
 * @param {string[]} tokens without start and end
 * @returns {Word[]}
 */
function owned(text, tokens) {
  let at = 0;
  const spans = [...text.matchAll(WORD)].map(match => {
    const start = at;
    at += bytes(match[0].toLowerCase());
    return { text: match[0], spelling: spelling(match[0]), place: match.index, start, end: at, tokens: /** @type {number[]} */ ([]) };
  });
  let done = 0;
  tokens.forEach((token, number) => {
    const start = done;
    done += token.endsWith(END) ? token.length - END.length : token.length;
    const touched = spans.filter(span => span.start < done && span.end > start);
    const owner = touched.find(span => IS_LETTER.test(span.text)) ?? touched[0];
    owner?.tokens.push(number + 1);
  });
  if (done !== at) throw new Sentence(`“${text}” has characters that this page cannot read. Write plain letters.`);
  return spans.filter(span => span.tokens.length).map(({ text, spelling, place, tokens }) => ({ text, spelling, place, tokens }));
}

/** @param {number} count @param {number} length @param {Word[]} words */
function tooLong(count, length, words) {
  const lost = words.filter(word => word.tokens.some(token => token >= length - 1));
  return `The prompt has ${count} tokens with its start and end; the text encoder reads ${length}. ` +
    `It would not see: ${lost.map(word => word.text).join(" ")}. Shorten the prompt.`;
}

/** Words that the model has never seen. @param {Reading} reading @param {string[]} known none where the model does not say */
export const unknown = (reading, known) => known.length
  ? reading.words.filter(({ text }) => IS_LETTER.test(text) && !known.includes(text.toLowerCase())) : [];
