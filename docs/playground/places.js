// Where the UNet runs: on the GPU where a timed step is faster there, else in WebAssembly.

/**
 * @typedef {"wasm" | "webgpu"} Place
 * @typedef {import("./engine.js").Engine} Engine
 */

const LIBRARIES = { wasm: "./lib/ort.wasm.min.mjs", webgpu: "./lib/ort.webgpu.min.mjs" };
const MOST_THREADS = 4; // more bring nothing to a model of this size
const STEPS = 2, ROWS = 5; // timed steps, of a first run with guidance

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
 * An engine in the place that is wanted, or in the faster one.
 * @param {(place: Place) => Promise<Engine>} make
 * @param {Place | null} wanted
 * @returns {Promise<{ engine: Engine, place: Place }>}
 */
export async function fastest(make, wanted) {
  if (wanted) try {
    return { engine: await make(wanted), place: wanted };
  } catch { /* it worked another time; what works now? */ }
  const engine = await make("wasm");
  if (!(await hasGpu())) return { engine, place: "wasm" };
  try {
    const other = await make("webgpu"), there = await seconds(other), here = await seconds(engine);
    return there < here ? { engine: other, place: "webgpu" } : { engine, place: "wasm" };
  } catch {
    return { engine, place: "wasm" }; // drivers fail in many ways, and the other place works
  }
}

/** Whether there is a GPU, and not a program that plays one. */
async function hasGpu() {
  const { gpu } = /** @type {any} */ (navigator);
  const adapter = await gpu?.requestAdapter().catch(() => null);
  return !!adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

/** Of a step, after one to warm up. @param {Engine} engine */
async function seconds(engine) {
  const { latent, text } = engine.model, size = (/** @type {number[]} */ shape) => shape.reduce((a, b) => a * b);
  const rows = Array.from({ length: ROWS }, (_, lender) => ({ lender, latent: new Float32Array(size(latent)),
    text: new Float32Array(size(text)), asked: engine.idle }));
  await engine.run(rows, 1);
  const begun = performance.now();
  for (let step = 0; step < STEPS; step++) await engine.run(rows, 1);
  return (performance.now() - begun) / 1000 / STEPS;
}

/** The place that the address asks for, as ?on=wasm, or that was the faster one in an earlier visit. */
export function placeWanted() {
  const said = new URLSearchParams(location.search).get("on") ?? stored(() => localStorage.getItem("place"));
  return said === "wasm" || said === "webgpu" ? said : null;
}

/** @param {Place | null} place to begin with the next time, or none */
export const rememberPlace = place => stored(() => place ? localStorage.setItem("place", place) : localStorage.removeItem("place"));

/** What a store answers that private windows may not have. @template T @param {() => T} ask */
function stored(ask) {
  try {
    return ask();
  } catch {
    return null;
  }
}
