"""Finding families, and refusing what is unknown in words."""

import sys
from types import SimpleNamespace

import pytest
from diffusers import UNet2DModel
from torch import nn

from refusal import check_refused
from stepmask import UnknownArchitectureError, UnsupportedModelError, describe
from stepmask.graph import OUT
from stepmask.inspection.registry import architecture_of, denoiser_of, registered_architectures
from tiny import ddim_pipeline, dit_pipeline, tiny_model


def test_pipelines_and_denoisers_describe_alike():
    for pipe in (ddim_pipeline(), dit_pipeline()):
        assert describe(pipe) == describe(denoiser_of(pipe))


def test_subclasses_are_of_the_family():
    class Mine(UNet2DModel):
        pass

    model = tiny_model("UNet2DModel")
    model.__class__ = Mine
    assert architecture_of(model) is registered_architectures()["UNet2DModel"]


def test_unknown_models_are_told_what_is_supported():
    with pytest.raises(
        UnknownArchitectureError, match=r"for Linear; supported are .*DiT.*UNet2DModel.*sites=.*CONTRIBUTING"
    ):
        describe(nn.Linear(1, 1))
    check_refused("Linear", describe, SimpleNamespace(unet=nn.Linear(1, 1)), error=UnknownArchitectureError)


def test_what_wraps_a_model_says_so():
    with pytest.raises(UnknownArchitectureError, match=r"DataParallel wraps a UNet2DModel: .* its \.module"):
        describe(nn.DataParallel(tiny_model("UNet2DModel")))


@pytest.mark.parametrize("thing", ["unet", None, 3, object(), SimpleNamespace(unet=None), SimpleNamespace(vae=1)])
def test_things_without_a_denoiser_are_refused(thing):
    check_refused(f"a unet or transformer, or a denoiser, got {type(thing).__name__}", describe, thing)


def test_undeclared_blocks_are_refused_by_name():
    model = UNet2DModel(
        sample_size=16, block_out_channels=(8, 8), layers_per_block=1,
        down_block_types=("SkipDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )  # fmt: skip
    check_refused(
        r"with SkipDownBlock2D is not supported.*AttnDownBlock2D", describe, model, error=UnsupportedModelError
    )


@pytest.mark.parametrize("options", [
    {"mid_block_type": None},
    {"add_attention": False},
    {"downsample_type": "resnet", "upsample_type": "resnet"},
    {"layers_per_block": 2},
    {"resnet_time_scale_shift": "scale_shift"},
    {"num_class_embeds": 10},
    {"sample_size": (16, 32)},
], ids=lambda options: next(iter(options)))  # fmt: skip
def test_u_nets_of_other_configurations_match_the_probe(options):
    from stepmask.inspection.registry import architecture_of

    config = {
        "sample_size": 16, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8, "norm_num_groups": 4,
    }  # fmt: skip
    model = UNet2DModel(**{**config, **options})
    graph = describe(model)
    assert architecture_of(model).trace(model, graph.innermost.sites[::-1]) == graph, "in the order in which they run"


def test_the_u_net_graph_by_hand():
    """The decoder also reads the encoder; levels count from full resolution."""
    nested = describe(tiny_model("UNet2DModel"))
    graph = nested.innermost
    index = {name: i for i, name in enumerate(graph.names)}

    def readers(name: str) -> set[str]:
        return {"OUT" if i == OUT else graph.names[i] for i in graph.readers(index[name])}

    assert readers("down_blocks.0.resnets.0") == {"down_blocks.0.downsamplers.0", "up_blocks.2.resnets.0"}
    assert readers("mid_block.resnets.1") == {"up_blocks.0.resnets.0"}
    assert readers("up_blocks.2.resnets.1") == {"OUT"}
    depth = {site.name: site.depth for site in graph.sites}
    assert (depth["down_blocks.0.resnets.0"], depth["mid_block.resnets.0"], depth["up_blocks.2.resnets.0"]) == (0, 2, 0)
    assert graph.depends_on_step(index["up_blocks.2.resnets.0"])
    assert not graph.depends_on_step(index["up_blocks.0.upsamplers.0"])
    assert set(graph.blocks) == {i for i, site in enumerate(graph.sites) if "sampler" not in site.name}
    of_block = {nested.names[i] for i in nested.readers(nested.names.index("down_blocks.0"))}
    assert of_block == {"down_blocks.1.resnets.0", "up_blocks.1.resnets.1", "up_blocks.2.resnets.0"}
    assert nested.readers(len(nested) - 1) == (OUT,) and nested.names[-1] == "up_blocks"
    assert {site.name: site.depth for site in nested.sites}["up_blocks.1"] == 1


def test_families_are_found_lazily(monkeypatch):
    """Registering imports no model class of diffusers."""
    import subprocess

    code = (
        "import sys; from stepmask.architectures import registered_architectures; registered_architectures(); "
        "print('diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_pipeline_that_calls_its_denoiser_something_else():
    """As Stable Cascade does; UnCLIP, whose schedulers are several, is refused by the names of its parts."""
    pipe = SimpleNamespace(decoder=nn.Linear(1, 1), scheduler=None)
    assert denoiser_of(pipe) is pipe.decoder
    of_diffusers = SimpleNamespace(transformer=nn.Linear(1, 1), first_scheduler=None, register_modules=None)
    check_refused("SimpleNamespace has no scheduler, and a mask follows", denoiser_of, of_diffusers)
    several = SimpleNamespace(decoder=nn.Linear(1, 1), decoder_scheduler=None)
    check_refused(r"got SimpleNamespace with decoder \(Linear\): give the denoiser alone", denoiser_of, several)
