"""After `pytest --nbval notebooks`: the seconds of each notebook, its kernel too."""

from collections import defaultdict

SECONDS = defaultdict(float)


def pytest_runtest_logreport(report):
    if ".ipynb" in report.nodeid:
        SECONDS[report.nodeid.split("::")[0]] += report.duration


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("seconds of each notebook")
    for name, seconds in sorted(SECONDS.items()):
        terminalreporter.write_line(f"{seconds:6.0f}  {name}")
    terminalreporter.write_line(f"{sum(SECONDS.values()):6.0f}  all")
