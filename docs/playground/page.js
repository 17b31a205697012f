// What the page knows: settings, what the model is, and the last pictures. Other modules read and set it.
import { fromLink } from "./settings.js";

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {import("./engine.js").Model} Model
 * @typedef {import("./tokens.js").Reading} Reading
 * @typedef {import("./engine.js").Result & { settings: Settings, isOwn: boolean }} Made
 */

export const page = {
  settings: fromLink(location.hash),
  /** @type {{ facts: Model, read: (prompt: string) => Reading } | null} once its first file has come */
  model: null,
  /** @type {{ source: Reading, target: Reading } | null} */
  readings: null,
  /** @type {Made | null} */
  made: null,
  /** @type {import("./engine.js").Picture | null} a picture of one's own */
  own: null,
  isOld: false, // whether a run is on that will take the place of the last pictures
};

/** @param {string} id @returns {any} */
export const find = id => document.getElementById(id);

/** Also to a screen reader. @param {string} text */
export const say = text => { find("status").textContent = text; };

/** How far it is; a screen reader need not say every step. @param {string} text */
export const sayStep = text => { find("step").textContent = text; };

/** As it is used: a link may ask for what lies between two steps of a slider. @param {string} name of a slider @param {number} value */
export function sayNumber(name, value) {
  const short = value.toFixed(name === "guidance" ? 1 : 2);
  find(`${name}-said`).value = Number(short) === value ? short : String(value);
}

/** Shows what is wrong, or that nothing is. @param {unknown} [error] */
export function problem(error) {
  find("problem").hidden = !error;
  find("problem").textContent = error instanceof Error ? error.message : error ? String(error) : "";
  if (error) find("problem").scrollIntoView({ block: "nearest" });
}

let isPressed = false;
/** @type {(() => void)[]} */
const waiting = [];
const release = () => { isPressed = false; waiting.splice(0).forEach(work => work()); };
addEventListener("mousedown", event => { isPressed = /** @type {MouseEvent} */ (event).button === 0; }, true); // a finger's comes with its click
addEventListener("mouseup", () => setTimeout(release), true);
for (const kind of ["click", "contextmenu", "dragstart"]) addEventListener(kind, release, true);
addEventListener("blur", release); // another window

/**
 * Now, or once the button is up: who clicks on a word leaves the field that they wrote in, and that word must not go in between.
 * @param {() => void} work
 */
export const onceReleased = work => isPressed ? void waiting.push(work) : work();
