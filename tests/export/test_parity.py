"""The parity check passes for every learner and loss, and fails where it should."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from msr_export import check_parity, support
from msr_export.gradients import trace
from msr_runtime.errors import ExportError, ParityError


@pytest.mark.parametrize(
    ("method", "loss", "form"),
    [
        ("msr", "mse", "full"),
        ("msr", "cross_entropy", "full"),
        ("msr", "mse", "kronecker"),
        ("maml", "huber", "full"),
        ("anil", "mse", "full"),
        ("meta-sgd", "cross_entropy", "full"),
        pytest.param("maml-big", "mse", "full", marks=pytest.mark.slow),  # MAML's graphs, wider
        ("cavia", "mse", "full"),
        ("function-encoder", "mse", "full"),
        ("protonets", "cross_entropy", "full"),
        pytest.param("fine-tuning", "mse", "full", marks=pytest.mark.slow),  # MAML's graphs
    ],
)
def test_every_learner_and_loss(exporter, method, loss, form) -> None:
    """At five shot counts, three batch sizes and up to five steps, ONNX Runtime is within 1e-5 of torch."""
    export = exporter.exported(method, loss, form)
    proof = check_parity(*export, inputs=exporter.inputs(export.normalization), seed=1)
    assert 0 < proof.max_relative_error <= proof.tolerance == 1e-5
    assert (proof.shots, len(proof.batches)) == ((1, 4, 10, 33, 1024), 3)
    assert proof.steps == ((1, 2) if method == "protonets" else (1, 2, 3, 4, 5))  # class means take one


_NEWTON = {"rule": "gauss-newton", "inner_steps": 2, "damping": 0.1}


@pytest.mark.parametrize(
    ("method", "loss", "changes"),
    [
        ("msr", "mse", {"step_rates": True}),
        ("msr", "mse", _NEWTON),
        pytest.param("msr", "huber", _NEWTON, marks=pytest.mark.slow),
        pytest.param("msr", "cross_entropy", _NEWTON, marks=pytest.mark.slow),
        pytest.param("cavia", "mse", _NEWTON, marks=pytest.mark.slow),
        pytest.param("anil", "mse", {"rule": "ridge", "damping": 0.1}, marks=pytest.mark.slow),
        ("anil", "mse", {"rule": "ridge", "damping": 0.1, "reparameterized": True}),
        ("msr", "mse", {"rule": "ridge", "damping": 0.1, "depth": 0, "bias": False}),
    ],
    ids=str,
)
def test_every_rule(exporter, method, loss, changes) -> None:
    """Separate rates per step, Gauss-Newton and ridge, also beyond the last trained step."""
    export = exporter.exported(method, loss, **changes)
    assert 0 < check_parity(*export, inputs=exporter.inputs(export.normalization), seed=1).max_relative_error <= 1e-5
    exporter.assert_updates_of_right_size(export)


def test_a_graph_of_one_number_of_shots_is_refused() -> None:
    """An operation that needs the number of samples fixes the traced graph to the example's number."""
    fixed = {"support_x": torch.zeros(7, 2)}
    with pytest.raises(ExportError, match=r"traced for 7 samples and holds for no other.*network calls len\(x\)"):
        trace(lambda _, arguments: arguments["support_x"].sum() / len(arguments["support_x"]), {}, fixed, ["support_x"])
    trace(lambda _, arguments: arguments["support_x"].mean(), {}, fixed, ["support_x"])


def test_what_does_not_adapt_is_refused(exporter) -> None:
    """A floor has nothing that could change."""
    with pytest.raises(ExportError, match="nothing of method 'no-adaptation' adapts"):
        exporter.freeze(exporter.build("no-adaptation", "mse"), exporter.scaled)


def test_a_state_that_grows_with_the_samples_is_refused(exporter) -> None:
    """The message names the method, and what to do in place of an export."""
    with pytest.raises(ExportError, match=r"'attention' keeps.*grows with its samples.*msr evaluate.*function-encoder"):
        exporter.freeze(exporter.build("attention", "mse"), exporter.scaled)


def scale_rates(adapt: bytes, columns: slice, factor: float) -> bytes:
    """adapt.onnx with some of its inner rates multiplied."""
    model = onnx.load_from_string(adapt)
    size = next(part.type.tensor_type.shape.dim[1].dim_value for part in model.graph.input if part.name == "v")
    (rates,) = (part for part in model.graph.initializer if list(part.dims) == [1, size])
    values = numpy_helper.to_array(rates).copy()
    values[:, columns] *= factor
    rates.CopyFrom(numpy_helper.from_array(values, rates.name))
    return model.SerializeToString()


def test_a_wrong_rate_is_named_by_its_layer(exporter) -> None:
    """One layer's rate off by 1 % is refused. The message names the layer and the error."""
    export = exporter.exported("msr", "mse")
    wrong = export.frozen._replace(adapt=scale_rates(export.frozen.adapt, slice(10, 15), 1.01))
    with pytest.raises(ParityError, match=r"'(v of )?layers\.1\.weight'.*relative error is \d\.\de-0\d"):
        check_parity(export.learner, export.normalization, wrong, exporter.inputs(export.normalization), 1)


def test_a_wrong_graph_that_is_not_finite_is_refused(exporter) -> None:
    """NaN does not count as a small error."""
    export = exporter.exported("msr", "mse")
    wrong = export.frozen._replace(adapt=scale_rates(export.frozen.adapt, slice(0, 5), float("nan")))
    with pytest.raises(ParityError, match="relative error is nan"):
        check_parity(export.learner, export.normalization, wrong, exporter.inputs(export.normalization), 1)


def test_a_wrong_loss_is_refused(exporter) -> None:
    """loss.onnx is compared too: here it holds another loss."""
    export = exporter.exported("maml", "huber")
    wrong = export.frozen._replace(loss=exporter.exported("msr", "mse").frozen.loss)
    with pytest.raises(ParityError, match="disagree on 'loss' "):
        check_parity(export.learner, export.normalization, wrong, exporter.inputs(export.normalization), 1)


def test_wrong_losses_of_the_samples_are_refused(exporter) -> None:
    """Those of a batch in another order have the right mean, and are not those of the samples."""
    export = exporter.exported("msr", "mse")
    model = onnx.load_from_string(export.frozen.loss)
    (last,) = (node for node in model.graph.node if node.output[0] == "losses")
    last.output[0] = "each"
    back = {name: numpy_helper.from_array(np.array([end]), name) for name, end in (("first", -1), ("stop", -(2**31)))}
    axes = numpy_helper.from_array(np.array([0]), "axis")
    model.graph.initializer.extend([*back.values(), axes, numpy_helper.from_array(np.array([-1]), "back")])
    model.graph.node.append(onnx.helper.make_node("Slice", ["each", "first", "stop", "axis", "back"], ["losses"]))
    wrong = export.frozen._replace(loss=model.SerializeToString())
    with pytest.raises(ParityError, match="disagree on 'losses' "):
        check_parity(export.learner, export.normalization, wrong, exporter.inputs(export.normalization), 1)


def test_a_wrong_normalization_is_refused(exporter) -> None:
    """The reference normalizes by itself, so a graph with another normalization fails."""
    export = exporter.exported("msr", "mse")
    other = export.normalization.model_copy(update={"input_center": (0.5, -1.0, 0.2, 0.01)})
    with pytest.raises(ParityError):
        check_parity(export.learner, other, export.frozen, exporter.inputs(other), 1)


def test_an_inner_loop_that_diverges_is_refused(exporter, monkeypatch) -> None:
    """If torch itself diverges on every support set, the message says so and does not blame the graphs."""
    monkeypatch.setattr(support, "_ATTEMPTS", 10)
    export = exporter.exported("maml", "huber")
    learner = exporter.build("maml", "mse", inner_rate=100.0)
    with pytest.raises(ExportError, match="the inner loop diverges in torch"), np.errstate(all="ignore"):
        check_parity(learner, export.normalization, export.frozen, exporter.inputs(export.normalization), 1)
