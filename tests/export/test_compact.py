"""Smaller constants are the same constants, in every graph and for every rule."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from msr_export import check_parity, freeze
from msr_export.compact import compact
from msr_export.freeze import Frozen
from msr_export.rounding import constants, rounded, row_lengths
from msr_export.tying import tied
from msr_runtime.inference.session import make_session

_CPU = ["CPUExecutionProvider"]


def _frozen(exporter: Any, precision: Any, method: str = "msr", **changes: Any) -> tuple[Any, Frozen, Frozen]:
    """A rounded learner, its graphs, and the same graphs with small constants."""
    learner, kept = rounded(exporter.build(method, "mse", **changes), precision)
    assert not kept
    frozen = freeze(learner, exporter.scaled)
    return learner, frozen, compact(frozen, row_lengths(learner) if precision == "int8" else ())


def _models(frozen: Frozen) -> dict[str, bytes]:
    recursion = frozen.recursion
    models = {name: getattr(frozen, name) for name in ("predict", "adapt", "loss", "sums")}
    models |= {"update": recursion.update, "deviation": recursion.deviation} if recursion else {}
    return {name: model for name, model in models.items() if model}


def _outputs(model: bytes) -> list[Any]:
    """What a graph computes from random inputs."""
    session, rng = make_session(model, "graph", _CPU), np.random.default_rng(0)
    feed = {}
    for part in session.get_inputs():
        shape = [size if isinstance(size, int) else 3 for size in part.shape]
        numbers = 0.1 * rng.random(shape)
        feed[part.name] = numbers.astype(np.float32 if part.type == "tensor(float)" else np.int64)
    return [np.asarray(output) for output in session.run(None, feed)]


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("float16", {}),
        ("int8", {"rule": "gauss-newton"}),  # sums.onnx holds U with exchanged axes
        ("int8", {"rule": "recursive", "memory": 3, "relinearize": 2}),
        ("int8", {"form": "kronecker", "terms": 2, "width": 16}),
        ("float16", {"method": "anil", "width": 24}),
    ],
)
def test_a_graph_computes_the_same_to_the_last_bit(exporter: Any, precision: Any, changes: dict[str, Any]) -> None:
    """U is about as small as its type says. sums.onnx reads a small U in two shapes, and has it once."""
    settings: dict[str, Any] = {"width": 20, "filters": 12} | changes
    learner, frozen, small = _frozen(exporter, precision, **settings)
    for name, model in _models(frozen).items():
        stored = _models(small)[name]
        assert all(map(np.array_equal, _outputs(stored), _outputs(model))), name
        large = [part.raw_data for part in onnx.load_from_string(stored).graph.initializer if len(part.raw_data) >= 256]
        assert name == "predict" or len(set(large)) == len(large)
    numbers = sum(part.numel() for part in constants(learner).values() if part.numel() >= 256)
    for name in ("adapt", "update"):
        if name in _models(frozen):
            saved = len(_models(frozen)[name]) - len(_models(small)[name])
            bytes_saved = 2 if precision == "float16" else 4 - 1 - 4 / min(row_lengths(learner))
            assert saved > bytes_saved * numbers - 200 * len(constants(learner))
    if not frozen.recursion and changes.get("rule") == "gauss-newton":
        check_parity(learner, exporter.scaled, small, exporter.inputs(exporter.scaled), 0)


def test_defaults_of_inputs_and_other_numbers_stay(exporter: Any) -> None:
    """The weights of predict.onnx are the defaults of its inputs. What no smaller type holds stays float32."""
    learner = exporter.build("anil", "mse", width=24)
    frozen = freeze(learner, exporter.scaled)  # not rounded
    assert _models(compact(frozen)) == _models(frozen)
    near = compact(freeze(rounded(learner, "float16")[0], exporter.scaled))
    graph = onnx.load_from_string(near.predict).graph
    types = {part.name: part.data_type for part in graph.initializer}
    assert {types[name] for name in near.weights} == {TensorProto.FLOAT}
    assert TensorProto.FLOAT16 in types.values()


def test_a_demo_sized_adapt_is_half_as_large(exporter: Any) -> None:
    """At a real size, adapt.onnx is little more than two bytes for each number of U."""
    learner, _, small = _frozen(exporter, "float16", width=48, filters=32)
    numbers = sum(part.numel() for part in constants(learner).values())
    assert 2 * numbers < len(small.adapt) < 2 * numbers + 10_000


def test_copies_of_few_numbers_are_small(exporter: Any) -> None:
    """Places take two bytes each, and the zeros between them none."""
    learner = exporter.build("msr", "mse", width=20, depth=2)
    parts = learner.network.get_submodule("layers.1.parametrizations.weight")
    with torch.no_grad():
        parts[0].U.copy_(torch.cat([torch.eye(5), torch.zeros(3, 5)])[torch.arange(400) % 8])
    parts[0] = tied(parts[0], 0.02)
    frozen = freeze(learner, exporter.scaled)
    small = compact(frozen)
    assert all(map(np.array_equal, _outputs(small.adapt), _outputs(frozen.adapt)))
    assert len(frozen.adapt) - len(small.adapt) > 4 * 400 + 6 * 250 - 300
