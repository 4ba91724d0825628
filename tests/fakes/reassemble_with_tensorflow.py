"""Reassembles the cases of an .npz in TensorFlow: `python -m tests.fakes.reassemble_with_tensorflow CASES ANSWERS`.

A process of its own, so that TensorFlow's threads and memory are in no other test's way.
"""

import sys

import numpy as np
import tensorflow as tf

from trainers.families.ptycho.reassembly_tensorflow import reassemble

if __name__ == "__main__":
    cases, answers = np.load(sys.argv[1]), {}
    for name in sorted({key.split("/")[0] for key in cases.files}):
        case = {key.split("/")[1]: cases[key] for key in cases.files if key.startswith(f"{name}/")}
        weights = tf.constant(case["weights"]) if "weights" in case else None
        canvas = int(case["canvas"]) if "canvas" in case else None
        found = reassemble(tf.constant(case["patches"]), tf.constant(case["offsets"]), int(case["crop"]), weights=weights, canvas=canvas)
        answers[f"{name}/object"], answers[f"{name}/weight"] = (tensor.numpy() for tensor in found)
    np.savez(sys.argv[2], **answers)
