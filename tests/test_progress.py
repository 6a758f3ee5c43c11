"""Without a terminal a bar writes whole lines, few of them."""

from s4s_nb.progress import bar


def test_a_log_gets_lines_at_the_start_and_the_end(capsys):
    assert sum(bar(range(1000), desc="steps")) == 499_500
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert "\r" not in written and 1 <= len(lines) <= 4
    assert all(line.startswith("steps:") for line in lines) and "1000/1000" in lines[-1]


def test_a_disabled_bar_is_silent(capsys):
    assert list(bar(range(3), disable=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
