// The walk from one handwriting to another, as moving pictures.

import { between } from "./latents.js";
import { flat, mix } from "./sheet.js";

const MAX_ROWS = 240; // of one request
const MAX_FRAMES = 25;

export const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Frames of the walk: flat images each. `predict` draws (latents, labels), all in one request. */
export async function framesBetween(starts, ends, labels, predict) {
  const number = Math.max(2, Math.min(MAX_FRAMES, Math.floor(MAX_ROWS / starts.length)));
  const ways = Array.from({ length: number }, (_, i) => i / (number - 1));
  const latents = ways.flatMap((way) => starts.map((start, i) => between(start, ends[i], way)));
  const images = (await predict(latents, labels && ways.flatMap(() => labels))).map(flat);
  return ways.map((_, i) => images.slice(i * starts.length, (i + 1) * starts.length));
}

/** The images at `way` in [0, 1], between the two nearest frames. */
export function at(frames, way) {
  const place = way * (frames.length - 1);
  const before = Math.min(Math.floor(place), frames.length - 2);
  return frames[before].map((image, i) => mix(image, frames[before + 1][i], place - before));
}

/** Calls `show` with ways along `stops`, such as [0, 1, 0], until the end or the signal. */
export function move(stops, secondsEach, signal, show) {
  return new Promise((done) => {
    const began = performance.now();
    const step = (now) => {
      const leg = Math.max(now - began, 0) / 1000 / secondsEach;
      if (signal.aborted || leg >= stops.length - 1) {
        done();
        return;
      }
      const [from, to] = stops.slice(Math.floor(leg));
      const eased = (1 - Math.cos(Math.PI * (leg % 1))) / 2;
      show(from + (to - from) * eased);
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  });
}
