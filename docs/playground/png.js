// A PNG file that says what made it, as p2p_helpers/provenance.py writes and reads it.
import { crc32 } from "./colours.js";

const HEADER = 33; // bytes of a PNG's signature and first chunk

/** @param {string} text */
const utf8 = text => new TextEncoder().encode(text);

/** A chunk of text. @param {string} key @param {string} text */
function chunk(key, text) {
  const body = Uint8Array.from([...utf8("iTXt"), ...utf8(key), 0, 0, 0, 0, 0, ...utf8(text)]);
  const out = new Uint8Array(body.length + 8), view = new DataView(out.buffer);
  view.setUint32(0, body.length - 4);
  out.set(body, 4);
  view.setUint32(body.length + 4, crc32(body));
  return out;
}

/**
 * @param {Blob} png
 * @param {Record<string, string>} said key → text
 */
export async function withText(png, said) {
  const bytes = new Uint8Array(await png.arrayBuffer());
  const chunks = Object.entries(said).map(([key, text]) => chunk(key, text));
  return new Blob([bytes.slice(0, HEADER), ...chunks, bytes.slice(HEADER)], { type: "image/png" });
}
