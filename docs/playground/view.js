// What is drawn: pictures with maps over them, and words with their sliders.
import { heat, wordColour } from "./colours.js";
import { find } from "./page.js";

/**
 * @typedef {import("./tokens.js").Reading} Reading
 */

/**
 * A picture, and over it the map of a word, where one is given.
 * @param {string} name "source", "edit" or "free"
 * @param {Uint8ClampedArray} pixels RGBA
 * @param {[number, number]} size rows and columns
 * @param {string} said
 * @param {{ map: Float32Array, grid: [number, number] } | null} [over]
 */
export function draw(name, pixels, size, said, over = null) {
  const canvas = /** @type {HTMLCanvasElement} */ (find(`picture-${name}`)), context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  if (canvas.width !== size[1] || canvas.height !== size[0]) Object.assign(canvas, { width: size[1], height: size[0] });
  canvas.setAttribute("aria-label", said);
  const shown = over ? greyed(pixels) : pixels;
  context.putImageData(new ImageData(new Uint8ClampedArray(shown), size[1], size[0]), 0, 0);
  if (!over) return;
  const [rows, columns] = over.grid, small = new ImageData(columns, rows), most = over.map.reduce((a, b) => Math.max(a, b), 1e-8);
  over.map.forEach((value, i) => small.data.set([...heat(value / most), 190], 4 * i));
  const layer = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  layer.getContext("2d")?.putImageData(small, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(layer, 0, 0, canvas.width, canvas.height);
}

/** A place without a picture. @param {string} name @param {string} said */
export function empty(name, said) {
  const canvas = /** @type {HTMLCanvasElement} */ (find(`picture-${name}`));
  canvas.getContext("2d")?.clearRect(0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", said);
}

/** A picture of its own. @param {Uint8ClampedArray} pixels RGBA @param {[number, number]} size rows and columns */
export function canvasOf(pixels, [rows, columns]) {
  const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  canvas.getContext("2d")?.putImageData(new ImageData(new Uint8ClampedArray(pixels), columns, rows), 0, 0);
  return canvas;
}

/** @param {Uint8ClampedArray} pixels */
function greyed(pixels) {
  const out = new Uint8ClampedArray(pixels);
  for (let i = 0; i < out.length; i += 4) out[i] = out[i + 1] = out[i + 2] = 0.3 * pixels[i] + 0.59 * pixels[i + 1] + 0.11 * pixels[i + 2];
  return out;
}

/**
 * The words of a prompt as buttons; those of the target have sliders.
 * @param {HTMLElement} place
 * @param {Reading} reading
 * @param {Set<number>} changed
 * @param {import("./tokens.js").Word[]} strange words that the model has never seen
 * @param {(word: number | null, keep: boolean) => void} point
 * @param {{ weights: number[], turn: (word: number, weight: number) => void } | null} [faders]
 */
export function showWords(place, reading, changed, strange, point, faders = null) {
  place.replaceChildren(...reading.words.map((word, number) => {
    const box = Object.assign(document.createElement("div"), { className: changed.has(number) ? "word changed" : "word" });
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: word.text });
    button.setAttribute("aria-pressed", "false");
    button.style.setProperty("--word", wordColour(word.text));
    if (strange.includes(word)) Object.assign(button, { className: "strange", title: "unknown to this model" });
    button.onpointerenter = event => { if (event.pointerType === "mouse") point(number, false); };
    button.onpointerleave = button.onblur = () => point(null, false);
    button.onfocus = () => point(number, false);
    button.onclick = () => point(number, true);
    box.append(button);
    if (faders) box.append(...fader(word.text, faders.weights[number], weight => faders.turn(number, weight)));
    return box;
  }));
}

/** A weight with as many decimals as it needs, two at most. @param {number} weight */
const weightText = weight => String(Number(weight.toFixed(2)));

/** @param {string} name @param {number} weight @param {(weight: number) => void} turn */
function fader(name, weight, turn) {
  const low = Math.min(-2, Math.floor(weight)), high = Math.max(4, Math.ceil(weight));
  const slider = Object.assign(document.createElement("input"), { type: "range", min: `${low}`, max: `${high}`, step: "0.25", value: `${weight}` });
  slider.setAttribute("aria-label", `weight of ${name}`);
  const said = Object.assign(document.createElement("output"), { value: weightText(weight) });
  said.setAttribute("aria-live", "off"); // the slider says it
  slider.oninput = () => said.value = weightText(+slider.value);
  slider.onchange = () => turn(+slider.value);
  slider.ondblclick = () => { slider.value = said.value = "1"; turn(1); };
  return [slider, said];
}

/** The map of a word: of all its tokens. @param {Float32Array} maps (token, pixel) @param {number[]} tokens @param {number} pixels */
export function mapOf(maps, tokens, pixels) {
  const sum = new Float32Array(pixels);
  for (const token of tokens) sum.forEach((_, i) => sum[i] += maps[token * pixels + i]);
  return sum;
}

/**
 * What lines the two sentences up, in words.
 * @param {Reading} source @param {Reading} target @param {[number, number][]} same pairs of equal words @param {boolean} isSwap
 */
export function alignedText(source, target, same, isSwap) {
  const name = (/** @type {string} */ text) => `“${text}”`;
  if (isSwap) {
    if (source.words.length !== target.words.length) return ""; // there is no such swap
    const pairs = target.words.map((word, i) => [source.words[i], word]).filter(([old, word]) => old.spelling !== word.spelling);
    return pairs.map(([old, word]) => `${name(word.text)} takes the place of ${name(old.text)}.`).join(" ");
  }
  const old = new Set(same.map(([, place]) => place));
  const added = target.words.filter((_, place) => !old.has(place)).map(word => word.text);
  return added.length ? `New and free to look anywhere: ${name(added.join(" "))}. The other words look where they looked.` : "";
}

/** A file as a picture of the model's size: its middle, in planes of 0…1. @param {Blob} file @param {[number, number]} size */
export async function planesOf(file, [rows, columns]) {
  const image = await createImageBitmap(file, { imageOrientation: "from-image" });
  const canvas = new OffscreenCanvas(columns, rows), context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const scale = Math.max(columns / image.width, rows / image.height), wide = image.width * scale, high = image.height * scale;
  context.fillStyle = "white";
  context.fillRect(0, 0, columns, rows);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (columns - wide) / 2, (rows - high) / 2, wide, high);
  image.close();
  const { data } = context.getImageData(0, 0, columns, rows), pixels = rows * columns;
  return Float32Array.from({ length: 3 * pixels }, (_, i) => data[4 * (i % pixels) + Math.floor(i / pixels)] / 255);
}
