"""stepmask gallery: one page on many masks."""

import json

from command_line import words
from stepmask import Recipe, StepMask
from stepmask.frontier import WAYS, Frontier, Point


def test_a_gallery_of_a_folder(mask_file, run, tmp_path):
    mask = StepMask.load(mask_file)
    registry = tmp_path / "registry"
    mask.save_pretrained(registry / "me" / "half")
    content = mask.to_dict()
    content["provenance"] = content.get("provenance", {}) | {"method": "<script>alert(1)</script>"}
    (registry / "me" / "bad").mkdir()
    (registry / "me" / "bad" / "mask.json").write_text(json.dumps(content))
    Frontier((Point(WAYS[0], 2, 2, 20.0, 1.0, 4, Recipe(num_inference_steps=2)),)).save_pretrained(
        registry / "me" / "few"
    )
    said = run("gallery", registry, "-o", tmp_path / "page").stdout
    text = (tmp_path / "page" / "index.html").read_text()
    assert "3 shown" in said and text.count('<section class="card">') == 3
    assert "2 to 2 evaluations" in text and "at=2)" in text
    assert "<script>alert" not in text and 'src="http' not in text
    assert "No such file" in words(run("gallery", tmp_path / "none", "-o", tmp_path / "x", code=2))
