"""Help on what no single option can say: data, and preprocessing."""

from __future__ import annotations

import json

import click

from hqp_onnx.cli.output import say
from hqp_onnx.data.preprocess import KEYS, PRESETS

DATA_TOPIC = """\
DATA, wherever it is asked for:

  FILE.npz            one array per model input, under the input's name, first
                      axis = samples; every other array is a target, such as
                      'labels'. Uncompressed arrays (numpy.savez) are read from
                      the file as needed; compressed ones of more than 64 MiB
                      are unpacked into a temporary file.
  FILE.npy            the only input of the model; read as needed.
  FOLDER of .npy      one file per array: input.npy, labels.npy, ...
  FOLDER of images    one sub-folder per class, or images without classes; see
                      `hqp help preprocess`. The sub-folders, sorted by name,
                      are classes 0, 1, 2, ... (10 comes before 2): a missing
                      one lowers the numbers of all behind it.
  FILE.py[:func]      func (default load_data) yields dictionaries of arrays by
                      input name, or pairs (dictionary, targets). Targets are
                      one array, taken as 'labels', or a dictionary. func is
                      called for each pass, and must yield the same each time.

TARGETS, for --targets, where they are not in DATA:

  of images           a folder of masks (PNG files of class indices, named as
                      the images), COCO's JSON of boxes, or a CSV file: file
                      name, then numbers.
  of other samples    one row per sample: a CSV file of numbers, a .npy file
                      ('labels'), or a .npz file.

What metrics see:

  'labels'            class numbers [samples]; masks [samples, height, width];
                      values or tags [samples, ...]
  'boxes', 'classes'  [samples, N, 4] as x1, y1, x2, y2 in pixels of the model's
                      input, and [samples, N], where N is the largest number of
                      objects in a sample, and class -1 fills up the rest;
                      'crowd' and 'area' likewise
  any other name      as in the file, or as the script yields it

--targets holds for all data of a command (--data, --calib, --val, --test), and
images find theirs by file name; --calib-targets, --val-targets and
--test-targets are for one of them alone. An input without a batch axis is set
by --constant NAME=VALUE (a number, a JSON list, or FILE.npy), unless DATA has
it. Samples of different shapes are put into batches of one shape each; --pad
NAME=VALUE instead pads them at the end with VALUE, to the size that the model
fixes, or to the longest of a batch.

--state INPUT=OUTPUT feeds an output to the next sample: samples are the time
steps of sequences, in order, and an array 'sequence' in DATA says which
sequence each step belongs to; the state of a new sequence is zero.
"""


def preprocess_topic() -> str:
    """Keys and names of preprocessing."""
    width = max(map(len, KEYS))
    keys = "\n".join(f"  {key:{width}}  {words}" for key, words in KEYS.items())
    names = "\n".join(f"  {name:{width}}  {json.dumps(dict(values))}" for name, values in PRESETS.items())
    return f"""\
--preprocess NAME, a JSON object in quotes, or a file of one; of folders of images alone:

  --preprocess imagenet
  --preprocess '{{"size": 256, "crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}'

An image is resized, cut, and becomes (pixel * scale - mean) / std. Keys:

{keys}

Names, which take the size, the layout and the number of channels from the model's input (224 where it is open):

{names}

  imagenet resizes the shorter side to 8/7 of the input, and cuts the centre; clip to the input, and cuts; tf resizes
  both sides to the input; yolo fits the image into it and pads with grey.

Masks and boxes of --targets go through the same resize and cut; masks by nearest neighbour, with 255 where there is no
image.
"""


TOPICS = {"data": lambda: DATA_TOPIC, "preprocess": preprocess_topic}


@click.command(name="help")
@click.argument("topic", required=False, type=click.Choice(sorted(TOPICS)))
def help_command(topic: str | None) -> None:
    """Explain DATA (`hqp help data`), or preprocessing (`hqp help preprocess`)."""
    texts = {name: text() for name, text in TOPICS.items() if topic in (name, None)}
    begins = (f"hqp help {name}: {text.splitlines()[0].rstrip(':')}" for name, text in texts.items())
    say("\n".join(begins) if topic is None else texts[topic])
