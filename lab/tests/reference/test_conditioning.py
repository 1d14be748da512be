"""What is trained of each pipeline: everything that should learn gets gradients, a tenth of the labels is dropped."""

import pytest
import torch

from small import ldm_pipeline, pixart_pipeline
from stepmask_lab.reference import conditioning
from stepmask_lab.reference.captions import captions
from stepmask_lab.reference.conditioning import trainable
from stepmask_lab.reference.losses import denoising_loss
from tiny import ddim_pipeline, dit_pipeline


def pixart():
    pytest.importorskip("transformers")
    return pixart_pipeline()


PIPELINES = pytest.mark.parametrize("make", [ddim_pipeline, dit_pipeline, ldm_pipeline, pixart])


@PIPELINES
def test_all_weights_but_the_autoencoders_learn(make):
    pipe = make()
    model = trainable(pipe)
    trained = {id(parameter) for parameter in model.parameters()}
    for name, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            assert all((id(parameter) in trained) == (name != "vae") for parameter in module.parameters()), name


@pytest.mark.parametrize("make", [ddim_pipeline, ldm_pipeline, pixart])
def test_gradients_reach_all_of_it(make):
    torch.manual_seed(0)
    pipe = make()
    model = trainable(pipe)
    config = getattr(pipe, "transformer", None) or pipe.unet
    shape = (32, config.config.in_channels, config.config.sample_size, config.config.sample_size)
    denoising_loss(pipe.scheduler)(model, torch.randn(shape), torch.arange(32) % 10).backward()
    idle = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()]
    assert not idle


def test_a_tenth_of_the_labels_is_dropped():
    torch.manual_seed(0)
    dropped = conditioning._dropped(torch.full((4000,), 3), 10)
    assert set(dropped.tolist()) == {3, 10} and 300 < (dropped == 10).sum() < 500


def test_captions_of_the_right_label_and_the_empty_one():
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    pipe = pixart_pipeline()
    model = trainable(pipe)
    seen = []
    hook = pipe.text_encoder.register_forward_pre_hook(lambda module, args: seen.extend(args[0].tolist()))
    labels = torch.arange(2000) % 10
    with torch.no_grad():
        model(torch.zeros(2000, 4, 8, 8), torch.zeros(2000, dtype=torch.long), labels)
    hook.remove()
    texts = [pipe.tokenizer.decode([token for token in ids if token > 1]) for ids in seen]
    table = [
        pipe.tokenizer.batch_decode(pipe.tokenizer(captions(label)).input_ids, skip_special_tokens=True)
        for label in range(10)
    ]
    whole = [(text, label) for text, label in zip(texts, labels.tolist(), strict=True) if "<unk>" not in text]
    empty = [text for text, _ in whole if not text]
    assert all(text in table[label] for text, label in whole if text)
    assert 120 < len(empty) < 280 and 0.6 < len(whole) / 2000 < 0.95
    assert {text for text, label in whole if label == 8} >= set(table[8])
