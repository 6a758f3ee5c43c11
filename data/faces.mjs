// Draws the 12,000 avatars that the faces models are trained on, 64 × 64 × 3 bytes each, as faces.npy.
//
//   npm install @dicebear/core@9 @dicebear/collection@9 @resvg/resvg-js@2
//   node faces.mjs faces.npy
//   s4s-nb train --model faces --dataset faces.npy
//
// Pixel Art by DiceBear: CC0 1.0. Adventurer by Lisa Wischofsky, Personas by Draftbit: CC BY 4.0.

import { closeSync, openSync, renameSync, writeSync } from "node:fs";
import { createAvatar } from "@dicebear/core";
import { adventurer, personas, pixelArt } from "@dicebear/collection";
import { Resvg } from "@resvg/resvg-js";

const STYLES = [pixelArt, adventurer, personas];
const SEEDS = 4000;
const SIDE = 64;
const backgroundColor = ["b6e3f4", "c0aede", "d1d4f9", "ffd5dc", "ffdfbf"];

function draw(style, seed) {
  const svg = createAvatar(style, { seed, size: SIDE, backgroundColor }).toString();
  const rgba = new Resvg(svg, { fitTo: { mode: "width", value: SIDE } }).render().pixels;
  return rgba.filter((_, i) => i % 4 < 3);
}

function npyHeader(shape) {
  const text = `{'descr': '|u1', 'fortran_order': False, 'shape': (${shape.join(", ")}), }`;
  const padded = text.padEnd(Math.ceil((11 + text.length) / 64) * 64 - 11) + "\n";
  const head = Buffer.from([0x93, ...Buffer.from("NUMPY"), 1, 0, padded.length & 255, padded.length >> 8]);
  return Buffer.concat([head, Buffer.from(padded, "latin1")]);
}

const out = process.argv[2] ?? "faces.npy";
const count = Number(process.argv[3] ?? SEEDS);
const file = openSync(out + ".part", "w");
writeSync(file, npyHeader([STYLES.length * count, SIDE, SIDE, 3]));
for (const style of STYLES) {
  for (let k = 0; k < count; k++) writeSync(file, draw(style, `s4s-${k}`));
}
closeSync(file);
renameSync(out + ".part", out);
