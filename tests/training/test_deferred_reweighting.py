"""Class weights that begin late in an ordinary Trainer."""

import tiny
from transformers import Trainer, TrainingArguments

from selmix_hf import DeferredReweighting, ImageCollator, LDAMLoss
from selmix_hf.method.losses import effective_number_weights


def test_deferred_reweighting_in_an_ordinary_trainer(tmp_path):
    """With begin 0.5 the last two of four steps carry the weights."""
    seen = []

    class Recording(LDAMLoss):
        def forward(self, outputs, labels, num_items_in_batch=None):
            seen.append(None if self.class_weight_K is None else self.class_weight_K.tolist())
            return super().forward(outputs, labels, num_items_in_batch)

    counts = [5, 3, 3, 1]
    loss = Recording(counts)
    trainer = Trainer(
        tiny.model("convnext"),
        TrainingArguments(
            str(tmp_path),
            max_steps=4,
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
        ImageCollator(transform=tiny.to_tensor),
        tiny.images(counts),
        compute_loss_func=loss,
        callbacks=[DeferredReweighting(loss, counts, begin=0.5)],
    )
    trainer.train()
    assert seen[:2] == [None, None] and seen[2] == seen[3] == effective_number_weights(counts).tolist()
