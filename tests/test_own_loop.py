"""What docs/own_loop.md shows works, the very text of it: a loop of one's own, timm's, Lightning's, Hugging Face's.

The libraries take seconds to import, so each is imported once, by the block that it stands in.
"""

from functools import partial

import pages
import pytest
import torch
import torchvision
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import moex

blocks = partial(pages.blocks, "own_loop.md", language="python")
CLASSES, BATCH = 10, 8


@pytest.fixture
def names():
    """What the page takes for granted: a network, batches, an optimizer, and what is imported."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=CLASSES)
    images, labels = torch.randn(2 * BATCH, 3, 32, 32), torch.arange(2 * BATCH) % CLASSES
    return {
        "moex": moex,
        "torch": torch,
        "nn": torch.nn,
        "F": F,
        "model": model,
        "images": images[:BATCH],
        "labels": labels[:BATCH],
        "loader": DataLoader(TensorDataset(images, labels), batch_size=BATCH),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }


@pytest.fixture
def exchanges(monkeypatch):
    """The shapes of the features that were exchanged, as it happens: here every step happens each time."""
    count = []
    exchange = moex.MoEx.function

    def counting(step):
        function = exchange(step)

        def counted(x, perm, *, channel_dim, norm, eps):
            count.append(x.shape)
            return function(x, perm, norm, eps=eps, channel_dim=channel_dim)

        return counted

    monkeypatch.setattr(moex.MoEx, "function", counting)
    monkeypatch.setattr(moex.Mixing, "_draw_steps", lambda mixing, _: list(mixing.steps))
    return count


def in_training(exchanges):
    """The batches whose features were exchanged; the first call also looks at a few images."""
    return [shape for shape in exchanges if shape[0] == BATCH]


def test_a_mixing_list(names, exchanges):
    before = names["model"].fc.weight.detach().clone()
    (code,) = blocks("A mixing list")
    exec(code, names)
    assert len(in_training(exchanges)) == 2
    assert torch.isfinite(names["loss"])
    assert not torch.equal(names["model"].fc.weight, before)


def test_the_exchange_alone(names):
    names["model"].eval()
    (code,) = blocks("The exchange alone")
    exec(code, names)
    logits, labels, perm = names["logits"], names["labels"], names["perm"]
    assert not torch.allclose(logits, names["model"](names["images"]))
    mixed = 0.9 * F.one_hot(labels, CLASSES) + 0.1 * F.one_hot(labels[perm], CLASSES)
    torch.testing.assert_close(names["loss"], F.cross_entropy(logits, mixed))


# The inputs of each example, and the dimensions of channels and samples after its layer.
LAYOUTS = {
    "signals": ((8, 2, 100), 1, 0, "pono"),
    "batch first": ((8, 50, 3), -1, 0, "pono"),
    "time first": ((50, 8, 3), -1, 1, "pono"),
    "volumes": ((8, 1, 9, 16, 16), 1, 0, "in"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_sequences_and_volumes(names, name):
    """The network of each example, with the exchange after the layer by hand."""
    codes = dict(zip(LAYOUTS, blocks("Sequences and volumes"), strict=True))
    exec(codes[name], names)
    shape, channel_dim, batch_dim, norm = LAYOUTS[name]
    model, exchange, perm, inputs = names["model"].eval(), names["exchange"], torch.randperm(8), torch.randn(shape)
    assert names["logits"].shape[-1] == CLASSES
    with exchange.swap(perm):
        logits = model(inputs)
    after = int(exchange.layer) + 1
    features = model[:after](inputs)
    exchanged = moex.exchange_moments(features, perm, norm, channel_dim=channel_dim, batch_dim=batch_dim)
    torch.testing.assert_close(logits, model[after:](exchanged))
    assert not torch.allclose(logits, model(inputs))


def test_timm(names, exchanges, monkeypatch):
    (code,) = blocks("timm")
    given, execute = [], moex.Mixing.execute
    monkeypatch.setattr(
        moex.Mixing, "execute", lambda mixing, *batch: (given.append(batch[-1]), execute(mixing, *batch))[1]
    )
    exec(code, names)
    assert len(in_training(exchanges)) == 2
    # Soft as timm's Mixup left them, and mixed once more.
    for soft in given:
        assert soft.shape == (BATCH, CLASSES)
        torch.testing.assert_close(soft.sum(1), torch.ones(BATCH))
    assert (names["targets"] > 0).sum(1).max() > 2
    assert not torch.equal(names["targets"], given[-1])
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(BATCH))
    assert torch.isfinite(names["loss"])


def test_lightning(names, exchanges, tmp_path, recwarn):
    (code,) = blocks("Lightning")
    exec(code, names)
    lightning, model = names["lightning"], names["model"]
    classifier = names["Classifier"](model, CLASSES)
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    before = model.fc.weight.detach().clone()
    trainer = lightning.Trainer(max_epochs=1, enable_checkpointing=False, **settings)
    trainer.fit(classifier, names["loader"])
    assert len(in_training(exchanges)) == 2
    assert not torch.equal(model.fc.weight, before)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == {f"model.{key}" for key in model.state_dict()}

    again = names["Classifier"](torchvision.models.resnet18(num_classes=CLASSES), CLASSES)
    trainer = lightning.Trainer(max_epochs=2, enable_checkpointing=False, **settings)
    trainer.fit(again, names["loader"], ckpt_path=tmp_path / "last.ckpt")
    assert again.mixing.state_dict() == {"seed": 0, "calls": 4}


class Pictures(torch.utils.data.Dataset):
    """As the Trainer takes them."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def test_hugging_face(names, exchanges, tmp_path):
    import transformers

    trainer_class, use = blocks("Hugging Face's Trainer")
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    config = transformers.ResNetConfig(num_labels=CLASSES, **shape)
    images, labels = map(torch.cat, zip(*names["loader"], strict=True))
    names["dataset"] = Pictures(images, labels)
    exec(trainer_class, names)
    losses, steps = [], []

    class Watched(names["MixingTrainer"]):
        def compute_loss(self, *arguments, **named):
            loss = super().compute_loss(*arguments, **named)
            losses.append((loss if isinstance(loss, torch.Tensor) else loss[0]).item())
            return loss

        def training_step(self, *arguments, **named):
            steps.append(float(super().training_step(*arguments, **named)))
            return torch.tensor(steps[-1])

    names["MixingTrainer"] = Watched
    names["model"] = model = transformers.ResNetForImageClassification(config)
    names["arguments"] = transformers.TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=2,
        max_steps=1,
        learning_rate=0.1,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    before = model.classifier[1].weight.detach().clone()
    exec(use, names)
    assert len(in_training(exchanges)) == 2
    assert not torch.equal(model.classifier[1].weight, before)
    assert steps == pytest.approx([loss / 2 for loss in losses])

    exchanges.clear()
    evaluated = names["trainer"].evaluate(names["dataset"])
    model.eval()
    plain = F.cross_entropy(model(images).logits, labels).item()
    assert evaluated["eval_loss"] == pytest.approx(plain, rel=1e-4)
    assert not exchanges

    tokens = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=CLASSES, **tokens)
    steps_of_tokens = [moex.MoEx(layer="vit.embeddings", channel_dim=-1)]
    mixing = moex.Mixing(transformers.ViTForImageClassification(config), steps_of_tokens, num_classes=CLASSES)
    mixing.prepare(images)
    assert exchanges == [(2 * BATCH, 17, 16)]
