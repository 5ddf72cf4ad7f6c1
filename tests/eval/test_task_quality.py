"""Quality of answers: exact match and ROUGE against values worked out by hand."""

import pytest
from specrt.eval.prompts import Prompt
from specrt.eval.task_quality import exact_match, quality_table, rouge, task_quality


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("SELECT a FROM t", 1.0),
        ("  select  a\nfrom T ; ", 1.0),
        ("SELECT b FROM t", 0.0),
        ("SELECT a FROM t WHERE a > 1", 0.0),
        ("", 0.0),
    ],
)
def test_queries_match_but_for_case_and_spaces(answer: str, expected: float) -> None:
    assert exact_match(answer, ["SELECT a FROM t", "SELECT x FROM u;"]) == expected


def test_rouge_of_the_reference_that_fits_best() -> None:
    # Three of four words of the answer are among the five of the first reference: F = 2 * 3 / 9.
    scores = rouge("the cat sat down", ["the cat sat on mats", "no words in common"])
    assert scores["ROUGE-1"] == pytest.approx(6 / 9)
    assert scores["ROUGE-Lsum"] == pytest.approx(6 / 9)
    # Order counts for the longest common subsequence alone: "a" or "b" is left of the pair.
    swapped = rouge("beta alpha", ["alpha beta"])
    assert swapped["ROUGE-1"] == 1.0
    assert swapped["ROUGE-Lsum"] == pytest.approx(0.5)


def test_scores_are_means_of_tasks_in_percent() -> None:
    query = Prompt("?", category="wikisql", file="wikisql", references=("SELECT 1",))
    text = Prompt("!", category="e2e_nlg", file="e2e_nlg", references=("one two", "three"))
    scored = task_quality([query, text, query], ["select 1;", "three", "SELECT 2"])
    assert [(one.task, one.answers) for one in scored] == [("wikisql", 2), ("e2e_nlg", 1)]
    assert scored[0].scores == {"exact match": 50.0}
    assert scored[1].scores == {"ROUGE-1": 100.0, "ROUGE-Lsum": 100.0}
    table = quality_table({"base": scored, "shared": scored})
    assert table[2:] == [
        "| wikisql (2) | exact match | 50.0 | 50.0 |",
        "| e2e_nlg (1) | ROUGE-1 | 100.0 | 100.0 |",
        "| e2e_nlg (1) | ROUGE-Lsum | 100.0 | 100.0 |",
    ]


def test_a_prompt_without_a_reference_is_named() -> None:
    with pytest.raises(ValueError, match="mt_bench: row 3 has no reference"):
        task_quality([Prompt("?", file="mt_bench", index=3)], ["x"])
