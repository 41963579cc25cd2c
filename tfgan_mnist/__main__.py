"""`python -m tfgan_mnist` lists the commands."""

COMMANDS = {
    "train": "train a model and export its generator",
    "generate": "draw images with a run or an export",
    "evaluate": "compare samples with real images",
    "export": "export a run, or convert an export to ONNX or LiteRT",
    "serve": "serve exports, and a page that draws digits",
    "train_classifier": "make the classifier of another data set, as the first `train` does",
}

if __name__ == "__main__":
    print("Commands; each has --help:\n")
    for name, meaning in COMMANDS.items():
        print(f"  python -m tfgan_mnist.{name:17} {meaning}")
