// The page: reads the form, asks the server or the browser's own runtime, shows what comes.

import { download, drawGrid } from "./draw.js";
import { between, draw } from "./latents.js";
import * as local from "./local.js";
import { byLatents, bySeed, Failure, Server } from "./rest.js";

// TensorFlow Serving can't be asked which models there are; these are what the recipes are called.
const MODELS = ["cdcgan", "dcgan", "gan"];
const ANOTHER = ""; // the choice that asks for a name
const MOST_IMAGES = 100; // of one request
const WIDEST_GRID = 10; // columns, for models that write no words
const SHOWN_PIXELS = 704; // up to which the drawing is enlarged
const PNG_SCALE = 4;

const element = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((each) => [each.id, each]),
);
const asked = new URLSearchParams(location.search).get("server");
const server = new Server(new URL(asked ?? ".", location.href).href);

let facts = null; // {latentDim, labelled} of the chosen model
let current = null; // AbortController of the drawing under way
let stale = false; // the form has changed since

// What is wanted

function model() {
  return element.model.value === ANOTHER ? element.another.value.trim() : element.model.value;
}

function inBrowser() {
  return element.form.elements.where.value === "browser";
}

/** What the form asks for: {seeds, labels or null, latents or null, columns}. */
function plan() {
  for (const field of element.form.elements) {
    if (field.validationMessage && field.closest("[hidden]") === null) {
      throw new Failure(`${field.labels[0].textContent}: ${field.validationMessage}`);
    }
  }
  const samples = Number(element.count.value);
  const word = facts.labelled ? parse(element.text.value) : null;
  const number = word ? samples * word.length : samples;
  if (number > MOST_IMAGES) {
    throw new Failure(`Expected at most ${MOST_IMAGES} digits at a time; these are ${number}.`);
  }
  const seeds = consecutive(Number(element.seed.value), number);
  const way = Number(element.way.value) / 100;
  const ends = consecutive(Number(element.end.value), number);
  return {
    seeds,
    labels: word && seeds.map((_, i) => word[i % word.length]),
    latents: way
      ? seeds.map((seed, i) =>
          between(draw(seed, facts.latentDim), draw(ends[i], facts.latentDim), way),
        )
      : null,
    columns: word ? word.length : Math.min(number, WIDEST_GRID),
  };
}

/** "2026" -> [2, 0, 2, 6]; "10, 3" -> [10, 3], for models of more classes. */
function parse(text) {
  const separated = /[\s,]/.test(text.trim());
  const words = separated ? text.split(/[\s,]+/).filter(Boolean) : [...text.trim()];
  const wrong = words.find((each) => !/^[0-9]{1,9}$/.test(each));
  if (wrong !== undefined || words.length === 0) {
    throw new Failure(`Digits to write: expected digits, such as 2026; received “${text}”.`);
  }
  return words.map(Number);
}

function consecutive(first, number) {
  return Array.from({ length: number }, (_, i) => (first + i) | 0); // seeds have 32 bits
}

// What is shown

/** Draws what the form asks for. While a drawing is under way, remembers to do it again. */
async function update() {
  stale = true;
  if (current) {
    return;
  }
  element.drawing.ariaBusy = "true";
  while (stale) {
    stale = false;
    current = new AbortController();
    try {
      await show(current.signal);
      tell(null);
    } catch (error) {
      if (!current.signal.aborted) {
        tell(error);
      }
    }
    current = null;
  }
  element.drawing.ariaBusy = "false";
}

async function show(signal) {
  const name = model();
  if (!name) {
    throw new Failure("Its name: expected the name of a model.");
  }
  if (!facts) {
    const found = await (inBrowser() ? local : server).describe(name, signal);
    if (signal.aborted) {
      return;
    }
    if (!found) {
      throw new Failure(
        inBrowser()
          ? `There is no ONNX file of “${name}”: python -m tfgan_mnist.export --format=onnx makes one.`
          : `The server at ${server.base} has no model “${name}”.`,
      );
    }
    facts = found;
    element.writing.hidden = !facts.labelled;
    whenIdle(() => local.prefetch(name));
  }
  const { seeds, labels, latents, columns } = plan();
  const request = latents ? byLatents(latents, labels) : bySeed(seeds, labels);
  element.curl.textContent = server.curl(name, request);
  element.copy.disabled = false;

  const began = performance.now();
  const images = inBrowser()
    ? await local.predict(name, latents ?? seeds.map((each) => draw(each, facts.latentDim)), labels)
    : await server.predict(name, request, signal);
  if (signal.aborted) {
    return;
  }
  const seconds = (performance.now() - began) / 1000;
  drawGrid(element.canvas, images, columns);
  const scale = Math.max(1, Math.floor(SHOWN_PIXELS / element.canvas.width));
  element.canvas.style.width = `${scale * element.canvas.width}px`;
  const what = labels ? `The digits ${labels.slice(0, columns).join(" ")}` : "Digits";
  element.canvas.setAttribute("aria-label", `${what}, ${images.length} images, seed ${seeds[0]}`);
  element.download.disabled = false;
  element.status.textContent =
    `${images.length} ${images.length === 1 ? "image" : "images"} drawn ` +
    `${inBrowser() ? "in this browser" : "by the server"} in ${(1000 * seconds).toFixed(0)} ms`;
  // The numbers behind the pixels, for the tests and the curious.
  document.dispatchEvent(new CustomEvent("drawn", { detail: images }));
}

/** Shows an error, or that there is none. */
function tell(error) {
  let text = error ? error.message : "";
  if (error && !(error instanceof Failure)) {
    console.error(error);
    text = `Something went wrong: ${text}`;
  }
  if (element.alert.textContent !== text) {
    element.alert.textContent = text; // once: a screen reader says it each time
  }
  element.alert.hidden = !error;
  element.canvas.classList.toggle("stale", Boolean(error));
  if (error) {
    element.status.textContent = "";
  }
}

function whenIdle(action) {
  if (!navigator.connection?.saveData) {
    (window.requestIdleCallback ?? setTimeout)(action);
  }
}

// What happens

/** Another model, or another place: what was under way is of no use. */
function change() {
  element["another-field"].hidden = element.model.value !== ANOTHER;
  facts = null;
  element.status.textContent = inBrowser() ? "Loading the model…" : "Asking the server…";
  current?.abort();
  update();
}

async function copy() {
  const text = element.curl.textContent;
  try {
    await navigator.clipboard.writeText(text); // only there on https and localhost
    element.copied.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(element.curl);
    element.copied.textContent = "Selected: press Ctrl+C";
  }
}

function type(digit) {
  const { text } = element;
  text.value = digit === null ? text.value.slice(0, -1) : text.value + digit;
  update();
}

function keypad() {
  const keys = [..."0123456789"].map((digit) => [digit, digit, () => type(digit)]);
  for (const [label, shown, action] of [...keys, ["Delete the last digit", "⌫", () => type(null)]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = shown;
    button.setAttribute("aria-label", label);
    button.addEventListener("click", action);
    element.keypad.append(button);
  }
}

async function start() {
  keypad();
  for (const name of MODELS) {
    element.model.append(new Option(name, name));
  }
  element.model.append(new Option("another…", ANOTHER));
  element.model.addEventListener("change", change);
  element.another.addEventListener("change", change);
  for (const radio of element.form.elements.where) {
    radio.addEventListener("change", change);
  }
  for (const field of [element.text, element.count, element.seed, element.way, element.end]) {
    field.addEventListener("input", () => {
      element["way-shown"].textContent = `${element.way.value} %`;
      element.copied.textContent = "";
      update();
    });
  }
  element.fresh.addEventListener("click", () => {
    [element.seed.value] = crypto.getRandomValues(new Uint32Array(1)).map((word) => word >>> 1);
    update();
  });
  element.form.addEventListener("submit", (event) => {
    event.preventDefault();
    update();
  });
  element.download.addEventListener("click", () => {
    download(element.canvas, `${model()}-${element.seed.value}.png`, PNG_SCALE);
  });
  element.copy.addEventListener("click", copy);

  // The first model that is there.
  const found = await Promise.all(MODELS.map((name) => server.describe(name).catch(() => null)));
  const first = found.findIndex(Boolean);
  if (first >= 0) {
    element.model.value = MODELS[first];
    MODELS.forEach((name, i) => {
      if (!found[i]) {
        [...element.model.options].find((option) => option.value === name).remove();
      }
    });
  }
  change();
}

start();
