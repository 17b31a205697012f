// The colours of words and of maps, as in the course's figures (p2p_helpers/view/figures.py).
const SMALL_WORDS = new Set(["a", "an", "the", "of", "in", "on", "at", "with", "and"]);
const GREY = "#5e5e66", FIRST = 1948; // from here on, words that often meet differ
const SHADES = [[0.9, 0.16], [0.55, 0.13], [0.95, 0.05]]; // saturation and luminance
const HEAT = [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]]; // magma, through five of its colours

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

/** CRC-32, as zlib has it. @param {Uint8Array} bytes @param {number} [before] of what came before */
export const crc32 = (bytes, before = 0) => ~bytes.reduce((crc, byte) => TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8), ~before) >>> 0;

/** @param {number} hue @param {number} saturation @param {number} value all 0…1 */
const rgb = (hue, saturation, value) => [5, 3, 1].map(shift => {
  const k = (shift + 6 * hue) % 6;
  return value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1));
});

/** @param {number[]} colour */
const luminance = colour => colour.map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);

/** The colour of a word in every figure; grey for small words. @param {string} word */
export function wordColour(word) {
  const name = word.trim().toLowerCase();
  if (SMALL_WORDS.has(name) || !/\p{L}/u.test(name)) return GREY;
  const number = crc32(new TextEncoder().encode(name), FIRST);
  const [saturation, darkness] = SHADES[Math.floor(number / 36) % 3];
  let value = 0.98;
  while (value > 0.1 && luminance(rgb(number % 36 / 36, saturation, value)) >= darkness) value -= 0.01;
  return "#" + rgb(number % 36 / 36, saturation, value).map(c => Math.round(255 * c).toString(16).padStart(2, "0")).join("");
}

/** The colour of a share, 0…1. @param {number} share */
export function heat(share) {
  const x = Math.min(Math.max(share, 0), 0.9999) * (HEAT.length - 1), i = Math.floor(x);
  return HEAT[i].map((c, k) => c + (x - i) * (HEAT[i + 1][k] - c));
}
