"""What a step must send by each parallelism, with collectives that send no more than they must.

A ring all-reduce, as of Patarasuk and Yuan, 2009, doi:10.1016/j.jpdc.2008.09.002. The counts are those of the
training programs in frameworks/: the network's gradient is summed over the ranks, with data parallel the
classifier's too; a softmax whose classes are split gathers labels and embeddings, reduces and scatters the
embeddings' gradient, and reduces a maximum and two sums of each sample.
"""

from dlperf.plan.case import Case

FLOAT, HALF, LABEL = 4, 2, 8  # bytes


def gradient_bytes(case: Case, *, network_parameters: int, classifier_parameters: int) -> int:
    """What is summed over the ranks; it travels in the case's `gradient_dtype`."""
    classifier = classifier_parameters if case.parallelism == "data" else 0
    size = FLOAT if case.gradient_dtype == "float32" else HALF
    return size * (network_parameters + classifier)


def all_reduced(size: float, members: int) -> float:
    """Bytes that each of `members` sends so that all have the sum of `size` bytes."""
    return 2 * (members - 1) / members * size


def softmax_bytes(case: Case, *, members: int) -> float:
    """Bytes that a member sends for a softmax over classes that are split; it does not grow with them."""
    if case.parallelism == "data":
        return 0.0
    batch, embedding = case.global_batch_size, FLOAT * case.workload.embedding_size
    own = batch / members
    gathered = (members - 1) * own * (LABEL + embedding)
    scattered = (members - 1) / members * batch * embedding
    return gathered + scattered + all_reduced(3 * FLOAT * batch, members)


def sent_bytes(case: Case, *, members: int, network_parameters: int, classifier_parameters: int) -> float:
    """Bytes of payload that a member sends in a step, and receives at the same time.

    Members are the ranks, or the nodes for what must leave a node, whose ranks are then one member.
    """
    gradient = gradient_bytes(
        case, network_parameters=network_parameters, classifier_parameters=classifier_parameters
    )
    return all_reduced(gradient, members) + softmax_bytes(case, members=members)
