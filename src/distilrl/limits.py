"""What readers take at most of a file that nobody vouches for: bytes, elements, nesting, steps.

Each is far above what a policy has needed, and low enough that a file which claims more costs neither memory nor time.
A reader allocates what the file's own bytes can fill, and nothing on a file's word.
"""

# -- bytes
MAX_BYTES = 1 << 30
"""A policy's file, or what an archive unpacks to: ten times the largest network that was distilled here."""
MAX_PICKLE_BYTES = 64 << 20
"""A pickle; the numbers of tensors are not in it."""
MAX_CODE_BYTES = 1 << 17
"""The text of a TorchScript module, which is looked at for each layer: fifteen times the longest that was met."""
MAX_SPEC_BYTES = 1_000_000
"""A spec.json, which names a network's sizes; the longest that there is has a few thousand bytes."""
MAX_JSON_BYTES = 1 << 28
"""Any other JSON, metrics.csv and a moving picture; the longest JSON that is written, of 10,000 episodes with pictures,
is a tenth of it."""
MAX_TREE_BYTES = 64 << 20
"""A tree.json: some hundred bytes a node."""

# -- elements
MAX_VALUES = 4_000_000
"""Values in one JSON: an empty list is two characters of a file, and sixty bytes of memory."""
MAX_MEMBERS = 20_000
"""Members of a zip: two for each tensor."""
MAX_DIRECTORY_BYTES = 8 << 20
"""A zip's list of its members, which is read before they can be counted: four hundred for each of the most members."""
MAX_TENSORS = 10_000
"""Tensors of a state dict: each costs Python more than its numbers may."""
MAX_CLASSES = 1_000
"""Classes of a TorchScript file."""
MAX_SPEC_LAYERS = 1_000
"""Layers of a network of this project's own, which are made before its weights are read."""
MAX_LAYERS = 16
"""Layers of memory in a state dict, one on the other."""
LARGEST_OBSERVATION = 2**24
"""Numbers in one observation; more are a mistake, or a file's attempt to take memory."""
LARGEST_NETWORK = 2**28
"""Parameters of a network that is made before its weights are read: as many float32 as `MAX_BYTES` holds."""
MAX_ELEMENTS = MAX_BYTES // 4
"""Numbers in one tensor of a graph, stored or computed."""
MAX_RUN_BYTES = 2 << 30
"""What all graphs of a process hold while they run: shapes that follow from an observation are known no sooner."""
MAX_STATE = 1 << 20
"""Numbers that one episode may remember in one input of a graph."""
MAX_TREE_NUMBERS = 1 << 26
"""Numbers in a tree's leaves: nodes times the head's width."""

LARGEST_NUMBER = 1e30
"""A margin, or the worst loss of an episode: no environment pays as much, and sums of more are not finite."""
MAX_LOOKS = 1_000
"""How many times a verdict may have been asked for."""
MAX_EPISODES = 2**31
"""Episodes, or seeds that a verdict passes over."""
MAX_PART_BYTES = 1 << 30
"""A part of an evaluation, unpacked: some thousand images of states."""

# -- characters
MAX_KEY = 512
"""A key of a dict in a pickle."""
MAX_NAME = 60
"""Name of a file that is looked for because another one names it."""
MAX_PRINTED = 1 << 20
"""A printed array or space that is looked at."""

# -- steps and nesting
MAX_OPCODES = 500_000
"""Steps of a pickle: some thirty for a tensor."""
MAX_NODES = 100_000
"""Steps of a graph, the functions that it calls written out."""
MAX_CALLS = 100
"""Functions of a graph that call one another."""
MAX_DEPTH = 3
"""Archives in archives that are searched for dangerous names."""
MAX_SEARCHED = 1_000
"""Members that are searched for them, of a file and of all archives in it."""
MAX_SEARCHED_BYTES = 256 << 20
"""What these are together, unpacked."""
MAX_FOUND = 50
"""Dangerous names that are told."""
