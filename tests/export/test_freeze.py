"""The graphs are what a robot can run: right, small and dynamic, with U constant; only v and its weights change."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from msr_runtime.errors import ExportError
from msr_runtime.inference.session import make_session
from msr_runtime.meta.rules.gradient import GradientSteps

CPU = ["CPUExecutionProvider"]


def test_adapt_equals_a_hand_written_loop(exporter) -> None:
    """Gradients by torch and gradients by hand, in float64 numpy, agree on five steps of an MSR network."""
    export = exporter.exported("msr", "mse")
    layers = [
        {
            part: (
                layer.parametrizations[part][0].U.detach().numpy().astype(np.float64),
                layer.parametrizations[part].original.detach().numpy().astype(np.float64),
                getattr(layer, part).shape,
            )
            for part in ("weight", "bias")
        }
        for layer in export.learner.network.layers
    ]
    rule = export.learner.rule
    assert isinstance(rule, GradientSteps)
    rates = [rate.item() for rate in rule.rates(0).values()]
    scaling = export.normalization
    support_x, support_y = exporter.draw(export, 9)
    x = (support_x - np.array(scaling.input_center)) / scaling.input_scale
    y = (support_y - np.array(scaling.output_center)) / scaling.output_scale

    session = make_session(export.frozen.adapt, "adapt", CPU)
    state = {"v": export.frozen.v0, **export.frozen.weights}
    for _ in range(5):
        activations, slopes, hidden = [x], [], x
        for index, layer in enumerate(layers):
            weight, bias = ((U @ v).reshape(shape) for U, v, shape in layer.values())
            hidden = hidden @ weight.T + bias
            if index < len(layers) - 1:
                gate = 1 / (1 + np.exp(-hidden))
                slopes.append(gate * (1 + hidden * (1 - gate)))
                hidden = hidden * gate
                activations.append(hidden)
        loss = np.mean((hidden - y) ** 2)
        delta = 2 * (hidden - y) / hidden.size
        for index in reversed(range(len(layers))):
            weight = (layers[index]["weight"][0] @ layers[index]["weight"][1]).reshape(layers[index]["weight"][2])
            gradients = {"weight": delta.T @ activations[index], "bias": delta.sum(0)}
            if index > 0:
                delta = (delta @ weight) * slopes[index - 1]
            for part, offset in (("weight", 0), ("bias", 1)):
                U, v, shape = layers[index][part]
                layers[index][part] = (U, v - rates[2 * index + offset] * U.T @ gradients[part].ravel(), shape)
        outputs = session.run(None, {"support_x": support_x, "support_y": support_y, **state})
        *moved, seen_loss = (np.asarray(output) for output in outputs)
        state = dict(zip(state, moved, strict=True))
        assert seen_loss == pytest.approx(loss, rel=1e-5)
    wanted = np.concatenate([v for layer in layers for _, v, _ in layer.values()])
    assert np.abs(state["v"][0] - wanted).max() < 1e-5 * np.abs(wanted).max()
    folded = [(U @ v).reshape(shape) for layer in layers for U, v, shape in layer.values()]
    for seen, weight in zip(list(state.values())[1:], folded, strict=True):
        assert np.abs(seen - weight).max() < 1e-5 * np.abs(weight).max()


@pytest.mark.parametrize(("method", "loss"), [("msr", "cross_entropy"), ("msr", "mse"), ("maml", "huber")])
def test_updates_do_not_grow_with_the_batch(exporter, method, loss) -> None:
    """Exported as torch writes it, the cross entropy of labels gives updates too large by the number of shots."""
    exporter.assert_updates_of_right_size(exporter.exported(method, loss))


def test_predict_runs_alone(exporter) -> None:
    """With x as its only input, predict.onnx equals torch at v0, for any batch."""
    export = exporter.exported("msr", "mse")
    session = make_session(export.frozen.predict, "predict", CPU)
    assert [part.name for part in session.get_inputs()] == ["x"]
    assert {part.name for part in session.get_overridable_initializers()} == set(export.frozen.weights)
    scaling = export.normalization
    for batch in (1, 2, 30):
        x, _ = exporter.draw(export, batch)
        with torch.no_grad():
            y = export.learner(export.learner.start(), torch.from_numpy(scaling.normalize_x(x))).numpy()
        wanted = y * np.array(scaling.output_scale) + scaling.output_center
        seen = session.run(["y"], {"x": x})[0]
        assert np.abs(seen - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_signature(exporter) -> None:
    """Names, shapes and dynamic axes are those of the bundle's contract."""
    export = exporter.exported("msr", "mse")
    session = make_session(export.frozen.adapt, "adapt", CPU)
    support = {"support_x": ["shots", 4], "support_y": ["shots", 2]}
    weights = {name: list(weight.shape) for name, weight in export.frozen.weights.items()}
    state = {"v": list(export.frozen.v0.shape), **weights}
    moved = {f"{name}_next": shape for name, shape in state.items()}
    assert [(part.name, part.shape) for part in session.get_inputs()] == list({**support, **state}.items())
    assert [(part.name, part.shape) for part in session.get_outputs()] == list({**moved, "loss": []}.items())
    loss = make_session(export.frozen.loss, "loss", CPU)
    assert [(part.name, part.shape) for part in loss.get_inputs()] == list({**support, **weights}.items())
    assert [(part.name, part.shape) for part in loss.get_outputs()] == [("loss", []), ("losses", ["shots"])]
    assert list(export.frozen.weights)[:2] == ["layers.0.weight", "layers.0.bias"]
    predict = make_session(export.frozen.predict, "predict", CPU)
    assert [(part.name, part.shape) for part in predict.get_outputs()] == [("y", ["batch", 2])]


@pytest.mark.parametrize("form", ["full", "kronecker"])
def test_every_constant_is_stored_once(exporter, form) -> None:
    """Each symmetry matrix is in adapt.onnx once, not twice and not transposed, and in no other graph."""
    export = exporter.exported("msr", "mse", form)
    symmetries = {
        name: parameter.detach().numpy()
        for name, parameter in export.learner.network.named_parameters()
        if name.endswith((".U", ".A", ".B"))
    }
    stored = [numpy_helper.to_array(part) for part in onnx.load_from_string(export.frozen.adapt).graph.initializer]
    assert len(symmetries) >= 6
    for U in symmetries.values():
        same = [part for part in stored if np.array_equal(part.ravel(), U.ravel())]
        turned = [part for part in stored if np.array_equal(part.ravel(), U.mT.ravel())]
        assert (len(same), len(turned)) == (1, 0)
    assert sum(part.size for part in stored) < sum(U.size for U in symmetries.values()) + 300
    weights = sum(weight.size for weight in export.frozen.weights.values())
    for model, size in ((export.frozen.predict, weights), (export.frozen.loss, 0)):
        stored = [numpy_helper.to_array(part) for part in onnx.load_from_string(model).graph.initializer]
        assert sum(part.size for part in stored) < size + 50


def test_a_step_reads_u_twice(exporter) -> None:
    """U is read to pull the gradient back and to fold, without a transpose: the weights at the start come in folded."""
    export = exporter.exported("msr", "mse")
    graph = onnx.load_from_string(export.frozen.adapt).graph
    values = {part.name: numpy_helper.to_array(part) for part in graph.initializer}
    for name, parameter in export.learner.network.named_parameters():
        if not name.endswith(".U"):
            continue
        (stored,) = (key for key, value in values.items() if np.array_equal(value, parameter.detach().numpy()))
        readers = [node for node in graph.node if stored in node.input]
        assert sorted(node.op_type for node in readers) == ["Gemm", "MatMul"]


def test_file_size_is_that_of_u(exporter) -> None:
    """At a real size, adapt.onnx is little larger than the numbers of U: K x mn per layer."""
    learner = exporter.build("msr", "mse", width=48, filters=32)
    frozen = exporter.freeze(learner, exporter.exported("msr", "mse").normalization)
    size = 4 * sum(p.numel() for name, p in learner.network.named_parameters() if name.endswith(".U"))
    assert size < len(frozen.adapt) < size + 20_000


@pytest.mark.parametrize(
    ("method", "loss"),
    [("msr", "mse"), ("maml", "huber"), ("anil", "mse"), ("meta-sgd", "cross_entropy"), ("cavia", "mse")],
)
def test_no_product_takes_a_vector(exporter, method, loss) -> None:
    """ONNX Runtime has no fast path for one-dimensional operands: every product in any graph is of matrices."""
    frozen = exporter.exported(method, loss).frozen
    for model in (frozen.adapt, frozen.predict, frozen.loss):
        graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True).graph
        ranks = {part.name: len(part.dims) for part in graph.initializer}
        ranks |= {
            part.name: len(part.type.tensor_type.shape.dim) for part in (*graph.input, *graph.output, *graph.value_info)
        }
        products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
        assert products
        assert all(ranks[name] == 2 for node in products for name in node.input[:2])


def test_file_says_nothing_of_its_maker(exporter) -> None:
    """A graph holds no path, no stack trace and no external data."""
    frozen = exporter.exported("msr", "mse").frozen
    for raw in (frozen.adapt, frozen.predict, frozen.loss):
        model = onnx.load_from_string(raw)
        assert not any(part.external_data for part in model.graph.initializer)
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
        assert b".py" not in raw
        assert b"/home" not in raw


def test_the_learner_is_left_as_it_was(exporter) -> None:
    """Freezing removes U from a copy, not from the learner."""
    export = exporter.exported("msr", "mse")
    assert "parametrizations" in export.learner.adapted_names[0]
    x = torch.zeros(2, 4)
    assert export.learner(export.learner.start(), x).shape == (2, 2)


def test_a_learner_that_is_not_finite_is_refused(exporter) -> None:
    """The message names the tensor with NaN."""
    learner = exporter.build("msr", "mse")
    with torch.no_grad():
        learner.rule.rate_parameters[0, 1] = float("nan")
    with pytest.raises(ExportError, match=r"'rule\.rate_parameters' of the learner is not finite"):
        exporter.freeze(learner, exporter.scaled)
