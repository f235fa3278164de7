"""A method that learns nothing: its answers are the backbone's own, the zero-shot scores that `clbench rescore` can take."""

from clbench import hookimpl


class Untrained:
    """Leave the model as it is."""

    @hookimpl
    def learn_task(self, learner, task):
        return {}


@hookimpl
def methods():
    return {"untrained": Untrained}
