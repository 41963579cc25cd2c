// TensorFlow Serving's REST interface: https://www.tensorflow.org/tfx/serving/api_rest

const TIMEOUT_MS = 30_000;
const LONG_LIST = /(\[(?:-?[\d.e-]+,){3}-?[\d.e-]+)[^\]]{30,}\]/g; // of numbers

/** What a person can be told: a message that says what to do. */
export class Failure extends Error {}

/** A server at a base URL, such as "http://localhost:8501/". */
export class Server {
  constructor(base) {
    this.base = base.endsWith("/") ? base : `${base}/`;
  }

  /** {static, models: [facts]}, of our own server or a page without one; null without a list. */
  async list() {
    try {
      return await (await fetch(new URL("models.json", this.base))).json();
    } catch {
      return null; // TensorFlow Serving has none
    }
  }

  /** The facts of a model by its metadata; null when the server has none of that name. */
  async describe(name, signal) {
    const response = await this.#fetch(`${path(name)}/metadata`, { signal });
    if (response.status === 404) {
      return null;
    }
    const answer = await content(response);
    const signature = answer.metadata.signature_def.signature_def.serving_default;
    if (!signature?.inputs.latents) {
      throw new Failure(`${name}: expected a generator with an input “latents”.`);
    }
    const [, width] = signature.inputs.latents.tensor_shape.dim;
    return { name, latentDim: Number(width.size), labelled: "labels" in signature.inputs };
  }

  /** The images [N][H][W][C] in [0, 1] that a request makes. */
  async predict(model, request, signal) {
    const response = await this.#fetch(`${path(model)}:predict`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(request),
      signal,
    });
    if (response.status === 404) {
      throw new Failure(`The server at ${this.base} has no model “${model}”.`);
    }
    const answer = await content(response);
    return answer.predictions ?? answer.outputs; // rows were asked for, or columns
  }

  /** The request as a command for a terminal; to be looked at when it is `shortened`. */
  curl(model, request, shortened = false) {
    const url = new URL(`${path(model)}:predict`, this.base);
    const text = JSON.stringify(request);
    const body = shortened ? text.replace(LONG_LIST, "$1, …]") : text;
    return `curl ${quoted(String(url))} -d ${quoted(body)}`;
  }

  async #fetch(relative, options = {}) {
    const signals = [AbortSignal.timeout(TIMEOUT_MS), options.signal].filter(Boolean);
    try {
      return await fetch(new URL(relative, this.base), {
        ...options,
        signal: AbortSignal.any(signals),
      });
    } catch (error) {
      if (options.signal?.aborted) {
        throw error; // by a newer request
      }
      const trouble =
        error.name === "TimeoutError" ? `took over ${TIMEOUT_MS / 1000} s` : "does not answer";
      throw new Failure(
        `The server at ${this.base} ${trouble}. Is it running, and may this page ask it (CORS)? ` +
          "“This browser” draws without it.",
      );
    }
  }
}

/** The request that draws a row per seed. */
export function bySeed(seeds, labels) {
  const rows = seeds.map((seed, i) => (labels ? { seed, labels: labels[i] } : { seed }));
  return { signature_name: "sample", instances: rows };
}

/** The request that draws a row per latent. */
export function byLatents(latents, labels) {
  // Nine digits are what a float32 needs; its value as a double would be written with seventeen.
  const rows = latents.map((latent) => Array.from(latent, (value) => Number(value.toPrecision(9))));
  return { inputs: labels ? { latents: rows, labels } : { latents: rows } };
}

/** A text as one word of a shell's, whatever is in it. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function path(model) {
  return `v1/models/${encodeURIComponent(model)}`;
}

/** The JSON of a good answer; of any other the server's own words. */
async function content(response) {
  let answer;
  try {
    answer = await response.json();
  } catch {
    throw new Failure(`${response.url} answered ${response.status} with something else than JSON.`);
  }
  if (response.ok) {
    return answer;
  }
  const reason = answer.error ?? response.statusText;
  if (response.status === 429 || response.status === 503) {
    throw new Failure(`The server is busy; try again in a moment. It says: ${reason}`);
  }
  throw new Failure(`The server refuses (${response.status}): ${reason}`);
}
