from helpers.peer_measurements import table


def test_the_table_has_the_largest_error_of_each_check_and_model():
    lines = table(
        [
            ("qwen3", "logits", 2e-7, 1e-5),
            ("qwen3", "logits", 4e-7, 1e-5),
            ("llama2", "logits", 3e-5, 1e-5),
            ("qwen3", "beams", 0.0, 1e-4),
        ]
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [
        ["check", "llama2", "qwen3", "tolerance"],
        ["---", "---", "---", "---"],
        ["beams", "", "0", "1.0e-04"],
        ["logits", "**3.0e-05**", "4.0e-07", "1.0e-05"],
    ]


def test_what_exceeds_its_tolerance_fails_and_is_in_the_table(measured, request):
    note = ("qwen3", "noted by a test of the table", 2.0, 1.0)
    try:
        measured(*note)
    except AssertionError:
        assert request.node.user_properties.pop() == ("parity", note)
    else:
        raise AssertionError("no error was raised")
