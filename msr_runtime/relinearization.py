"""When a filter linearizes its first samples again.

A filter linearizes the network once for each sample, where v is at that time. The first samples find v far from where
it ends, so their slopes are wrong, and the filter goes on to believe them. So each time the number of the samples has
grown by about a half, up to a limit, all of them are taken again from the prior on, linearized where v is now. That is
a Gauss-Newton step towards the most likely v, and on average it costs three more updates for each of these samples.

Source: Bell, "The Iterated Kalman Smoother as a Gauss-Newton Method", 1994.
"""

LINEARIZED = "v_linearized"
"""Name of the input of update.onnx that holds the v whose weights it is given, `(1, K)`.

The network is linearized there. The graph has this input only if its rule linearizes samples again. Else, the weights
are those of the input `v`."""


def due(samples: int, limit: int) -> bool:
    """Whether the samples are linearized again after so many: after 2, 3, 4, 6, 8, 12 and so on up to `limit`."""
    power = 2 ** (samples.bit_length() - 1)  # the largest one that is not above `samples`
    return 2 <= samples <= limit and samples in (power, 1.5 * power)
