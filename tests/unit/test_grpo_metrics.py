"""What a stage of GRPO says about its steps."""

from rubrica.recipes.grpo import malformed_warning


def test_a_stage_without_one_attempt_is_warned_about_with_its_reasons():
    cut = {"reward": -2.5, "malformed/share": 1.0, "malformed/truncated": 1.0}
    bare = {"reward": -2.5, "malformed/share": 1.0, "malformed/no_open_tag": 0.5, "malformed/truncated": 0.5}
    # truncated: (1 + 0.5) / 2 = 75 %; no open tag: 0.5 / 2 = 25 %
    warning = malformed_warning([cut, bare])
    assert warning is not None
    assert "every completion was malformed (truncated 75%, no open tag 25%)" in warning
    assert malformed_warning([cut, {"malformed/share": 0.9}]) is None
    assert malformed_warning([{"loss": 0.1}]) is None
