// One edit from prompts to pictures: which rows run in a step, what they ask for, and what comes of them. It knows no page.
import { Matrix } from "./align.js";
import { LocalBlend, restored } from "./blend.js";
import { activeSteps, composed, refine, replace, reweight } from "./edits.js";
import { randn } from "./random.js";
import { back, guided, move, steps as stepsOf } from "./sampler.js";
import { Reading } from "./tokens.js";

/**
 * @typedef {import("./tokens.js").Phrase} Phrase
 * @typedef {{ files: Record<string, { bytes: number, sha256: string }>, latent: [number, number, number], picture: [number, number],
 *   text: [number, number], maps: [number, number], self_pixels: number, guidance_scale: number, known_words: string[],
 *   noise: import("./sampler.js").Noise }} Model
 * @typedef {{ id: string, pixels: Float32Array }} Picture planes of red, green and blue, 0…1
 * @typedef {{ source: string, target: string, kind: "swap" | "refine", cross: number, self: number, weights: [Phrase, number][],
 *   seed: number, steps: number, guidance: number, blend: Phrase[], free: boolean, picture?: Picture | null }} Request
 * @typedef {{ latents: Float32Array[], maps: Float32Array[] }} Trajectory after every step, noise first; maps of every step
 * @typedef {{ name: string, text: Float32Array, known: boolean, path: Trajectory }} Player one picture of a run
 * @typedef {{ doing: "inversion" | "edit", step: number, steps: number, pictures: Record<string, Uint8ClampedArray> }} Progress
 * @typedef {{ pictures: Record<string, Uint8ClampedArray>, maps: Record<string, Float32Array>, mask: boolean[] | null }} Result
 */

const FADERS = 0.8; // the share of the steps in which words are turned up and down, Reweight's own
const SHOWN_EVERY = 700; // ms between two pictures of the way, or more where they take long
const SHARE = 0.2; // of the time that they may take
const KEPT = 8; // trajectories

/** @param {Request} request the edit of its target */
export function editOf({ kind, cross, weights }) {
  const words = kind === "swap" ? replace(cross) : refine(cross);
  return weights.length ? composed(words, reweight(weights, FADERS)) : words;
}

/** @typedef {[Matrix, Matrix, number]} Asked S, T and the largest map to be injected, in pixels */

export class Engine {
  /**
   * @param {any} ort onnxruntime-web
   * @param {Record<string, any>} sessions of the graphs: unet, text, decoder, encoder
   * @param {Model} model
   * @param {import("./tokens.js").Tokenizer} tokenizer
   * @param {string} padding its token for padding
   */
  constructor(ort, sessions, model, tokenizer, padding) {
    this.ort = ort;
    this.sessions = sessions;
    this.model = model;
    this.read = (/** @type {string} */ prompt) => new Reading(tokenizer, prompt, model.text[0], padding);
    /** @type {Asked} what a picture asks for that borrows nothing */
    this.idle = [new Matrix(model.text[0]), Matrix.identity(model.text[0]), 0];
    /** @type {Map<string, Trajectory>} */
    this.kept = new Map();
  }

  /**
   * The pictures of an edit: source, edit, and where asked the target with the same noise and no control.
   * @param {Request} request
   * @param {(progress: Progress) => Promise<void>} report called in every step; what it throws ends the run
   * @returns {Promise<Result>}
   */
  async edit(request, report) {
    const [source, target] = [this.read(request.source), this.read(request.target)], count = request.steps;
    const { s, t } = editOf(request)(source, target, count), injected = activeSteps(request.self, count, count);
    const blend = request.blend.length ? new LocalBlend(request.blend, source, target, this.model) : null;
    const { players, plain } = await this.players(request, source, target, report);
    const preview = paced((/** @type {Record<string, Float32Array>} */ seen) => this.decode(seen));
    for (const [number, step] of stepsOf(this.model.noise, count).entries()) {
      /** @type {Asked} */
      const asked = [s[number], t[number], injected[number] ? this.model.self_pixels : 0];
      const found = await this.predict(players, plain, number, step.time, request.guidance, asked);
      const seen = this.advance(players, found, step, number);
      blend?.after(number, count, players[0].path, players[1].path);
      const pictures = number < count - 1 ? await preview(seen) : {};
      await report({ doing: "edit", step: number + 1, steps: count, pictures });
    }
    return this.finished(request, players, blend?.mask ?? null);
  }

  /**
   * Who is in a run, source first, and the text of no prompt.
   * @param {Request} request @param {Reading} source @param {Reading} target @param {(progress: Progress) => Promise<void>} report
   */
  async players(request, source, target, report) {
    const keys = keysOf(request), { picture, seed, steps } = request;
    const [plain, ...texts] = await this.texts([this.read(""), source, target]);
    if (picture && !this.kept.has(keys.source))
      this.keep(keys.source, { latents: await this.invert(picture, texts[0], steps, report), maps: [] });
    const noise = this.kept.get(keys.source)?.latents[0] ?? randn(seed, size(this.model.latent));
    const player = (/** @type {string} */ name, /** @type {Float32Array} */ text, /** @type {string} */ key) => {
      const path = this.kept.get(key);
      return { name, text, known: !!path, path: path ?? { latents: [noise], maps: [] } };
    };
    const players = [player("source", texts[0], keys.source), player("edit", texts[1], "")];
    return { plain, players: request.free ? [...players, player("free", texts[1], keys.free)] : players };
  }

  /**
   * The next latent of every picture that is not known; gives how their ends are seen from here.
   * @param {Player[]} players @param {Record<string, { noise: Float32Array, maps: Float32Array }>} found
   * @param {import("./sampler.js").Step} step @param {number} number
   */
  advance(players, found, step, number) {
    /** @type {Record<string, Float32Array>} */
    const seen = {};
    for (const { name, known, path } of players) {
      if (found[name]) path.maps[number] ??= found[name].maps;
      if (known) continue;
      const moved = move(this.model.noise, step, path.latents[number], found[name].noise);
      path.latents.push(moved.latent);
      seen[name] = moved.seen;
    }
    return seen;
  }

  /**
   * The trajectory of a picture, noise first, by DDIM's steps backwards without guidance.
   * @param {Picture} picture @param {Float32Array} text @param {number} count @param {(progress: Progress) => Promise<void>} report
   */
  async invert(picture, text, count, report) {
    const { model } = this;
    const given = { pictures: this.tensor(picture.pixels, [1, 3, ...model.picture]) };
    const path = [Float32Array.from((await this.sessions.encoder.run(given)).latents.data)];
    for (const [number, step] of back(model.noise, count).entries()) {
      const player = { name: "picture", text, known: false, path: { latents: path, maps: [] } };
      const found = await this.predict([player], text, number, step.time, 1, this.idle);
      path.push(move(model.noise, step, path[number], found.picture.noise).latent);
      await report({ doing: "inversion", step: number + 1, steps: count, pictures: {} });
    }
    return path.reverse();
  }

  /**
   * The noise that the model sees, with guidance, and the maps of each picture's prompt. Only rows that something needs run.
   * @param {Player[]} players @param {Float32Array} plain the text of no prompt @param {number} number of the step @param {number} time
   * @param {number} guidance @param {Asked} asked by the edit
   * @returns {Promise<Record<string, { noise: Float32Array, maps: Float32Array }>>}
   */
  async predict(players, plain, number, time, guidance, asked) {
    const moving = players.filter(player => !player.known), borrowing = borrows(asked), guides = guidance > 1;
    const needed = players.filter(({ name, known, path }) => !known || (name === "source" && (borrowing || !path.maps[number])));
    const rows = [...(guides ? moving : []).map(({ path }) => ({ path, text: plain, asked: this.idle })),
      ...needed.map(({ name, path, text }) => ({ path, text, asked: name === "edit" ? asked : this.idle }))];
    const first = rows.length - needed.length, lender = first + needed.findIndex(player => player.name === "source");
    const { noise, maps } = await this.run(rows.map(({ path, text, asked }, row) =>
      ({ latent: path.latents[number], text, asked, lender: borrows(asked) ? lender : row })), time);
    return Object.fromEntries(needed.map((player, i) => {
      const row = first + i, plainRow = guides ? moving.indexOf(player) : -1;
      return [player.name, { noise: plainRow < 0 ? noise[row] : guided(noise[plainRow], noise[row], guidance), maps: maps[row].slice() }];
    }));
  }

  /** One call of the UNet. @param {{ latent: Float32Array, text: Float32Array, asked: Asked, lender: number }[]} rows @param {number} time */
  async run(rows, time) {
    const { model, ort } = this, batch = rows.length, side = model.text[0];
    const found = await this.sessions.unet.run({
      latents: this.tensor(joined(rows.map(row => row.latent)), [batch, ...model.latent]),
      timestep: this.tensor(Float32Array.of(time), [1]),
      text: this.tensor(joined(rows.map(row => row.text)), [batch, ...model.text]),
      lender: new ort.Tensor("int64", BigInt64Array.from(rows, row => BigInt(row.lender)), [batch]),
      s: this.tensor(joined(rows.map(row => row.asked[0].values)), [batch, side, side]),
      t: this.tensor(joined(rows.map(row => row.asked[1].values)), [batch, side, side]),
      limit: this.tensor(Float32Array.from(rows, row => row.asked[2]), [batch]),
    });
    return { noise: split(found.noise.data, batch), maps: split(found.maps.data, batch) };
  }

  /** Prompts as the text encoder gives them to the UNet. @param {Reading[]} readings @returns {Promise<Float32Array[]>} */
  async texts(readings) {
    const tokens = BigInt64Array.from(readings.flatMap(reading => reading.ids), BigInt);
    const found = await this.sessions.text.run({ tokens: new this.ort.Tensor("int64", tokens, [readings.length, this.model.text[0]]) });
    return split(found.text.data, readings.length).map(text => text.slice());
  }

  /** Pictures of latents, as RGBA. @param {Record<string, Float32Array>} latents */
  async decode(latents) {
    const names = Object.keys(latents);
    if (!names.length) return {};
    const given = this.tensor(joined(Object.values(latents)), [names.length, ...this.model.latent]);
    const pictures = split((await this.sessions.decoder.run({ latents: given })).pictures.data, names.length);
    return Object.fromEntries(names.map((name, i) => [name, rgba(pictures[i])]));
  }

  /** @param {Request} request @param {Player[]} players @param {boolean[] | null} mask @returns {Promise<Result>} */
  async finished(request, players, mask) {
    const keys = keysOf(request), [, height, width] = this.model.latent;
    this.keep(keys.source, players[0].path);
    if (players[2]) this.keep(keys.free, players[2].path);
    const pictures = await this.decode(Object.fromEntries(players.map(({ name, path }) => [name, path.latents[request.steps]])));
    if (request.picture && mask)
      pictures.edit = restored(rgba(request.picture.pixels), pictures.edit, mask, [height, width], this.model.picture);
    const maps = Object.fromEntries(players.map(({ name, path }) => [name, mean(path.maps)]));
    return { pictures, maps, mask };
  }

  /** The one used last is the last to be forgotten. @param {string} key @param {Trajectory} path */
  keep(key, path) {
    this.kept.delete(key);
    this.kept.set(key, path);
    while (this.kept.size > KEPT) this.kept.delete(/** @type {string} */ (this.kept.keys().next().value));
  }

  /** @param {Float32Array} values @param {number[]} shape */
  tensor(values, shape) {
    return new this.ort.Tensor("float32", values, shape);
  }
}

/** @param {number[]} shape */
const size = shape => shape.reduce((a, b) => a * b);

/** @param {Float32Array[]} parts */
function joined(parts) {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return whole;
}

/** @param {Float32Array} whole @param {number} count */
const split = (whole, count) =>
  Array.from({ length: count }, (_, i) => whole.subarray(i * whole.length / count, (i + 1) * whole.length / count));

/** @param {Float32Array[]} all */
const mean = all => all[0].map((_, i) => all.reduce((sum, one) => sum + one[i], 0) / all.length);

/** Whether anything is taken from the source. @param {Asked} asked */
const borrows = ([s, , limit]) => limit > 0 || s.values.some(Boolean);

/** Under which names the trajectories of a run are kept. @param {Request} request */
function keysOf({ source, target, seed, steps, guidance, picture }) {
  const start = `${picture ? `${picture.id} ${source}` : `seed ${seed}`} · ${steps}`, run = `${start} · ${guidance}`;
  return { source: picture ? start : `${run} · ${source}`, free: `${run} · ${target} · free` }; // an inversion has no guidance
}

/**
 * The pictures of the way, now and then: often enough to watch, seldom enough not to slow the run.
 * @param {(seen: Record<string, Float32Array>) => Promise<Record<string, Uint8ClampedArray>>} decode
 */
function paced(decode) {
  let shown = performance.now(), cost = 0;
  return async (/** @type {Record<string, Float32Array>} */ seen) => {
    const now = performance.now();
    if (now - shown < Math.max(SHOWN_EVERY, cost / SHARE)) return {};
    const pictures = await decode(seen);
    shown = performance.now();
    cost = shown - now;
    return pictures;
  };
}

/** Planes of red, green and blue, 0…1, as RGBA. @param {Float32Array} planes */
export function rgba(planes) {
  const pixels = planes.length / 3, out = new Uint8ClampedArray(4 * pixels).fill(255);
  for (let plane = 0; plane < 3; plane++) for (let i = 0; i < pixels; i++) out[4 * i + plane] = 255 * planes[plane * pixels + i];
  return out; // rounded by the array
}
