"""The actor as an ONNX graph: observations in, preferences of actions out."""

import json
from pathlib import Path

import numpy as np

from adaspec_rl import strict_json
from adaspec_rl.control.batching.rowwise import Rowwise
from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.interop.exported import Export, Part
from adaspec_rl.interop.parts import keep_policy
from adaspec_rl.interop.replayed import Replayable
from adaspec_rl.interop.runtime import POLICY
from adaspec_rl.interop.workshop import Workshop
from adaspec_rl.training.bundle import load_bundle

INTERFACE = "ONNX operator set 17"
FILE, DESCRIPTION, ACTOR = "actor.onnx", "actor.json", "actor"
OPSET, IR = 17, 8


def write(shop: Workshop, folder: Path) -> list[Part]:
    """Write the graph, and the features and actions that belong to it.

    Raises:
        ValueError: the package `onnx` is missing.
    """
    bundle = shop.bundle
    (folder / FILE).write_bytes(onnx_bytes(bundle.actor))
    described = {
        "features": [
            {"name": name, "divided_by": scale}
            for name, scale in zip(bundle.spec.names, bundle.spec.scales)
        ],
        "actions": [
            {"drafter": a.drafter, "length": a.length, "threshold": a.threshold}
            for a in bundle.actions
        ],
    }
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")
    keep_policy(bundle, shop.costs, folder)
    return [
        Part(
            ACTOR,
            (FILE, DESCRIPTION),
            f"InferenceSession({FILE!r}).run(['preferences'], {{'observation': [batch, features]}})"
            ", then the action of the largest preference",
            tuple(range(len(shop.drafters))),
            lost=("how features are computed: adaspec_rl.control.observation says it",),
            mind=("observations are float32, each feature already divided by its scale",),
        )
    ]


def onnx_bytes(actor: Actor) -> bytes:
    """The graph of an actor: products, sums and tanh.

    Raises:
        ValueError: the package `onnx` is missing.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError:
        raise ValueError("to=onnx needs the package onnx: pip install 'adaspec_rl[onnx]'") from None
    nodes, tensors, name = [], [], "observation"
    last = len(actor.weights) - 1
    for layer, (weight, bias) in enumerate(zip(actor.weights, actor.biases)):
        tensors += [
            numpy_helper.from_array(np.ascontiguousarray(weight, dtype=np.float32), f"w{layer}"),
            numpy_helper.from_array(np.ascontiguousarray(bias, dtype=np.float32), f"b{layer}"),
        ]
        summed = "preferences" if layer == last else f"sum{layer}"
        nodes.append(helper.make_node("MatMul", [name, f"w{layer}"], [f"product{layer}"]))
        nodes.append(helper.make_node("Add", [f"product{layer}", f"b{layer}"], [summed]))
        if layer < last:
            name = f"hidden{layer}"
            nodes.append(helper.make_node("Tanh", [summed], [name]))
    features, actions = actor.weights[0].shape[0], actor.weights[-1].shape[1]
    ends = [
        helper.make_tensor_value_info(what, TensorProto.FLOAT, ["batch", size])
        for what, size in (("observation", features), ("preferences", actions))
    ]
    graph = helper.make_graph(nodes, "actor", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def actor_of(content: bytes) -> Actor:
    """The actor of a graph that `onnx_bytes` made."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(content).graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    layers = range(len(arrays) // 2)
    return Actor(
        tuple(arrays[f"w{layer}"] for layer in layers),
        tuple(arrays[f"b{layer}"] for layer in layers),
    )


def replayables(folder: Path, export: Export) -> dict[str, Replayable]:
    """The graph's own weights, with the bundle's observations and the described actions."""
    actor = actor_of((folder / FILE).read_bytes())
    bundle = load_bundle(folder / POLICY)
    said = strict_json.read(folder / DESCRIPTION, DESCRIPTION)["actions"]
    assert len(said) == len(bundle.actions)
    return {
        part.name: Replayable(
            lambda: Rowwise(lambda: LearnedPolicy(actor, bundle.actions, bundle.spec))
        )
        for part in export.parts
    }
