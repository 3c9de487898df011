"""The notebook as it is stored."""

from tests.notebook import ENDS, code_cells, source


def test_the_notebook_is_stored_without_what_it_printed() -> None:
    assert [cell for cell in code_cells() if cell["outputs"] or cell["execution_count"] is not None] == []


def test_all_but_the_cell_that_ends_the_cluster_are_run_by_a_test() -> None:
    (last,) = [cell for cell in code_cells() if ENDS in cell["metadata"].get("tags", ())]

    assert last == code_cells()[-1]
    assert "end_cluster()" in "".join(last["source"])
    assert "end_cluster" not in source()
