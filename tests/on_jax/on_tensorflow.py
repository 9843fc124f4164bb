"""What TensorFlow makes of some images: run by the tests with arguments IMAGES RUN FOLDER JSON."""

import json
import sys
from pathlib import Path

import numpy as np

from keras_transfer import backbones, training
from keras_transfer.frozen.engine import build_engine, predict_probabilities
from keras_transfer.runs import folder as runs

images, given, folder = sys.argv[1], runs.open_run(sys.argv[2]), Path(sys.argv[3])
settings = json.loads(sys.argv[4])
settings["split"] = tuple(settings["split"])
data = given.dataset
pixels = data.examples[data.indices("test")]
backbone = backbones.build("EfficientNetLite0", image_size=settings["image_size"])
np.save(folder / "features.npy", build_engine(backbone.model, "keras").run(pixels[:8])[0])
np.save(folder / "jax-run.npy", predict_probabilities(given.model, pixels))
training.train(images, output=folder / "run", **settings)
