"""Importing stepmask is quick, and nothing that it imports touches an accelerator."""

import subprocess
import sys

import stepmask


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_neither_torch_nor_diffusers():
    heavy = "{'torch', 'diffusers', 'accelerate', 'matplotlib', 'PIL', 'rich', 'typer'}"
    assert run(f"import sys, stepmask; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_mask_graph_and_plan_need_no_torch():
    code = "import sys; from stepmask import StepMask, BlockGraph, make_plan, CostTable; print('torch' in sys.modules)"
    assert run(code) == "False"


def test_everything_public_imports_without_touching_a_device():
    code = (
        "import stepmask, torch; [getattr(stepmask, name) for name in stepmask.__all__]; "
        "print(torch.cuda.is_initialized())"
    )
    assert run(code) == "False"


def test_dir_lists_the_public_names():
    assert set(stepmask.__all__) <= set(dir(stepmask))


def test_unknown_name_is_an_attribute_error():
    assert not hasattr(stepmask, "no_such_name")
