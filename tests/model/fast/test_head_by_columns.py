"""The head's matrix in another layout: the same scores, and the very same tensor afterwards."""

import pytest
import torch

from clbench.model.fast.head_by_columns import head_by_columns


@pytest.mark.parametrize("make", ["make_learner", "make_decoder"])
def test_scores_are_the_same_and_the_tensor_is_put_back_even_after_an_error(make, request):
    model = request.getfixturevalue(make)().model
    head = model.get_output_embeddings()
    place, states = head.weight.data_ptr(), torch.randn(3, head.in_features)
    with torch.no_grad():
        expected = head(states)
        with head_by_columns(model):
            assert head.weight.stride() == (1, head.out_features)
            assert torch.allclose(head(states), expected, atol=1e-6)
    with pytest.raises(RuntimeError), head_by_columns(model):
        raise RuntimeError
    assert head.weight.data_ptr() == place
    assert head.weight.is_contiguous()


def test_a_head_with_lora_stays(make_decoder):
    model = make_decoder(lora_targets="q_proj,lm_head").model
    before = [parameter.stride() for parameter in model.parameters()]
    with head_by_columns(model):
        assert [parameter.stride() for parameter in model.parameters()] == before
