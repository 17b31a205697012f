// DDIM's steps, from noise to picture and back, as diffusers' DDIMScheduler and DDIMInverseScheduler have them.

/**
 * @typedef {{ prediction: string, offset: number, alphas: number[], final_alpha: number }} Noise
 * @typedef {{ time: number, from: number, to: number }} Step the time that the model is told, and ᾱ before and after
 */

/** The steps from noise to picture. @param {Noise} noise @param {number} count @returns {Step[]} */
export function steps(noise, count) {
  const ratio = Math.floor(noise.alphas.length / count);
  return Array.from({ length: count }, (_, i) => {
    const time = (count - 1 - i) * ratio + noise.offset;
    return { time, from: noise.alphas[time], to: noise.alphas[time - ratio] ?? noise.final_alpha };
  });
}

/** The same steps from picture to noise: each is told the time at which it ends. @param {Noise} noise @param {number} count */
export const back = (noise, count) => steps(noise, count).reverse().map(({ time, from, to }) => ({ time, from: to, to: from }));

/** Guidance: away from the prediction without a prompt. @param {Float32Array} plain @param {Float32Array} prompted @param {number} scale */
export const guided = (plain, prompted, scale) => plain.map((value, i) => value + scale * (prompted[i] - value));

/**
 * One step of a latent, and the picture's latent as it is seen from here.
 * @param {Noise} noise @param {Step} step @param {Float32Array} latent @param {Float32Array} predicted
 */
export function move(noise, step, latent, predicted) {
  const [a, b] = [Math.sqrt(step.from), Math.sqrt(1 - step.from)];
  const velocity = noise.prediction === "v_prediction";
  const seen = latent.map((x, i) => velocity ? a * x - b * predicted[i] : (x - b * predicted[i]) / a);
  const direction = velocity ? latent.map((x, i) => a * predicted[i] + b * x) : predicted;
  const [c, d] = [Math.sqrt(step.to), Math.sqrt(1 - step.to)];
  return { seen, latent: seen.map((x, i) => c * x + d * direction[i]) };
}
