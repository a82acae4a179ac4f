"""The functions that `msr_runtime` calls where a bundle runs as native code: graphs, without the checks of the door.

Python has checked shapes, bounds and values before, and says better what is wrong.
"""

from msr_c.graphs.graph import Graph
from msr_c.writing.text import filled
from msr_runtime.bundle.manifest import STEP, Manifest

INTERFACE = 1
"""The version of these functions."""


def robot_functions(manifest: Manifest, name: str, adapt: Graph) -> str:
    """Return the functions, with names that are the same for each bundle.

    Args:
        manifest: The bundle's manifest.
        name: What all other names in C begin with.
        adapt: The graph of an inner step.
    """
    words = {
        "name": name,
        "NAME": name.upper(),
        "version": INTERFACE,
        "label": "const int *ys" if manifest.loss == "cross_entropy" else "const float *ys",
        "step": "&step, " if STEP in adapt.inputs else "",
    }
    return filled(_FUNCTIONS, words)


_FUNCTIONS = """
/* Version of these functions; numbers of a network; bytes of a workspace; numbers of x and of y; most samples; K. */
extern const long long native_sizes[7];
const long long native_sizes[7] = {@version@, sizeof(@name@_network) / sizeof(float), sizeof(@name@_workspace),
                                   @NAME@_INPUTS, @NAME@_OUTPUTS, @NAME@_SHOTS, @NAME@_FILTERS};

void native_predict(const @name@_network *network, const float *x, float *y, long long count);
void native_predict(const @name@_network *network, const float *x, float *y, long long count)
{
    for (long long i = 0; i < count; ++i)
        predict_graph(network, x + i * @NAME@_INPUTS, y + i * @NAME@_OUTPUTS);
}

void native_loss(const @name@_network *network, @name@_workspace *work, const float *xs, @label@, int shots,
                 float *loss);
void native_loss(const @name@_network *network, @name@_workspace *work, const float *xs, @label@, int shots,
                 float *loss)
{
    loss_graph(shots, network, xs, ys, loss, work);
}

/* Steps `first` to `first` + `steps` - 1 from `from` to `to`, and the loss before the first. */
void native_adapt(const @name@_network *from, @name@_workspace *work, const float *xs, @label@, int shots, int first,
                  int steps, @name@_network *to, float *before);
void native_adapt(const @name@_network *from, @name@_workspace *work, const float *xs, @label@, int shots, int first,
                  int steps, @name@_network *to, float *before)
{
    float later;
    for (int i = 0; i < steps; ++i) {
        const int step = first + i;
        @name@_network *next = i == steps - 1 ? to : &work->networks[i % 2];
        (void)step;
        adapt_graph(shots, from, xs, ys, @step@next, i == 0 ? before : &later, work);
        from = next;
    }
}
"""
