// The models, away from the page, so that it stays awake: it is told what to make and tells how far it is.
import { Engine } from "./engine.js";
import { isLost, Sentence } from "./errors.js";
import { Tokenizer } from "./lib/tokenizers.min.mjs";
import { fastest, options, runtime } from "./places.js";

/**
 * @typedef {import("./engine.js").Request} Request
 * @typedef {import("./places.js").Place} Place
 */

const PARTS = ["unet", "text", "decoder", "encoder"];
class Cancelled extends Error {}

/** @type {Engine | null} */
let engine = null;
let newest = 0; // the number of the last request; older ones end

/** @param {string} name @param {object} what @param {Transferable[]} [moved] */
const say = (name, what, moved = []) => postMessage({ name, ...what }, { transfer: moved });

/** Lets messages in, and ends what nobody waits for. @param {number} number */
async function breathe(number) {
  await new Promise(resolve => setTimeout(resolve));
  if (number !== newest) throw new Cancelled();
}

/** @param {string} path */
async function fetched(path) {
  const answer = await fetch(new URL(path, import.meta.url), { cache: "no-cache" }).catch(() => null);
  if (!answer?.ok) throw new Sentence(
    `The file ${path} did not come${answer ? ` (${answer.status})` : ""}. Check the connection, then load the page again.`);
  return answer;
}

/** @param {string} path @param {(bytes: number) => void} came */
async function bytes(path, came) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ ((await fetched(path)).body).getReader();
  /** @type {BlobPart[]} */
  const parts = [];
  for (;;) {
    const { done, value } = await reader.read().catch(() => {
      throw new Sentence("The connection was lost while the model came. Load the page again.");
    });
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(/** @type {Uint8Array<ArrayBuffer>} */ (value));
    came(value.length);
  }
}

/**
 * Whether a file is the one that model.json names. Browsers make digests only over https and on localhost.
 * @param {Uint8Array<ArrayBuffer>} content @param {{ bytes: number, sha256: string }} file
 */
async function belongs(content, { bytes, sha256 }) {
  if (content.length !== bytes) return false;
  if (!crypto.subtle) return true;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return sha256 === [...digest].map(byte => byte.toString(16).padStart(2, "0")).join("");
}

/** Forgets the files that are kept, so that the next visit asks for all of them. */
async function forget() {
  const names = await globalThis.caches?.keys().catch(() => []) ?? [];
  await Promise.all(names.filter(name => name.startsWith("p2p-")).map(name => caches.delete(name)));
}

/** @param {Place | null} wanted where the UNet is to run @param {import("./places.js").Choice | null} last of an earlier visit */
async function load(wanted, last) {
  const begun = performance.now();
  const json = async (/** @type {string} */ path) => (await fetched(path)).json();
  const [model, words, config] = await Promise.all(["model/model.json", "model/tokenizer.json", "model/tokenizer_config.json"].map(json));
  say("model", { model, words, config });
  const all = PARTS.reduce((sum, part) => sum + model.files[`${part}.onnx`].bytes, 0);
  let here = 0, threads = 1;
  /** @type {Record<string, Uint8Array>} */
  const graphs = {};
  for (const part of PARTS) {
    const name = `${part}.onnx`, content = await bytes(`model/${name}`, more => say("loading", { here: here += more, all }));
    if (!await belongs(content, model.files[name])) {
      await forget();
      throw new Sentence(`The file ${name} is not the one that belongs to this page. Load the page again.`);
    }
    graphs[part] = content;
  }
  say("starting", {});
  const found = await fastest(async place => {
    const ort = await runtime(place);
    threads = ort.env.wasm.numThreads;
    /** @type {Record<string, any>} */
    const sessions = {};
    for (const part of PARTS) sessions[part] = await ort.InferenceSession.create(graphs[part], options(place, part));
    return new Engine(ort, sessions, model, new Tokenizer(words, config), config.pad_token);
  }, wanted, last, gpu => say("trying", { gpu }));
  engine = found.engine;
  say("loaded", { seconds: (performance.now() - begun) / 1000, place: found.place, gpu: found.gpu, threads });
}

/** @param {number} number @param {Request} request */
async function edit(number, request) {
  if (!engine) throw new Sentence("The model is not here yet.");
  const begun = performance.now();
  await breathe(number);
  const result = await engine.edit(request, async progress => {
    say("progress", { number, ...progress });
    await breathe(number);
  });
  say("done", { number, ...result, seconds: (performance.now() - begun) / 1000 });
}

/** What to say of an error. @param {unknown} error */
function sentence(error) {
  if (error instanceof Sentence) return error.message;
  const said = error instanceof Error ? error.message : String(error);
  if (/out of memory|not enough memory|bad_alloc|allocat/i.test(said)) return `There is not enough memory for the model: close other tabs and load the page again. (${said})`;
  if (!computes()) return `This browser does not run WebAssembly with vectors (SIMD), which the model needs. Take a current Firefox, Chrome or Safari. (${said})`;
  if (isLost(error)) return `A part of the editor did not come. Check the connection, then load the page again. (${said})`;
  return `Something went wrong that should not: ${said}. Load the page again.`;
}

/** Whether there is WebAssembly, with the vectors that the runtime needs: a module with one function that makes one. */
const computes = () => typeof WebAssembly === "object" && WebAssembly.validate(Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11));

/** @param {any} data a message */
async function handled(data) {
  try {
    if (data.name === "load") await load(data.wanted, data.last);
    if (data.name === "edit") await edit(data.number, data.request);
  } catch (error) {
    if (error instanceof Cancelled) say("cancelled", { number: data.number });
    else say("failed", { number: data.number ?? 0, message: sentence(error), fatal: !engine, expected: error instanceof Sentence });
  }
}

let before = Promise.resolve(); // one thing at a time: the GPU's library cannot do two
onmessage = ({ data }) => {
  newest = data.number ?? newest;
  before = before.then(() => handled(data));
};
