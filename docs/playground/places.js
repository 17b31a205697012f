// Where the UNet runs: on the GPU where a timed step is faster there, else in WebAssembly.
import { isLost } from "./errors.js";

/**
 * @typedef {"wasm" | "webgpu"} Place
 * @typedef {import("./engine.js").Engine} Engine
 * @typedef {{ place: Place, gpu: string | null }} Choice the faster place, and the GPU that it was timed with
 */

const LIBRARIES = { wasm: "./lib/ort.wasm.min.mjs", webgpu: "./lib/ort.webgpu.min.mjs" };
const MOST_THREADS = 4; // more bring nothing to a model of this size
const STEPS = 2, ROWS = 5; // timed steps, of a first run with guidance
const APART = 0.05; // of noise, whose values are of size 1

/** The library for a place; that for the GPU is large, so it comes only where it is used. @param {Place} place */
export async function runtime(place) {
  const ort = await import(LIBRARIES[place]);
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = new URL("./lib/", import.meta.url).href;
  return ort;
}

/** How a session of a part is made. @param {Place} place @param {string} part */
export const options = (place, part) => ({
  executionProviders: [part === "unet" ? place : "wasm"],
  graphOptimizationLevel: "basic", // further levels take seconds here and make no step faster
});

/**
 * An engine in the place that is wanted, or in the faster one. Where the GPU is not that of the last visit, both are timed again.
 * @param {(place: Place) => Promise<Engine>} make
 * @param {Place | null} wanted
 * @param {Choice | null} last
 * @param {(gpu: string | null) => void} trying called before the GPU is asked for anything
 * @returns {Promise<Choice & { engine: Engine }>}
 */
export async function fastest(make, wanted, last, trying) {
  const gpu = await gpuName(), known = wanted ?? (last?.gpu === gpu ? last.place : null);
  if (known === "webgpu") trying(gpu);
  if (known) try {
    return { engine: await make(known), place: known, gpu };
  } catch { /* it worked another time; what works now? */ }
  const engine = await make("wasm");
  if (!gpu) return { engine, place: "wasm", gpu };
  trying(gpu);
  try {
    const other = await make("webgpu"), there = await timed(other), here = await timed(engine);
    const isFaster = there.seconds < here.seconds && isSame(there.noise, here.noise);
    release(isFaster ? engine : other);
    return isFaster ? { engine: other, place: "webgpu", gpu } : { engine, place: "wasm", gpu };
  } catch (error) { // drivers fail in many ways, and the other place works
    return { engine, place: "wasm", gpu: isLost(error) ? "untried" : gpu };
  }
}

/** Gives back the memory of the slower one. @param {Engine} engine */
const release = engine => Object.values(engine.sessions).forEach(session => session.release());

/** What the browser says of its GPU; null where there is none, or a program that plays one. */
async function gpuName() {
  const { gpu } = /** @type {any} */ (navigator);
  const adapter = await gpu?.requestAdapter().catch(() => null), info = adapter?.info ?? {};
  if (!adapter || (info.isFallbackAdapter ?? adapter.isFallbackAdapter)) return null;
  return JSON.stringify([info.vendor, info.architecture, info.device, info.description]);
}

/** A step after one to warm up: its seconds, and what comes of it. @param {Engine} engine */
async function timed(engine) {
  const { latent, text } = engine.model, size = (/** @type {number[]} */ shape) => shape.reduce((a, b) => a * b);
  const rows = Array.from({ length: ROWS }, (_, lender) => ({ lender, latent: new Float32Array(size(latent)),
    text: new Float32Array(size(text)), asked: engine.idle }));
  const noise = (await engine.run(rows, 1)).noise[0].slice(), begun = performance.now();
  for (let step = 0; step < STEPS; step++) await engine.run(rows, 1);
  return { seconds: (performance.now() - begun) / 1000 / STEPS, noise };
}

/** Whether two places come to the same result; a driver may be fast and wrong. @param {Float32Array} one @param {Float32Array} other */
const isSame = (one, other) => one.every((value, i) => Math.abs(value - other[i]) <= APART); // false for NaN

/** The place that the address asks for, as ?on=wasm. */
export function placeWanted() {
  const said = new URLSearchParams(location.search).get("on");
  return said === "wasm" || said === "webgpu" ? said : null;
}

/** @returns {Choice | null} of an earlier visit */
export const lastChoice = () => stored(() => JSON.parse(localStorage.getItem("place") ?? "null"));

/** @param {Choice | null} choice to begin with the next time, or none */
export const rememberChoice = choice => stored(() => localStorage.setItem("place", JSON.stringify(choice)));

/** What a store answers that private windows may not have. @template T @param {() => T} ask */
function stored(ask) {
  try {
    return ask();
  } catch {
    return null;
  }
}
