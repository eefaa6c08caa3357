"""The names and the forms of what ``encode_prompt`` returns."""

from __future__ import annotations

import sys

import pytest
import torch

from omni_rl.errors import ModelError
from omni_rl.universal.embedding_rows import (
    Forms,
    as_returned,
    by_width,
    find_forms,
    mask_of,
    one_by_one,
    text_rows,
    to_rows,
)
from omni_rl.universal.prompt_outputs import assigned_names, return_names

# ------------------------------------------------------------------------------------------------------------- names


def _caller() -> tuple[str, ...]:
    frame = sys._getframe(1)
    return assigned_names(frame.f_code, frame.f_lineno)


def test_names_are_those_of_the_assignment():
    one = _caller()
    assert one == ("one",)
    (first, second) = _caller()
    assert (first, second) == ("first", "second")


def test_no_assignment_no_names():
    kept = {}
    kept["names"] = _caller()
    assert kept["names"] == _caller() == ()


def test_code_without_source_gives_no_names():
    code = compile("x = 1", "nowhere.py", "exec")
    assert assigned_names(code, 1) == ()


def _plain(prompt_embeds, mask):
    return prompt_embeds, mask


def _dressed(prompt_embeds, mask, guided):
    return prompt_embeds.to("cpu"), mask if guided else None


def _nameless(values):
    return tuple(values)


def test_names_of_a_return_statement():
    assert return_names(_plain) == ("prompt_embeds", "mask")
    assert return_names(_dressed) == ("prompt_embeds", "mask")
    with pytest.raises(ModelError, match="_nameless does not return plain names"):
        return_names(_nameless)


def test_a_function_without_source():
    space: dict[str, object] = {}
    exec(compile("def encode(x): return x", "nowhere.py", "exec"), space)
    with pytest.raises(ModelError, match="encode has no source that tells its outputs' names"):
        return_names(space["encode"])


# ------------------------------------------------------------------------------------------------------------- forms


def _embeddings(*lengths: int, width: int | None = None) -> torch.Tensor:
    """(B, L, 2) of distinct numbers."""
    rows, columns = len(lengths), width or max(lengths)
    return torch.arange(1.0, rows * columns * 2 + 1).view(rows, columns, 2)


def _mask(*lengths: int) -> torch.Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


ONE = {
    "fixed_width": _embeddings(3, width=8),
    "prompt_embeds": _embeddings(3),
    "negative_prompt_embeds": _embeddings(3),
    "negative_prompt_attention_mask": _mask(3),
    "layers": _embeddings(3, width=8)[None].expand(4, -1, -1, -1),
    "each": [_embeddings(3)[0]],
    "cu_seqlens": torch.tensor([0, 3], dtype=torch.int32),
    "text_ids": torch.zeros(8, 3),
    "nothing": None,
}
TWO = {
    "fixed_width": _embeddings(3, 5, width=8),
    "prompt_embeds": _embeddings(3, 5),
    "negative_prompt_embeds": _embeddings(3, 5),
    "negative_prompt_attention_mask": _mask(3, 5),
    "layers": _embeddings(3, 5, width=8)[None].expand(4, -1, -1, -1),
    "each": [_embeddings(3)[0], _embeddings(5)[0]],
    "cu_seqlens": torch.tensor([0, 3, 8], dtype=torch.int32),
    "text_ids": torch.zeros(8, 3),
    "nothing": None,
}


def test_forms_are_read_off_one_text_and_two():
    assert find_forms(ONE, TWO).kinds == {
        "fixed_width": "rows",
        "prompt_embeds": "width",  # the mask beside it belongs to the negative prompts
        "negative_prompt_embeds": "rows",
        "negative_prompt_attention_mask": "rows",
        "layers": "second",
        "each": "list",
        "cu_seqlens": "ends",
        "text_ids": "fixed",
        "nothing": "rows",
    }


def test_embeddings_without_a_mask_are_made_one_by_one():
    assert find_forms(ONE, TWO).one_by_one
    assert not Forms({"prompt_embeds": "rows", "each": "list"}).one_by_one


def test_the_dtype_of_a_mask_is_that_of_padded_texts():
    """The mask of one text may be None; when its row joins a batch it gets the dtype that the pipeline takes."""
    one = {"prompt_embeds": _embeddings(3), "prompt_embeds_mask": None}
    two = {"prompt_embeds": _embeddings(3, 5), "prompt_embeds_mask": _mask(3, 5).bool()}
    assert find_forms(one, two).masks == {"prompt_embeds_mask": torch.bool}


@pytest.mark.parametrize("name", ["fixed_width", "negative_prompt_embeds", "layers", "each", "cu_seqlens"])
def test_rows_go_back_as_they_came(name):
    rows = to_rows(name, [TWO[name]], find_forms(ONE, TWO).kinds[name])
    assert {len(value) for value in rows.values()} == {2}
    returned = as_returned(rows)
    assert list(returned) == [name]
    _assert_equal(returned[name], TWO[name])
    turned = as_returned({n: value[[1, 0, 1]] for n, value in rows.items()})[name]
    assert len(turned) == {"layers": 4, "cu_seqlens": 4}.get(name, 3)


def _assert_equal(found, expected):
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)
    else:
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


def test_widths_go_back_in_groups():
    short, long, other = _embeddings(3), _embeddings(5), _embeddings(3) + 100
    rows = to_rows("prompt_embeds", [short, long, other], "width")
    assert rows["prompt_embeds"].shape == (3, 5, 2)
    assert one_by_one(rows)
    groups = by_width(rows, 3)
    assert sorted(group.tolist() for group in groups) == [[0, 2], [1]]
    back = as_returned({n: v[[0, 2]] for n, v in rows.items()})
    assert torch.equal(back["prompt_embeds"], torch.cat([short, other]))
    assert torch.equal(as_returned({n: v[1:2] for n, v in rows.items()})["prompt_embeds"], long)
    assert torch.equal(mask_of("prompt_embeds", rows), _mask(3, 5, 3)[:, :5])


def test_rows_without_widths_share_a_call():
    (group,) = by_width({"prompt_embeds": _embeddings(3, 5)}, 2)
    assert group.tolist() == [0, 1]


def test_texts_go_back_letter_by_letter():
    texts = ["a sign", "", "ein Schild für 7 €"]
    rows = text_rows("prompt", texts)
    assert as_returned(rows) == {"prompt": texts}
    assert as_returned({n: v[2:] for n, v in rows.items()}) == {"prompt": texts[2:]}
