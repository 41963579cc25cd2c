// Real digits of MNIST, written by people, to compare with the drawn ones.

const SIZE = 28;

let loaded = null; // promise of [digit][which], flat images

/** Flat real images of these digits, all different as far as there are enough of them. */
export async function realDigits(digits) {
  loaded ??= load();
  loaded.catch(() => (loaded = null));
  const all = await loaded;
  const used = all.map(() => Math.floor(Math.random() * all[0].length));
  return digits.map((digit) => {
    used[digit] = (used[digit] + 1) % all[digit].length;
    return all[digit][used[digit]];
  });
}

/** The picture has a row of examples for each digit, white on black. */
async function load() {
  const picture = new Image();
  picture.src = new URL("real.png", import.meta.url);
  await picture.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const tile = (row, column) => {
    const { data } = context.getImageData(SIZE * column, SIZE * row, SIZE, SIZE);
    const values = Float32Array.from({ length: SIZE * SIZE }, (_, i) => data[4 * i] / 255);
    return { data: values, size: [SIZE, SIZE, 1] };
  };
  const indices = (size) => Array.from({ length: size / SIZE }, (_, i) => i);
  return indices(canvas.height).map((row) => indices(canvas.width).map((i) => tile(row, i)));
}
