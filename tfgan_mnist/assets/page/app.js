// The page: reads the form, asks the server or the browser's own runtime, shows what comes.

import { setUp } from "./game.js";
import { between, draw } from "./latents.js";
import * as local from "./local.js";
import { realDigits } from "./real.js";
import { byLatents, bySeed, Failure, Server } from "./rest.js";
import { flat, layOut, save } from "./sheet.js";
import { at, framesBetween, move, still } from "./walk.js";

const MAX_IMAGES = 100; // at a time
const PNG_SCALE = 4;
const WALK_SECONDS = 2; // there, and as long back
const FRESH_SECONDS = 0.7;
const PAIRS = 10;
const WRITING = [
  "Digits that nobody wrote",
  "New handwriting",
  "From this handwriting to another",
];
const MAKING = ["Images that nobody made", "New images", "From these images to others"];

const element = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((each) => [each.id, each]),
);
const query = new URLSearchParams(location.search);
const server = new Server(new URL(query.get("server") ?? ".", location.href).href);
const drawn = element.sheet.appendChild(document.createElement("div"));
const written = element.sheet.appendChild(document.createElement("div"));

let models = null; // facts of the server's models; null where it has no list
let facts = null; // of the chosen model: {name, latentDim, labelled, classes, classNames, data}
let images = []; // shown, flat
let command = ""; // the request, whole
let current = null; // AbortController of the drawing under way
let stale = false; // the form has changed since
let playing = null; // AbortController of what moves

// What is wanted

function inBrowser() {
  return element.form.elements.where.value === "browser";
}

/** What the form asks for: {seeds, ends, labels or null, length of a word}. */
function plan() {
  for (const field of element.form.elements) {
    if (field.validationMessage && field.closest("[hidden]") === null) {
      element.settings.open ||= element.settings.contains(field);
      throw new Failure(`${field.labels[0].textContent}: ${field.validationMessage}`);
    }
  }
  const word = facts.labelled ? parse(element.text.value) : null;
  const number = Number(element.count.value) * (word?.length ?? 1);
  if (number > MAX_IMAGES) {
    throw new Failure(`Expected at most ${MAX_IMAGES} digits at a time; these are ${number}.`);
  }
  const seeds = consecutive(Number(element.seed.value), number);
  return {
    seeds,
    ends: consecutive(Number(element.end.value), number),
    labels: word && seeds.map((_, i) => word[i % word.length]),
    length: word?.length ?? number,
  };
}

/** "2026" -> [2, 0, 2, 6]; "10, 3" -> [10, 3]; also names of classes, where the server has them. */
function parse(text) {
  const names = facts.classNames ?? [];
  const separated = /[\s,]/.test(text.trim()) || names.some((name) => name.length > 1);
  const words = separated ? text.split(/[\s,]+/).filter(Boolean) : [...text.trim()];
  const lower = (name) => name.toLowerCase();
  const labels = words.map((word) => {
    const place = [names.indexOf(word), names.map(lower).indexOf(lower(word))].find((i) => i >= 0);
    return place ?? (/^[0-9]{1,9}$/.test(word) ? Number(word) : NaN);
  });
  const label = element["text-label"].textContent;
  if (labels.length === 0 || labels.some(Number.isNaN)) {
    throw new Failure(`${label}: expected digits, such as 2026; received “${text}”.`);
  }
  const wrong = labels.find((each) => each >= (facts.classes ?? Infinity));
  if (wrong !== undefined) {
    throw new Failure(`${label}: expected 0 to ${facts.classes - 1}; received ${wrong}.`);
  }
  return labels;
}

function consecutive(first, number) {
  return Array.from({ length: number }, (_, i) => (first + i) | 0); // seeds have 32 bits
}

function latentsOf(seeds) {
  return seeds.map((seed) => draw(seed, facts.latentDim));
}

/** The images [N][H][W][C] of latents. */
function predict(latents, labels, signal) {
  return inBrowser()
    ? local.predict(facts.name, latents, labels)
    : server.predict(facts.name, byLatents(latents, labels), signal);
}

// What is shown

/** Draws what the form asks for. While a drawing is under way, remembers to do it again. */
async function update() {
  playing?.abort();
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
  facts ??= await find(signal);
  if (signal.aborted) {
    return;
  }
  const { seeds, ends, labels, length } = plan();
  const way = Number(element.way.value) / 100;
  const starts = latentsOf(seeds);
  const latents = way ? latentsOf(ends).map((end, i) => between(starts[i], end, way)) : starts;
  const request = way ? byLatents(latents, labels) : bySeed(seeds, labels);
  command = server.curl(facts.name, request);
  element.curl.textContent = server.curl(facts.name, request, true);
  element.copy.disabled = false;

  const began = performance.now();
  const nested = inBrowser()
    ? await local.predict(facts.name, latents, labels)
    : await server.predict(facts.name, request, signal);
  if (signal.aborted) {
    return;
  }
  const milliseconds = (performance.now() - began).toFixed(0);
  images = nested.map(flat);
  layOut(drawn, images, length);
  await compare(labels, length);
  const what = labels ? `The digits ${labels.slice(0, length).join(" ")}` : "Digits";
  element.sheet.setAttribute("aria-label", `${what}, ${images.length} images, seed ${seeds[0]}`);
  element.status.textContent =
    `${images.length} ${images.length === 1 ? "image" : "images"} drawn by ` +
    `${inBrowser() ? "this browser" : "the server"} in ${milliseconds} ms`;
  for (const name of ["download", "fresh", "play"]) {
    element[name].disabled = false;
  }
  // The numbers behind the pixels, for the tests and the curious.
  document.dispatchEvent(new CustomEvent("drawn", { detail: nested }));
}

/** The facts of the chosen model, after which the form is made. */
async function find(signal) {
  const name = models ? element.model.value : element.name.value.trim();
  if (!name) {
    throw new Failure("Name of the model: expected one that the server has, such as cdcgan.");
  }
  const listed = models?.find((each) => each.name === name);
  const found = listed ?? (await (inBrowser() ? local : server).describe(name, signal));
  if (!found) {
    throw new Failure(
      inBrowser()
        ? `There is no ONNX file of “${name}”: python -m tfgan_mnist.export --format=onnx makes one.`
        : `The server at ${server.base} has no model “${name}”.`,
    );
  }
  describe(found);
  if (!navigator.connection?.saveData) {
    (window.requestIdleCallback ?? setTimeout)(() => local.prefetch(name));
  }
  return { ...found, labelled: isLabelled(found) };
}

function isLabelled({ labelled, classes }) {
  return labelled ?? classes !== null;
}

/** Makes the form and the words of the page those of a model. */
function describe(found) {
  const labelled = isLabelled(found);
  if (element.writing.hidden === labelled) {
    element.writing.hidden = !labelled;
    element["count-label"].textContent = labelled ? "Lines" : "Images";
    element.count.value = labelled ? 4 : 24;
  }
  const names = found.classNames ?? Array.from({ length: found.classes ?? 0 }, (_, i) => `${i}`);
  const isDigits = (found.classes ?? 10) === 10 && !found.classNames;
  const first = isDigits ? "2026" : names.slice(0, 4).join(", ");
  if (element.text.value === element.text.defaultValue) {
    element.text.value = first; // unless something else was typed
  }
  element.text.defaultValue = first;
  element["text-label"].textContent = isDigits ? "Your number" : "Draw";
  element.classes.hidden = isDigits;
  element.classes.textContent = found.classNames?.join(", ") ?? `0 to ${found.classes - 1}`;

  const isMnist = found.data === "mnist";
  const [title, fresh, walk] = isMnist || !models ? WRITING : MAKING;
  element.title.textContent = document.title = title;
  element.fresh.textContent = fresh;
  element["way-label"].textContent = walk;
  element.learned.textContent = isMnist ? "60,000 real ones, the digits of MNIST," : "real images";
  element["real-field"].hidden = element.game.hidden = !isMnist;
}

/** Shows real digits under the drawn ones, if that is wanted. */
async function compare(labels, length) {
  written.hidden = !element.real.checked || element["real-field"].hidden;
  if (written.hidden) {
    written.replaceChildren();
    return;
  }
  const digits = labels ?? images.map((_, i) => i % 10);
  const words = document.createElement("div");
  layOut(words, await realDigits(digits), length);
  const caption = document.createElement("div");
  caption.className = "by";
  caption.textContent = "and written by people:";
  const wasEmpty = written.children.length === 0;
  written.replaceChildren(caption, words);
  if (wasEmpty) {
    element.sheet.scrollTop = written.offsetTop - element.sheet.clientHeight / 2;
  }
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
  element.sheet.classList.toggle("stale", Boolean(error));
  if (error) {
    element.status.textContent = "";
  }
}

// What moves

/** Moves along stops between the seeds and others; whether it came to its end. */
async function animate(ends, stops, seconds, follow) {
  playing?.abort();
  const mine = new AbortController();
  playing = mine;
  element.play.classList.add("playing");
  element.play.setAttribute("aria-label", "Pause the walk");
  try {
    const { seeds, labels, length } = plan();
    const draws = (latents, repeated) => predict(latents, repeated, mine.signal);
    const frames = await framesBetween(latentsOf(seeds), latentsOf(ends), labels, draws);
    await move(stops, seconds, mine.signal, (way) => {
      layOut(drawn, at(frames, way), length);
      follow(way);
    });
  } catch (error) {
    if (!mine.signal.aborted) {
      tell(error);
      mine.abort();
    }
  }
  if (playing === mine) {
    playing = null;
    element.play.classList.remove("playing");
    element.play.setAttribute("aria-label", "Play the walk");
  }
  return !mine.signal.aborted;
}

async function play() {
  if (playing) {
    playing.abort();
    return;
  }
  if (still.matches) {
    element.way.value = Number(element.way.value) < 50 ? 100 : 0;
  } else {
    const follow = (way) => (element.way.value = 100 * way);
    if (await animate(plan().ends, [0, 1, 0], WALK_SECONDS, follow)) {
      element.way.value = 0;
    }
    if (playing) {
      return; // something else has begun to move
    }
  }
  update();
}

async function fresh() {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
  if (!still.matches && facts) {
    element.way.value = 0;
    await animate(consecutive(seed, images.length), [0, 1], FRESH_SECONDS, () => {});
    if (playing) {
      return;
    }
  }
  element.seed.value = seed;
  element.way.value = 0;
  update();
}

// What happens

/** Another model, or another place: what was under way is of no use. */
function change() {
  facts = null;
  element.status.textContent = inBrowser() ? "Loading the model…" : "Asking the server…";
  current?.abort();
  update();
}

async function copy() {
  try {
    await navigator.clipboard.writeText(command); // only there on https and localhost
    element.copied.textContent = "Copied";
  } catch {
    element.curl.textContent = command;
    getSelection().selectAllChildren(element.curl);
    element.copied.textContent = "Selected: press Ctrl+C";
  }
}

/** Pairs of a real digit and a drawn one of its class. */
async function makePairs() {
  const digits = Array.from({ length: PAIRS }, () => Math.floor(Math.random() * 10));
  const seeds = digits.map(() => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1);
  const drawings = await predict(latentsOf(seeds), facts.labelled ? digits : null);
  const real = await realDigits(digits);
  return real.map((image, i) => [image, flat(drawings[i])]);
}

async function start() {
  let listed = await server.list();
  if (!listed && query.has("server")) {
    const beside = await new Server(new URL(".", location.href).href).list();
    listed = beside && { models: beside.models }; // which the server may draw
  }
  models = listed?.models ?? null;
  element["model-field"].hidden = !models;
  element["name-field"].hidden = Boolean(models);
  if (models) {
    element.model.append(...models.map(({ name }) => new Option(name, name)));
    const wanted = models.find(({ name }) => name === query.get("model"));
    element.model.value = (wanted ?? models.find(({ classes }) => classes) ?? models[0])?.name ?? "";
  } else {
    element.name.value = query.get("model") ?? "cdcgan";
  }
  if (listed?.static) {
    element.form.elements.where.value = "browser";
    element["where-field"].hidden = true;
    element.request.hidden = true;
  }
  for (const field of [element.model, element.name, ...element.form.elements.where]) {
    field.addEventListener("change", change);
  }
  for (const field of ["text", "count", "seed", "end", "way", "real"]) {
    element[field].addEventListener("input", () => {
      element.copied.textContent = "";
      if (playing && field !== "way") {
        element.way.value = 0;
      }
      update();
    });
  }
  element.form.addEventListener("submit", (event) => {
    event.preventDefault();
    update();
  });
  element.fresh.addEventListener("click", fresh);
  element.play.addEventListener("click", play);
  element.copy.addEventListener("click", copy);
  element.download.addEventListener("click", () => {
    const { length } = plan();
    const columns = facts.labelled ? length : Math.ceil(Math.sqrt(images.length));
    save(images, columns, `${facts.name}-${element.seed.value}.png`, PNG_SCALE);
  });
  setUp(element, makePairs, tell);
  if (models?.length === 0) {
    tell(new Failure(`The server at ${server.base} has no model that draws.`));
    return;
  }
  change();
  document.addEventListener("drawn", () => still.matches || play(), { once: true });
}

start();
