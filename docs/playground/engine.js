// One edit from prompts to pictures: which rows run in a step, what they ask for, and what comes of them. It knows no page.
import { Matrix } from "./align.js";
import { START, blended, lookedAt, restored } from "./blend.js";
import { activeSteps, nothing, refine, replace, reweight, then } from "./edits.js";
import { randn } from "./random.js";
import { back, guided, move, steps as stepsOf } from "./sampler.js";
import { Reading } from "./tokens.js";

/**
 * @typedef {import("./tokens.js").Phrase} Phrase
 * @typedef {{ files: Record<string, { bytes: number }>, latent: [number, number, number], picture: [number, number], text: [number, number],
 *   maps: [number, number], self_pixels: number, guidance_scale: number, known_words: string[], noise: import("./sampler.js").Noise }} Model
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
  return weights.length ? then(words, reweight(weights, FADERS)) : words;
}

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
    this.empty = this.read("");
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
    const { model } = this, count = request.steps;
    const [source, target] = [this.read(request.source), this.read(request.target)];
    const { s, t } = editOf(request)(source, target, count);
    const injected = activeSteps(request.self, count, count);
    const own = nothing(source, target, 1), none = own.s[0], same = own.t[0];
    const [plain, ...texts] = await this.texts([this.empty, source, target]);
    const start = request.picture ? `${request.picture.id} ${source.prompt}` : `seed ${request.seed}`;
    const key = `${start} · ${count} · ${request.guidance}`;
    if (request.picture && !this.kept.has(`${key} · ${source.prompt}`))
      this.kept.set(`${key} · ${source.prompt}`, { latents: await this.invert(request.picture, texts[0], count, report), maps: [] });
    const noise = this.kept.get(`${key} · ${source.prompt}`)?.latents[0] ?? randn(request.seed, size(model.latent));
    const players = [this.player("source", texts[0], `${key} · ${source.prompt}`, noise), this.player("edit", texts[1], "", noise)];
    if (request.free) players.push(this.player("free", texts[1], `${key} · ${target.prompt} · free`, noise));
    const looked = [source, target].map(reading => request.blend.filter(phrase => reading.has(phrase)).flatMap(phrase => reading.find(phrase)));
    for (const phrase of request.blend) if (!target.has(phrase)) source.find(phrase); // says what is not there
    const sums = looked.map(() => new Float32Array(size(model.maps)));
    let mask = null, shown = performance.now(), cost = 0;
    for (const [number, step] of stepsOf(model.noise, count).entries()) {
      const limit = injected[number] ? model.self_pixels : 0;
      const borrows = limit > 0 || s[number].values.some(Boolean);
      const found = await this.predict(players, plain, number, step.time, request.guidance, borrows,
        player => player.name === "edit" ? [s[number], t[number], limit] : [none, same, 0]);
      /** @type {Record<string, Float32Array>} */
      const seen = {};
      for (const player of players) {
        if (player.known && found[player.name]) player.path.maps[number] ??= found[player.name].maps;
        if (player.known) continue;
        const moved = move(model.noise, step, player.path.latents[number], found[player.name].noise);
        seen[player.name] = moved.seen;
        player.path.latents.push(moved.latent);
        player.path.maps.push(found[player.name].maps);
      }
      if (request.blend.length) {
        [players[0], players[1]].forEach(({ path }, i) => add(sums[i], path.maps[number], looked[i]));
        mask = this.mask(sums);
        if (number >= Math.trunc(START * count)) {
          const [from, to] = players.map(player => player.path.latents);
          to[number + 1] = blended(from[number + 1], to[number + 1], mask);
        }
      }
      const now = performance.now(), isDue = now - shown > Math.max(SHOWN_EVERY, cost / SHARE) && number < count - 1;
      const pictures = isDue ? await this.decode(seen) : {};
      if (isDue) [shown, cost] = [performance.now(), performance.now() - now];
      await report({ doing: "edit", step: number + 1, steps: count, pictures });
    }
    return this.finished(request, players, key, mask);
  }

  /**
   * The trajectory of a picture, noise first, by DDIM's steps backwards without guidance.
   * @param {Picture} picture @param {Float32Array} text @param {number} count @param {(progress: Progress) => Promise<void>} report
   */
  async invert(picture, text, count, report) {
    const { model } = this;
    const given = { pictures: this.tensor(picture.pixels, [1, 3, ...model.picture]) };
    const path = [Float32Array.from((await this.sessions.encoder.run(given)).latents.data)];
    const none = new Matrix(model.text[0]), same = Matrix.identity(model.text[0]);
    for (const [number, step] of back(model.noise, count).entries()) {
      const player = { name: "picture", text, known: false, path: { latents: path, maps: [] } };
      const found = await this.predict([player], text, number, step.time, 1, false, () => [none, same, 0]);
      path.push(move(model.noise, step, path[number], found.picture.noise).latent);
      await report({ doing: "inversion", step: number + 1, steps: count, pictures: {} });
    }
    return path.reverse();
  }

  /**
   * A picture of this run, with its trajectory where an earlier run has made it.
   * @param {string} name @param {Float32Array} text @param {string} key @param {Float32Array} noise
   * @returns {Player}
   */
  player(name, text, key, noise) {
    const path = this.kept.get(key);
    return { name, text, known: !!path, path: path ?? { latents: [noise], maps: [] } };
  }

  /**
   * The noise that the model sees, with guidance, and the maps of each picture's prompt. Only rows that something needs run.
   * @param {Player[]} players @param {Float32Array} plain the text of no prompt @param {number} number of the step @param {number} time
   * @param {number} guidance @param {boolean} borrows whether the edit takes anything from the source
   * @param {(player: Player) => [Matrix, Matrix, number]} asks S, T and the largest map to be injected
   * @returns {Promise<Record<string, { noise: Float32Array, maps: Float32Array }>>}
   */
  async predict(players, plain, number, time, guidance, borrows, asks) {
    const guides = guidance > 1, [none, same] = [new Matrix(this.model.text[0]), Matrix.identity(this.model.text[0])];
    const moving = players.filter(player => !player.known);
    const needed = players.filter(player => !player.known || (player.name === "source" && (borrows || !player.path.maps[number])));
    const rows = [...(guides ? moving.map(player => ({ player, text: plain })) : []), ...needed.map(player => ({ player, text: player.text }))];
    const first = rows.length - needed.length, lender = first + needed.findIndex(player => player.name === "source");
    const asked = rows.map(({ player }, row) => row < first ? /** @type {[Matrix, Matrix, number]} */ ([none, same, 0]) : asks(player));
    const lenders = asked.map(([s, , limit], row) => limit > 0 || s.values.some(Boolean) ? lender : row);
    const { model, ort } = this, side = model.text[0], batch = rows.length;
    const found = await this.sessions.unet.run({
      latents: this.tensor(joined(rows.map(({ player }) => player.path.latents[number])), [batch, ...model.latent]),
      timestep: this.tensor(Float32Array.of(time), [1]),
      text: this.tensor(joined(rows.map(row => row.text)), [batch, ...model.text]),
      lender: new ort.Tensor("int64", BigInt64Array.from(lenders, BigInt), [batch]),
      s: this.tensor(joined(asked.map(([s]) => s.values)), [batch, side, side]),
      t: this.tensor(joined(asked.map(([, t]) => t.values)), [batch, side, side]),
      limit: this.tensor(Float32Array.from(asked.map(([, , limit]) => limit)), [batch]),
    });
    const noises = split(found.noise.data, batch), maps = split(found.maps.data, batch);
    return Object.fromEntries(needed.map((player, i) => {
      const row = first + i, plainRow = moving.indexOf(player);
      const noise = guides && plainRow >= 0 ? guided(noises[plainRow], noises[row], guidance) : noises[row];
      return [player.name, { noise, maps: maps[row].slice() }];
    }));
  }

  /** What the model reads of some prompts. @param {Reading[]} readings @returns {Promise<Float32Array[]>} */
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

  /** Where source or target words look. @param {Float32Array[]} sums of their maps */
  mask(sums) {
    const [, height, width] = this.model.latent;
    const [source, target] = sums.map(sum => lookedAt(sum, this.model.maps, [height, width]));
    return source.map((inside, i) => inside || target[i]);
  }

  /** @param {Request} request @param {Player[]} players @param {string} key @param {boolean[] | null} mask @returns {Promise<Result>} */
  async finished(request, players, key, mask) {
    this.kept.set(`${key} · ${request.source}`, players[0].path);
    if (players[2]) this.kept.set(`${key} · ${request.target} · free`, players[2].path);
    while (this.kept.size > KEPT) this.kept.delete(/** @type {string} */ (this.kept.keys().next().value));
    const pictures = await this.decode(Object.fromEntries(players.map(player => [player.name, player.path.latents[request.steps]])));
    const [, height, width] = this.model.latent;
    if (request.picture && mask)
      pictures.edit = restored(rgba(request.picture.pixels), pictures.edit, mask, [height, width], this.model.picture);
    const maps = Object.fromEntries(players.map(({ name, path }) => [name, mean(path.maps)]));
    return { pictures, maps, mask };
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

/** Adds the maps of some tokens to a sum. @param {Float32Array} sum @param {Float32Array} maps @param {number[]} tokens */
const add = (sum, maps, tokens) => tokens.forEach(token => sum.forEach((_, i) => sum[i] += maps[token * sum.length + i]));

/** Planes of red, green and blue, 0…1, as RGBA. @param {Float32Array} planes */
export function rgba(planes) {
  const pixels = planes.length / 3, out = new Uint8ClampedArray(4 * pixels).fill(255);
  for (let plane = 0; plane < 3; plane++) for (let i = 0; i < pixels; i++) out[4 * i + plane] = 255 * planes[plane * pixels + i];
  return out; // rounded by the array
}
