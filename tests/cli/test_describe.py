"""What describe prints: presets, other sites, tables of many sites."""

import pytest

from stepmask import presets
from stepmask.cli._site_tables import amount, groups, mib, spanned
from stepmask.graph import Site


def words(result) -> str:
    """Without the lines of tables."""
    return " ".join(result.output.replace("│", " ").split())


def test_preset(run):
    text = words(run("describe", "preset:dit-xl-2-256"))
    assert "transformer_blocks.0-27.attn1 attention 28 1.27% 35.6%" in text and "--all" in text
    assert "MACs 118.67 G 114.44 G" in text
    assert "covered by the innermost sites that masks decide on 99.8% 99.7%" in text
    assert "covered with all that contains them 100.0% 100.0%" in text
    assert "most speed-up, of a step that computes no site 6438 times 6209 times" in text
    assert "56 innermost sites, 56 of them decided by masks, within 28 blocks and 1 list of blocks;" in text
    assert "749.83 M parameters" in text and "one value for all blocks together: 0.562 MiB per image" in text
    assert "cache if everything is kept, in float16: 31.5 MiB per image, 63 MiB with guidance" in text
    assert "published with 250 steps of DDPM, guidance 1.5 weights: facebook/DiT-XL-2-256" in text


def test_all_gives_each_site_a_row(run):
    text = words(run("describe", "preset:dit-xl-2-256", "--all"))
    assert "0 transformer_blocks.0.attn1 attention 1-2 1.3%" in text and "2 transformer_blocks.0 block 3-5 0.0%" in text
    assert "82 transformer_blocks.27.ff mlp 83 2.3%" in text and "84 transformer_blocks stack output 0.0%" in text


def test_unconditional_u_net(run):
    text = words(run("describe", "preset:ddpm-cifar10-32"))
    assert "0 down_blocks.0.resnets.0 resnet 0 1, 3 4.9%" in text
    assert "masks decide on 85.8% 85.4% covered with all that contains them 99.9% 99.9%" in text
    assert "2.72 MiB per image; samplers would add 0.758 MiB" in text and "with guidance" not in text
    assert text.index("3 down_blocks.0 block") < text.index("0 down_blocks.0.resnets.0"), "what contains it is above it"


def test_folder_of_a_pipeline(run, folder, dit_folder):
    text = words(run("describe", folder))
    assert "UNet2DModel in a DDIMPipeline" in text and "scheduler DDIMScheduler" in text
    assert "conv + linear" in text and "M parameters" in text and "with guidance" not in text
    plain, guided = (words(run("describe", dit_folder, "--guidance-scale", scale)) for scale in (1, 4))
    assert "per image and step, 2 forwards because of guidance" in guided and "forwards" not in plain
    cache = guided.partition("in float16: ")[2]
    assert cache == plain.partition("in float16: ")[2] and "with guidance" in cache


def test_other_sites(run, folder):
    text = words(run("describe", "preset:ldm4-imagenet-256", "--sites", "**.attn2", "--sites", "**.ff"))
    assert "32 innermost sites, 32 of them decided by masks" in text
    assert "cross_attention" in text and "resnet" not in text
    assert "MACs 104.23 G 99.77 G" in text, "one token, whatever the sites"
    assert "down_blocks.*" in words(run("describe", folder, "--sites", "nope.*", code=2))
    assert "lies within" in words(run("describe", folder, "--sites", "mid_block.**", code=2))


def test_errors_of_presets(run, mask_file):
    text = words(run("describe", "preset:nope", code=2))
    assert "no preset 'nope'; there are" in text and all(name in text for name in presets.names())
    assert "no preset 'nope'" in words(run("evaluate", "preset:nope", "-m", mask_file, code=2))
    assert "leave --guidance-scale out" in words(run("describe", "preset:sdxl", "--guidance-scale", 5, code=2))


@pytest.mark.parametrize("verb", ["learn", "sample", "evaluate"])
def test_a_preset_cannot_compute(verb, run, mask_file, tmp_path):
    name, out = "preset:dit-xl-2-256", ["-o", tmp_path / "out" / "x"]
    options = {"learn": [name, *out], "sample": [name, "-m", mask_file, *out], "evaluate": [name, "-m", mask_file]}
    text = words(run(verb, *options.get(verb, ["--model", name, *out]), code=2))
    assert f"{name} has no weights and makes no images" in text and "give facebook/DiT-XL-2-256" in text


def test_grouping():
    sites = [Site(name, "mlp") for name in ("a.0.b.0.ff", "a.0.b.1.ff", "a.1.b.0.ff", "out", "a.0.b.3.ff")]
    assert groups(sites, [1, 1, 1, 1, 1]) == [[0, 1, 4], [2], [3]]
    assert groups(sites, [1, 2, 1, 1, 1]) == [[0, 4], [1], [2], [3]]
    assert spanned(["a.0.b.0.ff", "a.0.b.1.ff", "a.0.b.3.ff"]) == "a.0.b.0-1,3.ff" and spanned(["out"]) == "out"


def test_units():
    assert [amount(x) for x in (3e5, 4.9278e8, 118.667e9, 4.4522e12)] == ["0.3 M", "492.78 M", "118.67 G", "4.4522 T"]
    assert [mib(x * 2**20) for x in (0.328, 31.5, 8638)] == ["0.328 MiB", "31.5 MiB", "8638 MiB"]
