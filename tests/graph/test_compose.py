"""Two plans in turn equal their composition."""

import copy

import pytest
import torch

from bnnkit.errors import StructureError
from bnnkit.graph.analyse import analyse
from bnnkit.graph.compose import compose
from bnnkit.graph.rebuild import make_plan, make_slim, rebuild
from bnnkit.spec import ClassPlan, ModelSpec, Plan
from bnnkit.zoo import ZOO


@pytest.mark.parametrize(
    ("name", "form"), [("digits-cnn", "modules"), ("resnet20-cifar", "graph")]
)
def test_pruning_twice_equals_the_composed_plan(name, form):
    shape = (1, 8, 8) if name == "digits-cnn" else (3, 32, 32)
    spec = ModelSpec(arch=f"bnnkit:{name}", input_shape=shape)
    torch.manual_seed(0)
    model, plan = ZOO[name]().eval(), None
    fresh = copy.deepcopy(model)
    for seed in (0, 1):
        structure = analyse(model, torch.zeros(2, *shape))
        score = torch.rand(structure.n_units, generator=torch.Generator().manual_seed(seed))
        keep, _ = structure.ensure_alive(score < 0.7, score)
        ones = torch.ones(structure.n_units)
        plan = compose(plan, make_plan(structure, keep, ones, spec, form=form, method="random"))
        model = make_slim(model, structure, keep, ones, form=form)
    again = rebuild(fresh, Plan.from_json(plan.to_json())).eval()
    x = torch.randn(3, *shape)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model.eval()(x))


def test_a_plan_for_other_widths_is_refused():
    first = Plan(
        ModelSpec(), classes=(ClassPlan("a", 8, (0, 1, 5)),), slices={"a": {0: (0, 1, 5)}}
    )
    with pytest.raises(StructureError, match="left 3"):
        compose(first, Plan(ModelSpec(), classes=(ClassPlan("a", 8, (0,)),)))
    with pytest.raises(StructureError, match="index 3"):
        compose(first, Plan(ModelSpec(), slices={"a": {0: (0, 3)}}))
