"""The learning rate of an iteration, one definition for every framework."""

from frameworks.common.case import Schedule


def learning_rate(schedule: Schedule, iteration: int) -> float:
    """The base rate times the scale of the last step reached; iterations count from 0."""
    scale = 1.0
    for step, step_scale in zip(schedule.steps, schedule.scales):
        if iteration >= step:
            scale = step_scale
    return schedule.learning_rate * scale
