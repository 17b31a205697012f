// A pad to draw on, with a mouse, a finger or a pen. What is drawn becomes the picture of one's own.
import { find } from "./page.js";

const COLOURS = { white: "#ffffff", black: "#1b1b1f", grey: "#8a8a94", brown: "#7a4a26", red: "#d7263d", orange: "#f08c1e", yellow: "#f7d038",
  green: "#3a8a3f", "light blue": "#9fd3f5", blue: "#2f62c9", purple: "#7b3fa0", pink: "#f2a0bd", sand: "#eed9a2" };
const KEPT = 20; // strokes that can be taken back

let colour = COLOURS.black;
/** @type {ImageData[]} */
const before = [];

const paper = () => /** @type {HTMLCanvasElement} */ (find("paper"));
const brush = () => /** @type {CanvasRenderingContext2D} */ (paper().getContext("2d", { willReadFrequently: true }));

/** A change that can be taken back. @param {() => void} change */
function changing(change) {
  before.push(brush().getImageData(0, 0, paper().width, paper().height));
  if (before.length > KEPT) before.shift();
  change();
}

/** The whole paper in the colour that is chosen. */
function fill() {
  brush().fillStyle = colour;
  brush().fillRect(0, 0, paper().width, paper().height);
}

/** A picture to begin with. @param {HTMLCanvasElement} picture */
const trace = picture => brush().drawImage(picture, 0, 0, paper().width, paper().height);

/** A line to where the pointer is. @param {PointerEvent} event */
function stroke(event) {
  const context = brush(), scale = paper().width / paper().clientWidth;
  context.lineTo(event.offsetX * scale, event.offsetY * scale);
  context.stroke();
}

/** @param {PointerEvent} event */
function begin(event) {
  if (event.button || !event.isPrimary) return; // a second finger draws nothing
  paper().setPointerCapture(event.pointerId);
  changing(() => {
    Object.assign(brush(), { strokeStyle: colour, lineWidth: Number(find("brush").value), lineCap: "round", lineJoin: "round" });
    brush().beginPath();
    stroke(event);
    stroke(event); // a point is a line to itself
  });
}

function showColours() {
  find("colours").replaceChildren(...Object.entries(COLOURS).map(([name, value]) => {
    const button = Object.assign(document.createElement("button"), { type: "button", title: name });
    button.setAttribute("aria-label", name);
    button.setAttribute("aria-pressed", String(value === colour));
    button.style.background = value;
    button.onclick = () => {
      colour = value;
      for (const one of find("colours").children) one.setAttribute("aria-pressed", String(one === button));
    };
    return button;
  }));
}

/**
 * The pad, ready to draw on.
 * @param {() => HTMLCanvasElement | null} source the source's picture, once there is one
 * @param {(file: File) => void} take what is done with a drawing
 */
export function preparePad(source, take) {
  brush().fillStyle = COLOURS.white;
  brush().fillRect(0, 0, paper().width, paper().height);
  showColours();
  paper().onpointerdown = begin;
  paper().onpointermove = event => { if (paper().hasPointerCapture(event.pointerId)) stroke(event); };
  find("fill").onclick = () => changing(fill);
  find("undo").onclick = () => { const last = before.pop(); if (last) brush().putImageData(last, 0, 0); };
  find("trace").onclick = () => { const picture = source(); if (picture) changing(() => trace(picture)); };
  find("drawn").onclick = () => paper().toBlob(blob => { if (blob) take(new File([blob], "drawing", { lastModified: Date.now() })); });
}
