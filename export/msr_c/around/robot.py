"""The functions that `msr_runtime` calls where a bundle runs as native code: graphs, without the checks of the door.

Python has checked shapes, bounds and values before, and says better what is wrong.
"""

from collections.abc import Mapping

from msr_c.around.public import adapt_words
from msr_c.graphs.graph import Graph
from msr_c.writing.text import filled
from msr_runtime.bundle.manifest import Manifest
from msr_runtime.bundle.native import INTERFACE
from msr_runtime.bundle.store import ADAPT


def robot_functions(manifest: Manifest, name: str, graphs: Mapping[str, Graph]) -> str:
    """Return the functions, with names that are the same for each bundle.

    Args:
        manifest: The bundle's manifest.
        name: What all other names in C begin with.
        graphs: File to graph.
    """
    rows = f"(long long)(sizeof((({name}_filter *)0)->decays) / sizeof(float))" if manifest.recursion else "0"
    words = {
        "rows": rows,
        "name": name,
        "NAME": name.upper(),
        "version": INTERFACE,
        "label": "const int *ys" if manifest.loss == "cross_entropy" else "const float *ys",
    }
    if ADAPT in graphs:
        words |= adapt_words(graphs[ADAPT], "losses + 1", "    loss_graph(shots, from, xs, ys, losses + 1, work);\n")
    return filled(_FUNCTIONS + (_FILTER if manifest.recursion else _ADAPT), words)


_FUNCTIONS = """
/* Version of these functions; numbers of a network; bytes of a workspace; numbers of x and of y; most samples; K;
   rows of a filter. */
extern const long long native_sizes[8];
const long long native_sizes[8] = {@version@, sizeof(@name@_network) / sizeof(float), sizeof(@name@_workspace),
                                   @NAME@_INPUTS, @NAME@_OUTPUTS, @NAME@_SHOTS, @NAME@_FILTERS, @rows@};

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
"""

_ADAPT = """
/* Steps `first` to `first` + `steps` - 1 from `from` to `to`, and the losses before the first and after the last. */
void native_adapt(const @name@_network *from, @name@_workspace *work, const float *xs, @label@, int shots, int first,
                  int steps, @name@_network *to, float *losses);
void native_adapt(const @name@_network *from, @name@_workspace *work, const float *xs, @label@, int shots, int first,
                  int steps, @name@_network *to, float *losses)
{
    float later;
    for (int i = 0; i < steps; ++i) {
        const int step = first + i;
        @name@_network *next = i == steps - 1 ? to : &work->networks[i % 2];
        (void)step;
        adapt_graph(shots, from, xs, ys, @step@next, i == 0 ? losses : &later, @next@work);
        from = next;
    }
@last@}
"""

_FILTER = """
/* The network `to` after one sample, and what the sample said. It is linearized at another network, or at `from`. */
void native_update(const @name@_network *from, const @name@_network *there, @name@_workspace *work, const float *x,
                   const float *y, const float *rows, const float *decays, @name@_network *to, float *new_rows,
                   float *innovation, float *variance, float *nis);
void native_update(const @name@_network *from, const @name@_network *there, @name@_workspace *work, const float *x,
                   const float *y, const float *rows, const float *decays, @name@_network *to, float *new_rows,
                   float *innovation, float *variance, float *nis)
{
    update_graph(there, x, y, from->v, rows, decays, to, new_rows, innovation, variance, nis, work);
}

/* y of one x, and its standard deviations: of v, and with the noise of y too. */
void native_deviation(const @name@_network *network, @name@_workspace *work, const float *x, const float *rows,
                      const float *decays, float *y, float *epistemic, float *total);
void native_deviation(const @name@_network *network, @name@_workspace *work, const float *x, const float *rows,
                      const float *decays, float *y, float *epistemic, float *total)
{
    deviation_graph(network, x, rows, decays, y, epistemic, total, work);
}
"""
