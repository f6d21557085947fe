"""infer.py: a program beside ONNX files that runs them, and needs neither torch nor searchkit."""

from __future__ import annotations

_READ = '''def read(path, about):
    """An image file as RGB of 8 bits (3, H, W)."""
    if path.endswith(".npy"):
        pixels = np.load(path)
    elif path.endswith(".ppm"):
        data = open(path, "rb").read()
        width, height = map(int, data.split(None, 3)[1:3])
        pixels = np.frombuffer(data, np.uint8)[-3 * width * height :].reshape(height, width, 3)
    else:
        from PIL import Image, ImageOps

        image = Image.open(path)
        image = image if about["exif"] == "ignore" else ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":  # greys of more than 8 bits
            low, high = json.loads(about["range"]) or (0, 65536)
            image = Image.fromarray(((np.array(image) - low) * (256 / (high - low))).clip(0, 255).astype(np.uint8))
        pixels = np.array({fitted})
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
'''

_DETECTOR = '''"""What a detector finds on images: python infer.py photo.jpg …  (options: see the end)

Needs onnxruntime and numpy; and Pillow for files that are neither .ppm nor .npy (arrays (H, W, 3) of 8 bits).
"""

import argparse
import json
import os
import sys

import numpy as np
import onnxruntime

HERE = os.path.dirname(os.path.abspath(__file__))


{read}

def find(session, image):
    """Boxes (n, 4) in px of the image (left, top, right, bottom), scores (n,) and labels (n,) from 1 on, best first."""
    return session.run(["boxes", "scores", "labels"], {{"image": image[None]}})


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("images", nargs="+")
    options.add_argument("--model", default=os.path.join(HERE, "{file}"))
    options.add_argument("--threads", type=int, default=0)
    options.add_argument("--threshold", type=float, default=0.5)
    asked = options.parse_args()
    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads, how.log_severity_level = asked.threads, 3
    session = onnxruntime.InferenceSession(asked.model, how, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    names = json.loads(about["categories"])
    status = 0
    for path in asked.images:
        try:
            found = find(session, read(path, about))
        except Exception as e:  # what a broken file raises depends on its kind
            print(f"{{path!r}}: {{type(e).__name__}}: {{e}}".splitlines()[0], file=sys.stderr)
            status = 1
            continue
        for box, score, label in zip(*found):
            if score >= asked.threshold:
                print(path, names[label - 1], f"{{score:.4f}}", *(f"{{x:.2f}}" for x in box))
    sys.exit(status)
'''

_CLASSIFIER = '''"""What a classifier says of images: python infer.py photo.jpg …  (options: see the end)

Needs onnxruntime and numpy; and Pillow for files that are neither .ppm nor .npy (arrays (H, W, 3) of 8 bits). Those two
are taken as they are; others are resized and cropped to the size that the classifier is made for.
"""

import argparse
import json
import os
import sys

import numpy as np
import onnxruntime

HERE = os.path.dirname(os.path.abspath(__file__))


{read}

def fitted(image, size, ratio=0.875):
    """The middle of an image, resized to (height, width)."""
    height, width = size
    if image.size == (width, height):
        return image
    ratio = 1 if image.width <= width and image.height <= height else ratio
    factor = max(round(height / ratio) / image.height, round(width / ratio) / image.width)
    edges = max(width, int(image.width * factor + 1e-6)), max(height, int(image.height * factor + 1e-6))
    left, top = (edges[0] - width) // 2, (edges[1] - height) // 2
    return image.resize(edges, 2).crop((left, top, left + width, top + height))  # 2: bilinear


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("images", nargs="+")
    options.add_argument("--model", default=os.path.join(HERE, "{file}"))
    options.add_argument("--threads", type=int, default=0)
    options.add_argument("--top", type=int, default=1)
    asked = options.parse_args()
    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads, how.log_severity_level = asked.threads, 3
    session = onnxruntime.InferenceSession(asked.model, how, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    names = json.loads(about["categories"])
    status = 0
    for path in asked.images:
        try:
            scores = session.run(["scores"], {{"image": read(path, about)[None]}})[0][0]
        except Exception as e:  # what a broken file raises depends on its kind
            print(f"{{path!r}}: {{type(e).__name__}}: {{e}}".splitlines()[0], file=sys.stderr)
            status = 1
            continue
        chances = np.exp(scores - scores.max())
        for i in np.argsort(-scores)[: asked.top]:
            print(path, names[i], f"{{chances[i] / chances.sum():.4f}}")
    sys.exit(status)
'''

FILE = "infer.py"


def source(task: str, file: str) -> str:
    """The text of infer.py for the files of a task; file: the one that it takes by default."""
    classifier = task == "cls"
    fitted = 'fitted(image.convert("RGB"), json.loads(about["size"]))' if classifier else 'image.convert("RGB")'
    return (_CLASSIFIER if classifier else _DETECTOR).format(read=_READ.replace("{fitted}", fitted), file=file)
