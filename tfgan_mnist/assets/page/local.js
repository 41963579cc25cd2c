// Draws in this browser: the model's ONNX file, run by onnxruntime-web's WebAssembly.
//
// What a page has fetched stays in its memory, so that it goes on when the server is gone.

import { Failure } from "./rest.js";

const RUNTIME = new URL("vendor/onnxruntime-web/", import.meta.url);

const fetched = new Map(); // URL -> promise of an ArrayBuffer
const sessions = new Map(); // model -> promise of an InferenceSession
let runtime = null; // promise of the module

/** Fetches what drawing a model will need, for a time without the server. Never fails. */
export async function prefetch(model) {
  await Promise.allSettled([start(), bytes(modelUrl(model))]);
}

/** The facts of a model by its file; null when there is no ONNX file of that name. */
export async function describe(name) {
  if ((await bytes(modelUrl(name))) === null) {
    return null;
  }
  const session = await sessionOf(name);
  const latents = session.inputMetadata.find((input) => input.name === "latents");
  if (!latents) {
    throw new Failure(`${name}: expected a generator with an input “latents”.`);
  }
  const labelled = session.inputNames.includes("labels");
  return { name, latentDim: latents.shape[1], labelled };
}

/** The images [N][H][W][C] in [0, 1] of latents, a Float32Array a row. */
export async function predict(model, latents, labels) {
  const session = await sessionOf(model);
  const { Tensor } = await start();
  const data = new Float32Array(latents.flatMap((latent) => Array.from(latent)));
  const inputs = { latents: new Tensor("float32", data, [latents.length, latents[0].length]) };
  if (labels) {
    inputs.labels = new Tensor("int32", Int32Array.from(labels), [labels.length]);
  }
  const { images } = await session.run(inputs);
  if (images.data.some(Number.isNaN)) {
    throw new Failure("A label is none of the model's classes.");
  }
  return nested(Array.from(images.data), images.dims);
}

function modelUrl(model) {
  return new URL(`onnx/${encodeURIComponent(model)}.onnx`, import.meta.url);
}

async function sessionOf(model) {
  if (!sessions.has(model)) {
    const opened = start().then(async ({ InferenceSession }) => {
      const file = await bytes(modelUrl(model));
      if (file === null) {
        throw new Failure(
          `There is no ONNX file of “${model}”: python -m tfgan_mnist.export --format=onnx makes it.`,
        );
      }
      return InferenceSession.create(new Uint8Array(file), { executionProviders: ["wasm"] });
    });
    opened.catch(() => sessions.delete(model)); // it may be there at the next try
    sessions.set(model, opened);
  }
  return sessions.get(model);
}

/** onnxruntime-web, loaded when it is first wanted: some 4 MB. */
function start() {
  runtime ??= load();
  runtime.catch(() => (runtime = null));
  return runtime;
}

async function load() {
  const [ort, packed] = await Promise.all([
    import(new URL("ort.wasm.bundle.min.mjs", RUNTIME)).catch(() => {
      throw unreachable(RUNTIME);
    }),
    bytes(new URL("ort-wasm-simd-threaded.wasm.gz", RUNTIME)),
  ]);
  if (packed === null) {
    throw new Failure(`${RUNTIME} lacks onnxruntime-web.`);
  }
  ort.env.wasm.numThreads = 1; // more need headers that isolate the page from other sites
  ort.env.wasm.wasmBinary = await unpacked(packed);
  return ort;
}

/** The content of a gzip file, also where the server has sent it as an encoding. */
async function unpacked(buffer) {
  const [first, second] = new Uint8Array(buffer);
  if (first !== 0x1f || second !== 0x8b) {
    return buffer;
  }
  const stream = new Blob([buffer]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** The content at a URL; null when there is nothing. */
function bytes(url) {
  const key = String(url);
  if (!fetched.has(key)) {
    const content = download(url);
    fetched.set(key, content);
    const forget = () => fetched.delete(key);
    content.then((buffer) => buffer === null && forget(), forget);
  }
  return fetched.get(key);
}

async function download(url) {
  const response = await fetch(url).catch(() => {
    throw unreachable(url);
  });
  if (response.status === 404) {
    return null;
  }
  if (!response.ok) {
    throw new Failure(`${url} answered ${response.status}.`);
  }
  return response.arrayBuffer();
}

function unreachable(url) {
  return new Failure(
    `${url} cannot be fetched, as its server does not answer. Once this page has it, it can draw ` +
      "without the server.",
  );
}

/** Values in the order of rows, as lists in lists of these sizes. */
function nested(values, [size, ...rest]) {
  if (rest.length === 0) {
    return values;
  }
  const length = values.length / size;
  const parts = Array.from({ length: size }, (_, i) => values.slice(i * length, (i + 1) * length));
  return parts.map((part) => nested(part, rest));
}
