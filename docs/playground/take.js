// What a person takes along: a link that restores everything, and a picture that says what made it.
import { withText } from "./png.js";
import { blendWords, editText } from "./settings.js";

/** Says how it went. @param {string} settings as a link ends @param {boolean} isOwn whether the source is a picture of one's own */
export async function copyLink(settings, isOwn) {
  try {
    await navigator.clipboard.writeText(location.href.split("#")[0] + settings);
  } catch {
    const why = isSecureContext ? "this browser did not allow it" : "browsers allow that only over https or on localhost";
    return `The link could not be copied: ${why}. It stands in the address bar.`;
  }
  return isOwn ? "The link is copied. Your own picture is not in it." : "The link is copied: it opens this page with the same settings.";
}

/** @param {import("./page.js").Made} made @param {[number, number]} size rows and columns */
export async function save({ pictures, settings, isOwn }, [rows, columns]) {
  const canvas = new OffscreenCanvas(columns, rows);
  canvas.getContext("2d")?.putImageData(new ImageData(new Uint8ClampedArray(pictures.edit), columns, rows), 0, 0);
  const said = { source: settings.source, target: settings.target, edit: editText(settings), seed: isOwn ? null : settings.seed, steps: settings.steps,
    guidance_scale: settings.guidance, inversion: isOwn ? { method: "direct" } : undefined, local_blend: blendWords(settings.blend) };
  const texts = { Software: "p2p_helpers in a browser", Description: settings.target, p2p_helpers: JSON.stringify(said) };
  const file = await withText(await canvas.convertToBlob(), texts), href = URL.createObjectURL(file);
  Object.assign(document.createElement("a"), { href, download: `${settings.target.replace(/\W+/g, "-")}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}
