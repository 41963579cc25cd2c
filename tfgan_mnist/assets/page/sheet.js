// Images as ink on paper. The style sheet turns ink into chalk in the dark scheme.

const SCALE = 4; // how much finer than the image's pixels ink is drawn
const INK = [22, 34, 66];
const EDGE = [0.12, 0.75]; // the values between which ink begins and is full

/** A flat copy of an image [H][W][C] in [0, 1]: {data, size: [H, W, C]}. */
export function flat(image) {
  const size = [image.length, image[0].length, image[0][0].length];
  return { data: Float32Array.from(image.flat(2)), size };
}

/** The image at `way` in [0, 1] between two flat ones. */
export function mix(one, other, way) {
  return { data: one.data.map((value, i) => value + way * (other.data[i] - value)), size: one.size };
}

/** Draws a flat image on a canvas: of one channel as ink, of three in its colours. */
export function paint(canvas, { data, size }) {
  const [height, width, channels] = size;
  const scale = channels === 1 ? SCALE : 1;
  canvas.classList.toggle("colour", channels === 3);
  if (canvas.width !== scale * width || canvas.height !== scale * height) {
    canvas.width = scale * width;
    canvas.height = scale * height;
  }
  const picture = new ImageData(canvas.width, canvas.height);
  (channels === 1 ? ink : colours)(picture, data, size);
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function colours(picture, data) {
  for (let i = 0; 3 * i < data.length; i += 1) {
    picture.data.set([255 * data[3 * i], 255 * data[3 * i + 1], 255 * data[3 * i + 2], 255], 4 * i);
  }
}

/** Between pixels values are interpolated, and their edge is drawn: strokes instead of squares. */
function ink(picture, data, [height, width]) {
  const [begin, full] = EDGE;
  const columns = places(width);
  let i = 0;
  for (const [top, bottom, down] of places(height)) {
    for (const [left, right, across] of columns) {
      const above = data[top * width + left] * (1 - across) + data[top * width + right] * across;
      const below = data[bottom * width + left] * (1 - across) + data[bottom * width + right] * across;
      const value = above + (below - above) * down;
      const t = Math.min(Math.max((value - begin) / (full - begin), 0), 1);
      picture.data.set(INK, i);
      picture.data[i + 3] = 255 * t * t * (3 - 2 * t);
      i += 4;
    }
  }
}

/** For each fine pixel of a line of `size` pixels: [the one before, the one behind, how far]. */
function places(size) {
  return Array.from({ length: SCALE * size }, (_, i) => {
    const place = Math.min(Math.max((i + 0.5) / SCALE - 0.5, 0), size - 1);
    const before = Math.floor(place);
    return [before, Math.min(before + 1, size - 1), place - before];
  });
}

/** Lays flat images out in words of `length`, which wrap; keeps the canvases that are there. */
export function layOut(container, images, length) {
  const words = Math.ceil(images.length / length);
  while (container.children.length > words) {
    container.lastChild.remove();
  }
  for (let i = 0; i < words; i += 1) {
    const word = container.children[i] ?? container.appendChild(document.createElement("div"));
    word.className = "word";
    const part = images.slice(i * length, (i + 1) * length);
    while (word.children.length > part.length) {
      word.lastChild.remove();
    }
    part.forEach((image, j) => {
      paint(word.children[j] ?? word.appendChild(document.createElement("canvas")), image);
    });
  }
}

/** Saves flat images as a PNG in rows of `columns`, each pixel enlarged to a square. */
export async function save(images, columns, name, scale) {
  const [height, width, channels] = images[0].size;
  const small = canvasOf(columns * width, Math.ceil(images.length / columns) * height);
  images.forEach(({ data }, i) => {
    const picture = new ImageData(width, height);
    const repeated = { length: 3 * data.length };
    colours(picture, channels === 3 ? data : Array.from(repeated, (_, j) => data[Math.floor(j / 3)]));
    const [x, y] = [(i % columns) * width, Math.floor(i / columns) * height];
    small.getContext("2d").putImageData(picture, x, y);
  });
  const large = canvasOf(scale * small.width, scale * small.height);
  const context = large.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, large.width, large.height);
  const file = await new Promise((done) => large.toBlob(done, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // a browser may yet ask where to save
}

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}
