// "Which one is real?": ten pairs of a real digit and a drawn one, with a score.

import { paint } from "./sheet.js";

/**
 * Plays whenever the button is pressed.
 *
 * `makePairs` returns a promise of [[real, drawn], ...], flat images; `tell` shows an error.
 */
export function setUp({ pair, question, next }, makePairs, tell) {
  let pairs = [];
  let round = 0;
  let score = 0;

  function ask() {
    question.textContent = `Pair ${round + 1} of ${pairs.length}: which one did a person write?`;
    next.hidden = true;
    const images = [...pairs[round]];
    if (Math.random() < 0.5) {
      images.reverse();
    }
    const buttons = images.map((image, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-label", ["The left one", "The right one"][i]);
      const canvas = button.appendChild(document.createElement("canvas"));
      paint(canvas, image);
      const caption = button.appendChild(document.createElement("span"));
      caption.textContent = "\u00a0"; // the height of the answer
      button.addEventListener("click", () => answer(buttons, images, image));
      return button;
    });
    pair.replaceChildren(...buttons);
    pair.hidden = false;
  }

  function answer(buttons, images, chosen) {
    const [real] = pairs[round];
    score += chosen === real;
    round += 1;
    buttons.forEach((button, i) => {
      const isReal = images[i] === real;
      button.disabled = true;
      button.classList.add(isReal ? "right" : "wrong");
      button.lastChild.textContent = isReal ? "✓ a person" : "the network";
    });
    const result = chosen === real ? "Right" : "Fooled";
    const counted = `${score} of ${round} so far`;
    const end = `You found ${score} of ${round}. By guessing one finds ${round / 2}.`;
    question.textContent = `${result}: ${round < pairs.length ? counted : end}`;
    next.textContent = round < pairs.length ? "Next pair" : "Play again";
    next.hidden = false;
    next.focus();
  }

  next.addEventListener("click", async () => {
    if (round === pairs.length) {
      try {
        pairs = await makePairs();
      } catch (error) {
        tell(error);
        return;
      }
      [round, score] = [0, 0];
    }
    ask();
  });
}
