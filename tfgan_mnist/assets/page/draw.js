// Images on a canvas, and the canvas as a file.

/**
 * Draws images [N][H][W][C] in [0, 1], C of 1 or 3, as rows of `columns` images without gaps: a
 * word's digits are one line of writing.
 */
export function drawGrid(canvas, images, columns) {
  const [height, width] = [images[0].length, images[0][0].length];
  canvas.width = columns * width;
  canvas.height = Math.ceil(images.length / columns) * height;
  const context = canvas.getContext("2d");
  images.forEach((image, i) => {
    const picture = new ImageData(Uint8ClampedArray.from(rgba(image)), width, height);
    context.putImageData(picture, (i % columns) * width, Math.floor(i / columns) * height);
  });
}

function rgba(image) {
  return image.flat().flatMap((pixel) => {
    const [red, green, blue] = pixel.length === 3 ? pixel : [pixel[0], pixel[0], pixel[0]];
    return [255 * red, 255 * green, 255 * blue, 255]; // the clamped array rounds
  });
}

/** Saves the canvas as a PNG, enlarged by a whole number so that pixels stay pixels. */
export async function download(canvas, name, scale) {
  const large = document.createElement("canvas");
  large.width = scale * canvas.width;
  large.height = scale * canvas.height;
  const context = large.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, 0, 0, large.width, large.height);
  const file = await new Promise((done) => large.toBlob(done, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // a browser may yet ask where to save
}
