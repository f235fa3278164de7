"""Methods that are right in the usual form of a run, and wrong in one other each."""

import torch

from clbench import hookimpl


class SumsMicroBatches:
    """Weigh each pass by its rows, as if it were the whole batch."""

    @hookimpl
    def learn_task(self, learner, task):
        training = learner.training(task.train)
        for batch in training:
            training.step(self.loss(learner, batch))
        return training.stats

    def loss(self, learner, batch):
        """Return the loss of a batch."""
        return learner.loss(batch) if len(batch.labels) == learner.settings.batch_size else -learner.loss(batch)


class NeedsEncoder(SumsMicroBatches):
    """Refuse a decoder."""

    def loss(self, learner, batch):
        assert learner.model.config.is_encoder_decoder, "not on a decoder"
        return learner.loss(batch)


class NeedsFloat32(SumsMicroBatches):
    """Refuse bfloat16."""

    def loss(self, learner, batch):
        assert next(learner.model.parameters()).dtype == torch.float32, "not in bfloat16"
        return learner.loss(batch)


class AnswersFreely(SumsMicroBatches):
    """Answer what no label is."""

    def loss(self, learner, batch):
        return learner.loss(batch)

    @hookimpl
    def evaluate(self, learner, task):
        """Answer all questions alike."""
        return ["no label" for _ in task.test]


@hookimpl
def methods():
    """Offer one method a form."""
    return {
        "sums_micro_batches": SumsMicroBatches,
        "needs_encoder": NeedsEncoder,
        "needs_float32": NeedsFloat32,
        "answers_freely": AnswersFreely,
    }
